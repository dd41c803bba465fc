//! What may be in a body, and how callers are told what may not.

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::Method;
use serde_json::{Value, json};

use crate::fixture::{Fixture, LIMITS, minimal};
use crate::snapshot;

const NOTIFICATIONS: &str = "/v1/notifications";
/// Every call on a notification that is there.
pub(crate) const ON_A_NOTIFICATION: [&str; 10] = [
    "queue",
    "retract",
    "sent",
    "delivered",
    "bounced",
    "failed",
    "seen",
    "read",
    "interacted",
    "suppressed",
];

/// A request with some fields more, or others.
fn with(fields: Value) -> Value {
    let mut body = minimal();
    let Value::Object(fields) = fields else {
        panic!()
    };
    body.as_object_mut().unwrap().extend(fields);
    body
}

#[tokio::test]
async fn every_fault_is_listed_at_once() {
    let f = Fixture::new().await;
    let body = json!({
        "id": "7",
        "workflow_id": "",
        "subscriber": {"email": 1, "channels": {"push": null}, "nickname": "a"},
        "channels": ["email", "E mail", "email"],
        "payload": [],
        "category": "spam",
        "classification": {"audience": "nobody", "a/b~c": 1},
        "scheduled_at": "tomorrow",
        "metadata": {"n": 1},
        "correlation_id": "a\nb",
        "payloads": {},
    });

    let mut refused = f
        .post(NOTIFICATIONS, &body)
        .send()
        .await
        .problem(422, "invalid");

    refused["request_id"] = json!("[id]");
    snapshot!(refused, @r#"
    {
      "code": "invalid",
      "detail": "16 things are wrong with the request; see `errors`",
      "errors": [
        {
          "message": "must not be empty",
          "pointer": "/workflow_id"
        },
        {
          "message": "is required",
          "pointer": "/subscriber/id"
        },
        {
          "message": "must be a text",
          "pointer": "/subscriber/email"
        },
        {
          "message": "must be a text",
          "pointer": "/subscriber/channels/push"
        },
        {
          "message": "is not known here; known are: id, email, phone, locale, timezone, channels",
          "pointer": "/subscriber/nickname"
        },
        {
          "message": "must be a UUID",
          "pointer": "/id"
        },
        {
          "message": "must be one of email, sms, push, in_app, chat, webhook, or a slug of your own",
          "pointer": "/channels/1"
        },
        {
          "message": "names a channel a second time",
          "pointer": "/channels/2"
        },
        {
          "message": "must be an object",
          "pointer": "/payload"
        },
        {
          "message": "must be one of: transactional, marketing, escalation",
          "pointer": "/category"
        },
        {
          "message": "must be one of: customer, support",
          "pointer": "/classification/audience"
        },
        {
          "message": "is not known here; known are: error_code, audience, severity",
          "pointer": "/classification/a~1b~0c"
        },
        {
          "message": "is not an RFC 3339 time such as `2026-03-14T09:30:00Z`",
          "pointer": "/scheduled_at"
        },
        {
          "message": "must be a text",
          "pointer": "/metadata/n"
        },
        {
          "message": "must not contain control characters",
          "pointer": "/correlation_id"
        },
        {
          "message": "is not known here; known are: workflow_id, subscriber, id, workflow_version, external_id, channels, payload, category, priority, classification, scheduled_at, expires_at, metadata, correlation_id, causation_id",
          "pointer": "/payloads"
        }
      ],
      "request_id": "[id]",
      "status": 422,
      "title": "The request is not valid",
      "type": "urn:notification-ledger:problem:invalid"
    }
    "#);
}

#[tokio::test]
async fn one_fault_is_the_detail() {
    let f = Fixture::new().await;

    let refused = f
        .post(NOTIFICATIONS, &json!({"subscriber": {"id": "ada"}}))
        .send()
        .await;

    assert_eq!(
        refused.problem(422, "invalid")["detail"],
        "/workflow_id is required"
    );
}

#[tokio::test]
async fn a_body_must_be_an_object() {
    let f = Fixture::new().await;
    let id = f.requested().await;
    for body in ["[]", "[{}]", "null", "1", "\"{}\"", "true"] {
        let refused = f.post_text(NOTIFICATIONS, body).send().await;
        assert_eq!(refused.pointers(), [""], "{body}");
        for call in ON_A_NOTIFICATION {
            let refused = f
                .post_text(&format!("{NOTIFICATIONS}/{id}/{call}"), body)
                .send()
                .await;
            assert_eq!(refused.pointers(), [""], "{call} {body}");
        }
        let refused = f.post_text("/v1/commands", body).send().await;
        assert_eq!(refused.pointers(), [""], "{body}");
    }
    assert_eq!(f.events().await, 1);
}

#[tokio::test]
async fn what_is_no_json_is_malformed() {
    let f = Fixture::new().await;
    let broken: [&[u8]; 9] = [
        b"",
        b" ",
        b"{",
        b"{}{}",
        b"{'a': 1}",
        b"{\"a\": \xff}",
        b"\xef\xbb\xbf{}",
        b"{\"a\": 1,}",
        b"{\"a\": NaN}",
    ];
    for body in broken {
        let refused = f.post_text(NOTIFICATIONS, body.to_vec()).send().await;
        refused.problem(400, "malformed_json");
    }
    let refused = f
        .post_text(NOTIFICATIONS, b"{\"a\": \"\xc3\x28\"}".to_vec())
        .send()
        .await;
    let problem = refused.problem(400, "malformed_json");
    assert_eq!(problem["detail"], "the body is not UTF-8 at byte 7");
}

#[tokio::test]
async fn deep_nesting_is_refused_and_what_is_less_deep_comes_back() {
    let f = Fixture::new().await;
    let brackets = "[".repeat(10 * 1024 * 1024);
    f.post_text("/v1/commands", brackets)
        .send()
        .await
        .problem(400, "malformed_json");
    let nested = |depth: usize| {
        let payload = "[".repeat(depth) + &"]".repeat(depth);
        format!(
            r#"{{"workflow_id": "w", "subscriber": {{"id": "a"}}, "payload": {{"a": {payload}}}}}"#
        )
    };
    f.post_text(NOTIFICATIONS, nested(95))
        .send()
        .await
        .problem(400, "malformed_json");

    let made = f
        .post_text(NOTIFICATIONS, nested(94))
        .send()
        .await
        .expect(201);

    let id = made["id"].as_str().unwrap();
    let shown = f
        .get(&format!("{NOTIFICATIONS}/{id}/events"))
        .send()
        .await
        .expect(200);
    assert_eq!(shown["data"][0]["data"]["payload"], made["payload"]);
}

#[tokio::test]
async fn a_member_may_come_once() {
    let f = Fixture::new().await;
    let twice = r#"{
        "workflow_id": "w", "workflow_id": "w",
        "subscriber": {"id": "a", "id": "b"},
        "metadata": {"k": "1", "k": "2"},
        "expires_at": null, "expires_at": "2026-03-14T09:30:00Z"
    }"#;

    let refused = f.post_text(NOTIFICATIONS, twice).send().await;

    assert_eq!(
        refused.pointers(),
        [
            "/workflow_id",
            "/subscriber/id",
            "/expires_at",
            "/metadata/k"
        ]
    );
}

