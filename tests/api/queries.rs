//! Questions that can't be meant: refused, with what is wrong and what would be right.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::fixture::{Fixture, Reply, minimal};
use crate::on_both_databases;

on_both_databases!(
    unknown_parameters_are_refused_with_the_known_ones,
    a_fault_is_said_in_the_same_words_everywhere,
    unknown_words_are_refused_with_the_known_ones,
    a_parameter_that_is_given_is_not_nothing,
    moments_and_ranges_that_can_not_be_are_refused,
    too_many_points_are_refused_with_how_many,
    cursors_are_taken_where_they_were_given_only,
);

const LISTS: [(&str, &[&str]); 8] = [
    (
        "/v1/notifications",
        &[
            "status",
            "workflow_id",
            "subscriber_id",
            "category",
            "external_id",
            "metadata",
            "from",
            "to",
            "limit",
            "cursor",
        ],
    ),
    (
        "/v1/notification-logs",
        &[
            "status",
            "channel",
            "workflow_id",
            "step_id",
            "subscriber_id",
            "provider_id",
            "external_id",
            "transaction_id",
            "error_code",
            "audience",
            "from",
            "to",
            "limit",
            "cursor",
        ],
    ),
    (
        "/v1/timeline",
        &[
            "subscriber_id",
            "notification_id",
            "from",
            "to",
            "order",
            "as_of",
            "limit",
            "cursor",
        ],
    ),
    (
        "/v1/events",
        &[
            "after",
            "types",
            "subscriber_id",
            "from",
            "to",
            "limit",
            "cursor",
        ],
    ),
    ("/v1/tenants", &["limit", "cursor"]),
    ("/v1/keys", &["limit", "cursor"]),
    ("/v1/webhook-sources", &["limit", "cursor"]),
    ("/v1/webhook-quarantine", &["limit", "cursor"]),
];

/// By whoever may ask.
async fn ask(f: &Fixture, path: &str) -> Reply {
    let is_operators = path.starts_with("/v1/tenants") || path.starts_with("/v1/admin");
    let key = if is_operators { &f.operator } else { &f.acme };
    f.get(path).key(key).send().await
}

#[track_caller]
fn assert_refused(refused: &Reply, pointer: &str, words: &[&str], asked: &str) {
    assert_eq!(refused.pointers(), [pointer], "{asked}");
    let detail = refused.json()["detail"].to_string();
    for word in words {
        assert!(
            detail.contains(word),
            "{asked}: `{word}` is not in {detail}"
        );
    }
}

async fn unknown_parameters_are_refused_with_the_known_ones(f: &Fixture) {
    let id = f.requested().await;
    let one = format!("/v1/notifications/{id}");
    let history = format!("{one}/events");
    let mut all = LISTS.to_vec();
    all.extend([
        ("/v1/metrics", &["from", "to", "interval", "group_by"][..]),
        (&one, &["as_of"]),
        (&history, &["as_of"]),
    ]);
    for (path, known) in all {
        for query in ["colour=red", "Limit=1", "colour"] {
            let path = format!("{path}?{query}");
            let refused = ask(f, &path).await;
            let name = query.split('=').next().unwrap();
            let words = [known, &[name]].concat();
            assert_refused(&refused, "?", &words, &path);
        }
    }
}

