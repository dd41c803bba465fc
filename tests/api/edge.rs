//! Where HTTP itself goes wrong: paths, methods, connections that stall, callers who hang up.

use std::time::{Duration, Instant};

use axum::body::Body;
use futures_util::{StreamExt, stream};
use http::Method;
use notification_ledger::api::Limits;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::fixture::{Fixture, LIMITS, minimal};

const NOTIFICATIONS: &str = "/v1/notifications";

#[tokio::test]
async fn a_path_that_is_not_there_is_a_problem() {
    let f = Fixture::new().await;
    let id = f.requested().await;
    for path in [
        "/",
        "/v1",
        "/v2/notifications",
        "/v1/notifications/",
        "/docs/no-such-file",
        "/docs/../Cargo.toml",
        "/%ff",
        "/v1/tenants/%ff",
        "/v1/webhook-sources/%ff",
        "/webhooks/novu/%ff",
        &format!("/v1/notifications/{id}/renamed"),
        &format!("/v1/notifications/{id}/sent/"),
    ] {
        for method in [Method::GET, Method::POST] {
            let refused = f.call(method, path).send().await;
            if refused.status.as_u16() != 405 {
                refused.problem(404, "not_found");
            }
        }
    }
}

#[tokio::test]
async fn another_method_says_which_ones_there_are() {
    let f = Fixture::new().await;
    let id = f.requested().await;
    for (path, method, allow) in [
        (NOTIFICATIONS.to_owned(), Method::PUT, "POST,GET,HEAD"),
        (format!("{NOTIFICATIONS}/{id}"), Method::DELETE, "GET,HEAD"),
        (format!("{NOTIFICATIONS}/{id}/sent"), Method::GET, "POST"),
        ("/v1/keys".to_owned(), Method::DELETE, "POST,GET,HEAD"),
        ("/healthz".to_owned(), Method::POST, "GET,HEAD"),
        ("/docs".to_owned(), Method::POST, "GET,HEAD"),
    ] {
        let refused = f.call(method, &path).send().await;
        refused.problem(405, "method_not_allowed");
        assert_eq!(refused.header("allow"), Some(allow), "{path}");
        let options = f.call(Method::OPTIONS, &path).without_key().send().await;
        assert_eq!(options.status.as_u16(), 204);
        assert_eq!(
            (options.header("allow"), options.text().as_str()),
            (Some(allow), "")
        );
        assert_eq!(options.header("access-control-allow-origin"), None);
    }
    let odd = Method::from_bytes(b"PURGE").unwrap();
    f.call(odd, NOTIFICATIONS)
        .send()
        .await
        .problem(405, "method_not_allowed");
}

#[tokio::test]
async fn a_head_is_a_get_without_its_body() {
    let f = Fixture::new().await;
    let path = format!("{NOTIFICATIONS}/{}", f.requested().await);
    for path in [
        path.as_str(),
        "/v1/events",
        "/healthz",
        "/openapi.json",
        "/docs",
    ] {
        let get = f.get(path).send().await;
        let head = f.call(Method::HEAD, path).send().await;

        assert_eq!(
            (head.status, head.text().as_str()),
            (get.status, ""),
            "{path}"
        );
        for name in ["content-type", "etag", "ledger-position"] {
            assert_eq!(head.header(name), get.header(name), "{path} {name}");
        }
    }
}

#[tokio::test]
async fn a_body_that_pauses_or_never_ends_is_not_waited_for() {
    let limits = Limits {
        body_timeout: Duration::from_millis(100),
        request_timeout: Duration::from_millis(400),
        ..LIMITS
    };
    let f = Fixture::with(limits).await;
    let begun = Instant::now();
    let paused = stream::iter(["{\"workflow"].map(Ok::<_, std::convert::Infallible>));
    let paused = Body::from_stream(paused.chain(stream::pending()));
    // Never a pause, and never an end.
    let dripping = stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Some((Ok::<_, std::convert::Infallible>(" "), ()))
    });

    for path in [NOTIFICATIONS, "/v1/commands"] {
        let body = Body::from_stream(stream::pending::<Result<&str, std::convert::Infallible>>());
        f.post_text(path, body)
            .send()
            .await
            .problem(408, "request_timeout");
    }
    f.post_text(NOTIFICATIONS, paused)
        .send()
        .await
        .problem(408, "request_timeout");
    let dripping = Body::from_stream(dripping);
    f.post_text(NOTIFICATIONS, dripping)
        .send()
        .await
        .problem(408, "request_timeout");
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(f.events().await, 0);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_all_the_same() {
    let limits = Limits {
        request_timeout: Duration::from_millis(200),
        ..LIMITS
    };
    let f = Fixture::with(limits).await;

    // The one read that waits by itself.
    let refused = f
        .get("/v1/events")
        .header("ledger-min-position", "3-9")
        .send()
        .await;

    let problem = refused.problem(503, "overloaded");
    assert!(
        problem["detail"].as_str().unwrap().contains("too long"),
        "{problem}"
    );
}