#[tokio::test]
async fn null_is_the_same_as_nothing() {
    let f = Fixture::new().await;
    let nulls = with(json!({
        "id": null, "external_id": null, "channels": null, "payload": null, "category": null,
        "classification": null, "scheduled_at": null, "metadata": null,
    }));

    let made = f.post(NOTIFICATIONS, &nulls).send().await.expect(201);

    assert_eq!(
        (&made["category"], &made["payload"]),
        (&json!("transactional"), &Value::Null)
    );
    let required = json!({"workflow_id": null, "subscriber": {"id": null}});
    let refused = f.post(NOTIFICATIONS, &required).send().await;
    assert_eq!(refused.pointers(), ["/workflow_id", "/subscriber/id"]);
}

#[tokio::test]
async fn a_payload_comes_back_as_it_was_sent() {
    let f = Fixture::new().await;
    let payload =
        r#"{"big": 12345678901234567890123.10, "b": 1, "a": {"b": 2, "b": 3}, "e": "\u00e9"}"#;
    let body =
        format!(r#"{{"workflow_id": "w", "subscriber": {{"id": "a"}}, "payload": {payload}}}"#);

    let made = f.post_text(NOTIFICATIONS, body).send().await;

    made.expect(201);
    assert!(made.text().contains(payload), "{}", made.text());
}

#[tokio::test]
async fn times_are_of_the_years_1970_to_9999() {
    let f = Fixture::new().await;
    for time in [
        "0000-01-01T00:00:00Z",
        "1969-12-31T23:59:59.999999Z",
        "10000-01-01T00:00:00Z",
        "9999-12-31T23:59:59-01:00",
        "2026-02-30T00:00:00Z",
        "2026-03-14",
        "1773480600",
    ] {
        let refused = f
            .post(NOTIFICATIONS, &with(json!({"expires_at": time})))
            .send()
            .await;
        assert_eq!(refused.pointers(), ["/expires_at"], "{time}");
        let path = format!("{NOTIFICATIONS}/{}/sent", uuid::Uuid::nil());
        let refused = f.post(&path, &json!({"occurred_at": time})).send().await;
        assert_eq!(refused.pointers(), ["/occurred_at"], "{time}");
    }
    let number = with(json!({"expires_at": 1_773_480_600}));
    assert_eq!(
        f.post(NOTIFICATIONS, &number).send().await.pointers(),
        ["/expires_at"]
    );

    let far = with(json!({
        "scheduled_at": "1970-01-01T01:00:00+01:00",
        "expires_at": "9999-12-31T23:59:59.999999Z",
    }));
    let made = f.post(NOTIFICATIONS, &far).send().await.expect(201);
    assert_eq!(made["scheduled_at"], "1970-01-01T00:00:00.000000Z");
    assert_eq!(made["expires_at"], "9999-12-31T23:59:59.999999Z");
    let same =
        json!({"scheduled_at": "2026-03-14T09:30:00Z", "expires_at": "2026-03-14T09:30:00Z"});
    let refused = f.post(NOTIFICATIONS, &with(same)).send().await;
    assert_eq!(refused.pointers(), ["/expires_at"]);
}

#[tokio::test]
async fn names_and_metadata_have_limits() {
    let f = Fixture::new().await;
    let metadata = |entries: usize, chars: usize| {
        let entry = |number| (format!("k{number}"), json!("é".repeat(chars)));
        with(json!({"metadata": (0..entries).map(entry).collect::<serde_json::Map<_, _>>()}))
    };
    let pointers = async |body: Value| f.post(NOTIFICATIONS, &body).send().await.pointers();

    f.post(NOTIFICATIONS, &metadata(50, 512))
        .send()
        .await
        .expect(201);
    assert_eq!(pointers(metadata(51, 1)).await, ["/metadata"]);
    assert_eq!(pointers(metadata(1, 513)).await, ["/metadata/k0"]);
    assert_eq!(
        pointers(with(json!({"metadata": {"": "x"}}))).await,
        ["/metadata/"]
    );
    let name = |chars: usize| with(json!({"external_id": "é".repeat(chars)}));
    f.post(NOTIFICATIONS, &name(256)).send().await.expect(201);
    assert_eq!(pointers(name(257)).await, ["/external_id"]);
    assert_eq!(
        pointers(with(json!({"external_id": "a\u{0}b"}))).await,
        ["/external_id"]
    );
    let channels: Vec<_> = (0..33).map(|number| format!("c{number}")).collect();
    assert_eq!(
        pointers(with(json!({"channels": channels}))).await,
        ["/channels"]
    );
    f.post(NOTIFICATIONS, &with(json!({"channels": channels[..32]})))
        .send()
        .await
        .expect(201);
}

#[tokio::test]
async fn a_payload_that_is_too_large_is_told_its_size_and_the_limit() {
    let f = Fixture::new().await;
    let of_bytes = |bytes: usize| format!(r#"{{"a":"{}"}}"#, "x".repeat(bytes - 8));
    let request = |payload: &str| {
        format!(r#"{{"workflow_id": "w", "subscriber": {{"id": "a"}}, "payload": {payload}}}"#)
    };
    let max = LIMITS.payload_bytes_max;

    let made = f
        .post_text(NOTIFICATIONS, request(&of_bytes(max)))
        .send()
        .await
        .expect(201);
    let refused = f
        .post_text(NOTIFICATIONS, request(&of_bytes(max + 1)))
        .send()
        .await;

    let problem = refused.problem(413, "too_large");
    assert_eq!(
        problem["detail"],
        "/payload is too large: 524289 bytes; the limit is 524288 bytes"
    );
    let path = format!("{NOTIFICATIONS}/{}/sent", made["id"].as_str().unwrap());
    let raw = format!(r#"{{"raw": {}}}"#, of_bytes(max + 1));
    let problem = f
        .post_text(&path, raw)
        .send()
        .await
        .problem(413, "too_large");
    assert!(
        problem["detail"].as_str().unwrap().starts_with("/raw "),
        "{problem}"
    );
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_whether_or_not_it_says_so() {
    let f = Fixture::new().await;
    let max = LIMITS.body_bytes_max;
    let refused = async |body: Body, length: Option<usize>| {
        let mut call = f.post_text(NOTIFICATIONS, body);
        if let Some(length) = length {
            call = call.header("content-length", &length.to_string());
        }
        call.send().await.problem(413, "too_large")["detail"].clone()
    };
    let piece = Bytes::from(vec![b' '; 64 * 1024]);
    let endless = || stream::repeat(piece.clone()).map(Ok::<_, std::convert::Infallible>);

    let said = refused(Body::from(vec![b' '; max + 1]), Some(max + 1)).await;
    assert_eq!(
        said,
        "the body is too large: 1048577 bytes; the limit is 1048576 bytes"
    );
    let found = "the body is too large: more than 1048576 bytes; the limit is 1048576 bytes";
    assert_eq!(refused(Body::from(vec![b' '; max + 1]), None).await, found);
    assert_eq!(
        refused(Body::from_stream(endless().take(1000)), None).await,
        found
    );
    assert_eq!(refused(Body::from_stream(endless()), None).await, found);
    let fits = format!(
        "{}{}",
        minimal(),
        " ".repeat(max - minimal().to_string().len())
    );
    f.post_text(NOTIFICATIONS, fits).send().await.expect(201);
}

#[tokio::test]
async fn a_body_says_that_it_is_json() {
    let f = Fixture::new().await;
    let id = f.requested().await;
    let post = |path: &str, content_type: Option<&str>, body: &str| {
        let mut call = f.post_text(path, body.to_owned());
        call = call.without_content_type();
        match content_type {
            Some(content_type) => call.header("content-type", content_type),
            None => call,
        }
    };
    let body = minimal().to_string();
    let delivered = format!("{NOTIFICATIONS}/{id}/delivered");

    for wrong in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("application/jsonx"),
        Some(""),
    ] {
        for path in [
            NOTIFICATIONS,
            &delivered,
            "/v1/keys",
            "/v1/webhook-sources",
            "/v1/commands",
        ] {
            let refused = post(path, wrong, &body).send().await;
            refused.problem(415, "unsupported_media_type");
        }
    }
    post(
        NOTIFICATIONS,
        Some("Application/JSON; charset=utf-8"),
        &body,
    )
    .send()
    .await
    .expect(201);
    for path in [NOTIFICATIONS, &delivered, "/v1/commands"] {
        let zipped = post(path, Some("application/json"), &body).header("content-encoding", "gzip");
        zipped.send().await.problem(415, "unsupported_media_type");
    }
    // Nothing need not say what it is.
    post(&delivered, None, "").send().await.expect(200);
    post(&delivered, Some("text/plain"), "")
        .send()
        .await
        .problem(415, "unsupported_media_type");
    post(NOTIFICATIONS, None, "")
        .send()
        .await
        .problem(415, "unsupported_media_type");
}

#[tokio::test]
async fn a_call_with_nothing_to_say_may_leave_its_body_out() {
    let f = Fixture::new().await;
    for (call, status) in [
        ("queue", 200),
        ("sent", 200),
        ("delivered", 200),
        ("bounced", 200),
        ("seen", 200),
        ("read", 200),
        ("retract", 422),
        ("failed", 422),
        ("interacted", 422),
        ("suppressed", 422),
    ] {
        let path = async || format!("{NOTIFICATIONS}/{}/{call}", f.requested().await);
        f.call(Method::POST, &path().await)
            .send()
            .await
            .expect(status);
        f.post_text(&path().await, "").send().await.expect(status);
        f.post_text(&path().await, "{}").send().await.expect(status);
    }
}