async fn a_fault_is_said_in_the_same_words_everywhere(f: &Fixture) {
    let id = f.requested().await;
    let rebuild = "/v1/admin/projections/timeline/rebuild";
    let begun = f.call(Method::POST, rebuild).key(&f.operator).send().await;
    begun.expect(202);
    let said = async |method: &Method, path: &str| {
        let is_operators = path.starts_with("/v1/tenants") || path.starts_with("/v1/admin");
        let key = if is_operators { &f.operator } else { &f.acme };
        let refused = f.call(method.clone(), path).key(key).send().await;
        let errors = &refused.problem(422, "invalid")["errors"];
        assert_eq!(errors.as_array().unwrap().len(), 1, "{path}: {errors}");
        let part = |name: &str| errors[0][name].as_str().unwrap().to_owned();
        [part("pointer"), part("message")]
    };
    let one = format!("/v1/notifications/{id}");
    let history = format!("{one}/events");
    let (get, post) = (Method::GET, Method::POST);
    let mut all: Vec<_> = LISTS
        .map(|(path, known)| (&get, path, known.join(", ")))
        .into();
    all.extend([
        (&get, "/v1/metrics", "from, to, interval, group_by".into()),
        (&get, &one, "as_of".into()),
        (&get, &history, "as_of, limit, cursor".into()),
        (&post, rebuild, "partition".into()),
    ]);
    for (method, path, known) in all {
        let known = known.replace("metadata", "metadata[…]");
        let words = format!("`foo` is not known; known are: {known}");
        let unknown = format!("{path}?foo=1");
        assert_eq!(said(method, &unknown).await, ["?", &words], "{path}");
        let (name, value) = match known.as_str() {
            "as_of" => ("as_of", "3-1"),
            "partition" => ("partition", "3"),
            "from, to, interval, group_by" => ("interval", "day"),
            _ => ("limit", "1"),
        };
        let twice = format!("{path}?{name}={value}&{name}={value}");
        let pointer = format!("?{name}");
        assert_eq!(
            said(method, &twice).await,
            [&pointer, "appears more than once"],
            "{twice}"
        );
    }
    let delete = Method::DELETE;
    for (method, path) in [
        (&get, "/v1/admin/projections"),
        (&get, rebuild),
        (&delete, rebuild),
        (&get, "/v1/admin/ledger"),
        (&get, "/v1/tenants/acme"),
        (&get, &format!("/v1/keys/{id}")),
        (&get, &format!("/v1/webhook-sources/{id}")),
        (&get, &format!("/v1/webhook-quarantine/{id}")),
    ] {
        let words = "`foo` is not known; this call takes no parameters";
        let path = format!("{path}?foo=1");
        assert_eq!(said(method, &path).await, ["?", words], "{path}");
    }
}

async fn unknown_words_are_refused_with_the_known_ones(f: &Fixture) {
    for (path, parameter, words) in [
        (
            "/v1/notifications",
            "status",
            &[
                "requested",
                "queued",
                "sent",
                "delivered",
                "bounced",
                "failed",
                "retracted",
            ][..],
        ),
        (
            "/v1/notification-logs",
            "status",
            &["sent", "delivered", "bounced", "failed", "suppressed"],
        ),
        (
            "/v1/notifications",
            "category",
            &["transactional", "marketing", "escalation"],
        ),
        (
            "/v1/notification-logs",
            "audience",
            &["customer", "support"],
        ),
        ("/v1/timeline", "order", &["asc", "desc"]),
        ("/v1/metrics", "interval", &["minute", "hour", "day"]),
        (
            "/v1/metrics",
            "group_by",
            &["workflow_id", "channel", "provider_id"],
        ),
        (
            "/v1/events",
            "types",
            &[
                "notification.requested",
                "notification.bounced",
                "subscriber.erased",
            ],
        ),
    ] {
        for word in ["week", "Sent,", "%20"] {
            let path = format!("{path}?{parameter}={word}");
            let refused = ask(f, &path).await;
            let pointers = refused.pointers();
            assert!(
                pointers.iter().all(|at| at[1..] == *parameter),
                "{path}: {pointers:?}"
            );
            let detail = refused.text();
            for word in words {
                assert!(detail.contains(word), "{path}: `{word}` is not in {detail}");
            }
        }
    }
}

async fn a_parameter_that_is_given_is_not_nothing(f: &Fixture) {
    let id = f.requested().await;
    let one = format!("/v1/notifications/{id}");
    let history = format!("{one}/events");
    for (path, names) in LISTS {
        for name in names.iter().filter(|name| **name != "metadata") {
            let path = format!("{path}?{name}=");
            let refused = ask(f, &path).await;
            assert_refused(&refused, &format!("?{name}"), &[], &path);
        }
    }
    for (path, name) in [
        ("/v1/metrics", "from"),
        ("/v1/metrics", "to"),
        ("/v1/metrics", "interval"),
        ("/v1/metrics", "group_by"),
        (&one, "as_of"),
        (&history, "as_of"),
    ] {
        let path = format!("{path}?{name}=");
        assert_refused(&ask(f, &path).await, &format!("?{name}"), &[], &path);
    }
}