#[tokio::test]
async fn a_stream_may_take_longer_than_a_request() {
    let limits = Limits {
        request_timeout: Duration::from_millis(100),
        ..LIMITS
    };
    let f = Fixture::with(limits).await;
    let mut line = minimal();
    line["type"] = json!("request");
    let lines = stream::iter(0..4).then(move |_| {
        let line = format!("{line}\n");
        async move {
            tokio::time::sleep(Duration::from_millis(60)).await;
            Ok::<_, std::convert::Infallible>(line)
        }
    });

    let answer = f.post_lines(Body::from_stream(lines)).send().await;

    assert_eq!(answer.lines().len(), 4, "{}", answer.text());
}

/// A service on a port of its own, for as long as it is kept.
struct Served {
    address: std::net::SocketAddr,
    _running: JoinSet<()>,
}

async fn serve(f: &Fixture) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = f.router.clone();
    let mut running = JoinSet::new();
    running.spawn(async move { axum::serve(listener, router).await.unwrap() });
    Served {
        address,
        _running: running,
    }
}

/// Sends all of `body` before it reads anything, as most callers do.
async fn send_then_read(served: &Served, head: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    for piece in body.chunks(16 * 1024) {
        stream.write_all(piece).await.unwrap();
    }
    let mut answer = vec![0; 4096];
    let bytes = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..bytes]).into_owned()
}

#[tokio::test]
async fn a_refusal_reaches_a_caller_who_is_still_sending() {
    let f = Fixture::new().await;
    let served = serve(&f).await;
    let body = vec![b'x'; 12 * 1024 * 1024];
    let head = |path: &str, key: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             authorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
    };

    for (path, key, status) in [
        (NOTIFICATIONS, f.acme.as_str(), "413"),
        (NOTIFICATIONS, f.reader.as_str(), "403"),
        (NOTIFICATIONS, "nobody", "401"),
        ("/nowhere", "nobody", "404"),
        ("/healthz", "nobody", "405"),
    ] {
        let answer = send_then_read(&served, &head(path, key), &body).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path} {answer}"
        );
    }
}

#[tokio::test]
async fn a_caller_who_asks_first_need_not_send_what_is_refused() {
    let f = Fixture::new().await;
    let served = serve(&f).await;
    let head = format!(
        "POST {NOTIFICATIONS} HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n\
         content-type: application/json\r\nauthorization: Bearer {}\r\n\
         content-length: 99999999\r\n\r\n",
        f.acme
    );
    let begun = Instant::now();

    let answer = send_then_read(&served, &head, b"").await;

    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_body_that_is_shorter_than_it_said_changes_nothing() {
    let f = Fixture::new().await;
    let served = serve(&f).await;
    let head = format!(
        "POST {NOTIFICATIONS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         authorization: Bearer {}\r\ncontent-length: 1000\r\n\r\n{}",
        f.acme,
        minimal()
    );
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stream);

    let mut alive = TcpStream::connect(served.address).await.unwrap();
    alive
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    alive.read_to_string(&mut answer).await.unwrap();

    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(f.events().await, 0);
}

#[tokio::test]
async fn the_service_says_how_it_is() {
    let f = Fixture::new().await;
    let health = f.get("/healthz").without_key().send().await;
    assert_eq!(health.expect(200), json!({"status": "alive"}));
    let ready = f.get("/readyz").without_key().send().await;
    assert_eq!(ready.expect(200), json!({"status": "ready"}));
    let metrics = f.get("/metrics").without_key().send().await;
    assert!(
        metrics.text().contains("ledger_http_requests_total{"),
        "{}",
        metrics.text()
    );

    f.state.readiness.begin_shutdown();

    let leaving = f.get("/readyz").without_key().send().await;
    assert_eq!(leaving.expect(503)["reason"], "shutting down");
    assert_eq!(leaving.header("retry-after"), Some("1"));
    f.get("/healthz").without_key().send().await.expect(200);
}

#[tokio::test]
async fn a_database_that_is_gone_is_503_and_worth_another_try() {
    let f = Fixture::new().await;
    let path = format!("{NOTIFICATIONS}/{}", f.requested().await);
    f.state.database.close().await;

    f.get(&path).send().await.problem(503, "unavailable");
    f.post("/v1/keys", &json!({}))
        .send()
        .await
        .problem(503, "unavailable");
    let ready = f.get("/readyz").without_key().send().await;
    assert_eq!(ready.expect(503)["status"], "not_ready");
}