async fn moments_and_ranges_that_can_not_be_are_refused(f: &Fixture) {
    let id = f.requested().await;
    f.clock.advance(Duration::from_secs(10));
    for path in [
        "/v1/timeline".to_owned(),
        format!("/v1/notifications/{id}"),
        format!("/v1/notifications/{id}/events"),
    ] {
        for (as_of, words) in [
            ("2026-03-14T09:30:10.000001Z", "lies in the future"),
            ("2026-03-14T11:30:00%2B01:00", "lies in the future"),
            ("3-2", "lies in the future: the last position is 3-1"),
            ("3-99999999", "lies in the future: the last position is 3-1"),
            ("4-1", "another part of the ledger"),
            ("3--1", "2026-03-14T09:30:00Z"),
            ("14.03.2026", "3-1042"),
        ] {
            let path = format!("{path}?as_of={as_of}");
            assert_refused(&ask(f, &path).await, "?as_of", &[words], &path);
        }
        // This very moment has come.
        for last in ["2026-03-14T09:30:10Z", "3-1"] {
            let path = format!("{path}?as_of={last}");
            ask(f, &path).await.expect(200);
        }
    }
    for path in [
        "/v1/notifications",
        "/v1/notification-logs",
        "/v1/timeline",
        "/v1/metrics",
        "/v1/events",
    ] {
        let (early, late) = ("2026-03-14T09:29:59Z", "2026-03-14T09:30:00Z");
        let backwards = format!("{path}?from={late}&to={early}");
        assert_refused(
            &ask(f, &backwards).await,
            "?from",
            &["is later than `to`"],
            &backwards,
        );
        ask(f, &format!("{path}?from={late}&to={late}"))
            .await
            .expect(200);
        for bound in ["from", "to"] {
            let path = format!("{path}?{bound}=2026-02-30T00:00:00Z");
            assert_refused(&ask(f, &path).await, &format!("?{bound}"), &[], &path);
        }
    }
    let live = f.get("/v1/events?from=2026-03-14T09:30:00Z&to=2026-03-14T09:29:59Z");
    let refused = live.header("accept", "text/event-stream").send().await;
    assert_refused(&refused, "?from", &["is later than `to`"], "a live stream");
    let later = "/v1/metrics?from=2026-03-14T09:30:11Z";
    assert_refused(&ask(f, later).await, "?from", &["which is now"], later);
}

async fn too_many_points_are_refused_with_how_many(f: &Fixture) {
    let refused = async |query: &str, pointer: &str, words: &[&str]| {
        let path = format!("/v1/metrics?{query}");
        let asked = f.get(&path).header("ledger-min-position", "3-3");
        assert_refused(&asked.send().await, pointer, words, &path);
    };
    for number in 0..3 {
        let body = json!({"workflow_id": format!("w{number}"), "subscriber": {"id": "ada"}});
        f.post("/v1/notifications", &body).send().await.expect(201);
    }
    // To the point: 10,000 minutes are shown, one more is not.
    let from = "from=2026-03-07T10:50:00Z";
    let most = format!("/v1/metrics?interval=minute&{from}&to=2026-03-14T09:30:00Z");
    let shown = f.fresh(&most).await;
    assert_eq!(
        shown["series"][0]["points"].as_array().unwrap().len(),
        10_000
    );
    for (query, words) in [
        (
            format!("interval=minute&{from}&to=2026-03-14T09:30:01Z"),
            ["by the minute", "10001 points", "at most 10000"],
        ),
        (
            "from=1990-01-01T00:00:00Z&interval=day".to_owned(),
            ["by the day", "13222 points", "at most 10000"],
        ),
        (
            "from=2024-01-01T00:00:00Z".to_owned(),
            ["by the hour", "19282 points", "at most 10000"],
        ),
    ] {
        refused(&query, "?interval", &words).await;
    }
    // 3 groups of 4,000 minutes.
    let grouped = "interval=minute&from=2026-03-11T14:51:00Z&group_by=workflow_id";
    let words = ["3 series of 4000 points", "at most 10000"];
    refused(
        &format!("{grouped}&to=2026-03-14T09:31:00Z"),
        "?group_by",
        &words,
    )
    .await;
}

/// A cursor of each list that has more than one page.
async fn cursors(f: &Fixture) -> Vec<(String, String)> {
    for number in 0..3 {
        let id = f.requested().await;
        let sent = json!({"message": {"channel": "email"}});
        let path = format!("/v1/notifications/{id}/sent");
        f.post(&path, &sent).send().await.expect(200);
        let source = json!({
            "provider": "novu",
            "name": format!("source {number}"),
            "secrets": ["whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="],
        });
        f.post("/v1/webhook-sources", &source)
            .send()
            .await
            .expect(201);
        f.tenant(&format!("tenant-{number}")).await;
    }
    for list in ["notifications", "notification-logs", "timeline"] {
        f.fresh(&format!("/v1/{list}")).await;
    }
    let mut cursors = Vec::new();
    for query in [
        "/v1/notifications?limit=1",
        "/v1/notifications?limit=1&status=sent",
        "/v1/notification-logs?limit=1",
        "/v1/notification-logs?limit=1&channel=email",
        "/v1/timeline?limit=1",
        "/v1/timeline?limit=1&order=desc",
        "/v1/timeline?limit=1&from=2026-03-14T09:00:00Z",
        "/v1/tenants?limit=1",
        "/v1/keys?limit=1",
        "/v1/webhook-sources?limit=1",
    ] {
        let page = ask(f, query).await.expect(200);
        let cursor = page["next_cursor"]
            .as_str()
            .unwrap_or_else(|| panic!("{query}: {page}"));
        cursors.push((query.to_owned(), cursor.to_owned()));
    }
    cursors
}

async fn cursors_are_taken_where_they_were_given_only(f: &Fixture) {
    let cursors = cursors(f).await;
    for (query, own) in &cursors {
        let page = ask(f, &format!("{query}&cursor={own}")).await.expect(200);
        assert_ne!(page["data"], Value::Null);
        for (other, cursor) in &cursors {
            if other != query {
                let path = format!("{query}&cursor={cursor}");
                assert_refused(&ask(f, &path).await, "?cursor", &["next_cursor"], &path);
            }
        }
        let middle = own.len() / 2;
        for (from, to) in [(0, 1), (middle, middle + 1), (own.len() - 3, own.len() - 2)] {
            let instead = if own[from..to] == *"A" { "B" } else { "A" };
            let changed = format!("{}{instead}{}", &own[..from], &own[to..]);
            let path = format!("{query}&cursor={changed}");
            assert_refused(&ask(f, &path).await, "?cursor", &["next_cursor"], &path);
        }
        for cursor in ["3-1", "1", "%00", "null", &own[1..], &own.repeat(20)] {
            let path = format!("{query}&cursor={cursor}");
            assert_refused(&ask(f, &path).await, "?cursor", &["next_cursor"], &path);
        }
    }
    let empty = "/v1/webhook-quarantine?limit=1";
    for (_, cursor) in &cursors {
        let path = format!("{empty}&cursor={cursor}");
        assert_refused(&ask(f, &path).await, "?cursor", &["next_cursor"], &path);
        // The log's cursors are positions in it, good for any question about it.
        let path = format!("/v1/events?cursor={cursor}");
        assert_refused(&ask(f, &path).await, "?cursor", &["3-1042"], &path);
    }
    let path = "/v1/events?cursor=4-1";
    assert_refused(
        &ask(f, path).await,
        "?cursor",
        &["another part of the ledger"],
        path,
    );

    // The same question of somebody else.
    let rival = f.tenant("rival").await;
    for _ in 0..2 {
        let made = f
            .post("/v1/notifications", &minimal())
            .key(&rival)
            .send()
            .await;
        made.expect(201);
    }
    for (query, cursor) in &cursors {
        if query.starts_with("/v1/tenants") {
            continue;
        }
        let path = format!("{query}&cursor={cursor}");
        let refused = f.get(&path).key(&rival).send().await;
        assert_refused(&refused, "?cursor", &["next_cursor"], &path);
    }
}
