//! Many commands in one call.

#![expect(clippy::too_many_lines, reason = "whole answers are long")]

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::fixture::{Fixture, LIMITS, minimal};
use crate::{on_both_databases, snapshot};

on_both_databases!(
    each_item_stands_alone,
    items_are_carried_out_in_their_order,
    a_stream_goes_on_past_bad_lines,
    an_interrupted_import_is_run_again,
    a_repeated_list_gets_the_first_answer,
);

fn request(id: &str) -> Value {
    json!({"type": "request", "id": id, "workflow_id": "w", "subscriber": {"id": "s"}})
}

fn fact(name: &str, id: &str) -> Value {
    json!({"type": name, "notification_id": id})
}

fn id(number: u128) -> String {
    uuid::Uuid::from_u128(0x7 << 76 | 0x9 << 60 | number).to_string()
}

fn lines(commands: &[Value]) -> String {
    let lines: Vec<_> = commands.iter().map(Value::to_string).collect();
    lines.join("\n") + "\n"
}

async fn each_item_stands_alone(f: &Fixture) {
    let there = f.requested().await;
    let commands = json!({"commands": [
        fact("delivered", &there),
        fact("delivered", &id(404)),
        {"type": "request", "workflow_id": "", "subscriber": {}},
        {"type": "rename", "notification_id": there, "name": "x"},
        {"workflow_id": "w"},
        "request",
        {"type": "delivered", "notification_id": "7", "idempotency_key": "", "extra": 1},
        fact("delivered", &there),
        request(&id(1)),
    ]});

    let answer = f.post("/v1/commands", &commands).send().await;

    let mut results = answer.expect(200);
    for result in results["results"].as_array_mut().unwrap() {
        if let Some(problem) = result.get_mut("problem") {
            problem["request_id"] = json!("[id]");
        }
        // Items about different notifications overtake each other.
        if let Some(position) = result.get_mut("position") {
            *position = json!("[position]");
        }
    }
    snapshot!(results, @r#"
    {
      "results": [
        {
          "index": 0,
          "notification_id": "00000000-0000-7000-8000-000000000005",
          "position": "[position]",
          "status": 200,
          "version": 2
        },
        {
          "index": 1,
          "problem": {
            "code": "not_found",
            "detail": "there is no such notification",
            "request_id": "[id]",
            "status": 404,
            "title": "There is no such thing here",
            "type": "urn:notification-ledger:problem:not_found"
          },
          "status": 404
        },
        {
          "index": 2,
          "problem": {
            "code": "invalid",
            "detail": "2 things are wrong with the request; see `errors`",
            "errors": [
              {
                "message": "must not be empty",
                "pointer": "/workflow_id"
              },
              {
                "message": "is required",
                "pointer": "/subscriber/id"
              }
            ],
            "request_id": "[id]",
            "status": 422,
            "title": "The request is not valid",
            "type": "urn:notification-ledger:problem:invalid"
          },
          "status": 422
        },
        {
          "index": 3,
          "problem": {
            "code": "invalid",
            "detail": "/type must be one of: request, queue, retract, sent, delivered, bounced, failed, seen, read, interacted, suppressed",
            "errors": [
              {
                "message": "must be one of: request, queue, retract, sent, delivered, bounced, failed, seen, read, interacted, suppressed",
                "pointer": "/type"
              }
            ],
            "request_id": "[id]",
            "status": 422,
            "title": "The request is not valid",
            "type": "urn:notification-ledger:problem:invalid"
          },
          "status": 422
        },
        {
          "index": 4,
          "problem": {
            "code": "invalid",
            "detail": "/type is required",
            "errors": [
              {
                "message": "is required",
                "pointer": "/type"
              }
            ],
            "request_id": "[id]",
            "status": 422,
            "title": "The request is not valid",
            "type": "urn:notification-ledger:problem:invalid"
          },
          "status": 422
        },
        {
          "index": 5,
          "problem": {
            "code": "invalid",
            "detail": "must be an object",
            "errors": [
              {
                "message": "must be an object",
                "pointer": ""
              }
            ],
            "request_id": "[id]",
            "status": 422,
            "title": "The request is not valid",
            "type": "urn:notification-ledger:problem:invalid"
          },
          "status": 422
        },
        {
          "index": 6,
          "problem": {
            "code": "invalid",
            "detail": "3 things are wrong with the request; see `errors`",
            "errors": [
              {
                "message": "must be 1 to 255 printable characters",
                "pointer": "/idempotency_key"
              },
              {
                "message": "must be a UUID",
                "pointer": "/notification_id"
              },
              {
                "message": "is not known here; known are: type, idempotency_key, notification_id, message, occurred_at, raw",
                "pointer": "/extra"
              }
            ],
            "request_id": "[id]",
            "status": 422,
            "title": "The request is not valid",
            "type": "urn:notification-ledger:problem:invalid"
          },
          "status": 422
        },
        {
          "deduplicated": true,
          "index": 7,
          "notification_id": "00000000-0000-7000-8000-000000000005",
          "position": "[position]",
          "status": 200,
          "version": 2
        },
        {
          "index": 8,
          "notification_id": "00000000-0000-7000-9000-000000000001",
          "position": "[position]",
          "status": 201,
          "version": 1
        }
      ]
    }
    "#);
    assert_eq!(answer.header("ledger-position"), Some("3-3"));
    assert_eq!(f.events().await, 3);
}

async fn items_are_carried_out_in_their_order(f: &Fixture) {
    let mut commands = Vec::new();
    for number in 0..100 {
        commands.push(request(&id(number)));
    }
    for name in ["queue", "sent", "delivered", "seen"] {
        commands.extend((0..100).map(|number| fact(name, &id(number))));
    }

    let answer = f
        .post("/v1/commands", &json!({"commands": commands}))
        .send()
        .await
        .expect(200);

    for (index, result) in answer["results"].as_array().unwrap().iter().enumerate() {
        assert_eq!(result["index"], index);
        assert_eq!(result["version"], index / 100 + 1, "{result}");
    }
}

#[tokio::test]
async fn a_list_has_at_most_1000_commands() {
    let f = Fixture::new().await;
    let commands = |count: usize| json!({"commands": vec![fact("sent", &id(404)); count]});

    let most = f
        .post("/v1/commands", &commands(1000))
        .send()
        .await
        .expect(200);
    assert_eq!(most["results"].as_array().unwrap().len(), 1000);
    let problem = f
        .post("/v1/commands", &commands(1001))
        .send()
        .await
        .problem(413, "too_large");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("1001 commands") && detail.contains("limit is 1000"),
        "{detail}"
    );
    // Nothing is kept of what is only counted.
    let many = format!("{{\"commands\": [{}0]}}", "0,".repeat(7_000_000));
    f.post_text("/v1/commands", many)
        .send()
        .await
        .problem(413, "too_large");
    let empty = f
        .post("/v1/commands", &json!({"commands": []}))
        .send()
        .await
        .expect(200);
    assert_eq!(empty, json!({"results": []}));
    for (body, pointer) in [
        (json!({}), "/commands"),
        (json!({"commands": {}}), "/commands"),
        (json!({"commands": [], "dry_run": true}), "/dry_run"),
    ] {
        assert_eq!(
            f.post("/v1/commands", &body).send().await.pointers(),
            [pointer],
            "{body}"
        );
    }
    let large = vec![b' '; LIMITS.bulk_body_bytes_max + 1];
    f.post_text("/v1/commands", large)
        .send()
        .await
        .problem(413, "too_large");
}

async fn a_stream_goes_on_past_bad_lines(f: &Fixture) {
    let long = json!({"type": "request", "workflow_id": "x".repeat(LIMITS.body_bytes_max)});
    let text = [
        request(&id(1)).to_string(),
        String::new(),
        "   \r".to_owned(),
        "{\"type\": \"sent\"".to_owned(),
        fact("sent", &id(1)).to_string() + "\r",
        long.to_string(),
        "\u{0}".to_owned(),
        fact("delivered", &id(1)).to_string(),
    ];

    let answer = f.post_lines(text.join("\n")).send().await;

    assert_eq!(answer.status.as_u16(), 200);
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let results: Vec<_> = answer
        .lines()
        .iter()
        .map(|result| {
            json!([
                result["index"],
                result["status"],
                result["version"],
                result["problem"]["code"]
            ])
        })
        .collect();
    assert_eq!(
        json!(results),
        json!([
            [0, 201, 1, null],
            [1, 400, null, "malformed_json"],
            [2, 200, 2, null],
            [3, 413, null, "too_large"],
            [4, 400, null, "malformed_json"],
            [5, 200, 3, null],
        ])
    );
    for nothing in ["", "\n", "\n\n \n"] {
        assert_eq!(f.post_lines(nothing).send().await.text(), "");
    }
    let invalid = [
        b"\xff\xfe\n".to_vec(),
        lines(&[fact("seen", &id(1))]).into_bytes(),
    ]
    .concat();
    let answer = f.post_lines(invalid).send().await.lines();
    assert_eq!(
        (&answer[0]["status"], &answer[1]["status"]),
        (&json!(400), &json!(200))
    );
}

#[tokio::test]
async fn results_come_while_lines_are_still_to_come() {
    let f = Fixture::new().await;
    let (caller, pieces) = tokio::sync::mpsc::unbounded_channel::<String>();
    let pieces = stream::unfold(pieces, |mut pieces| async {
        let piece = pieces.recv().await?;
        Some((Ok::<_, Infallible>(piece), pieces))
    });
    let mut answer = f
        .post_lines(Body::from_stream(pieces))
        .open()
        .await
        .into_body();
    let next = async |answer: &mut Body| {
        let frame = tokio::time::timeout(Duration::from_secs(5), answer.frame()).await;
        let data = frame.unwrap().unwrap().unwrap().into_data().unwrap();
        serde_json::from_slice::<Value>(&data).unwrap()
    };

    for number in 0..3 {
        let line = lines(&[request(&id(number))]);
        let (first, second) = line.split_at(20);
        caller.send(first.to_owned()).unwrap();
        caller.send(second.to_owned()).unwrap();
        let result = next(&mut answer).await;
        assert_eq!(
            (&result["index"], &result["status"]),
            (&json!(number), &json!(201))
        );
    }
    drop(caller);
    assert!(answer.frame().await.is_none());
}

#[tokio::test]
async fn a_caller_may_send_everything_before_reading_anything() {
    let f = Fixture::new().await;
    let count = 20_000;
    let line = Bytes::from(lines(&[fact("sent", &id(404))]));
    let body = stream::iter(0..count).map(move |_| Ok::<_, Infallible>(line.clone()));

    let mut answer = f
        .post_lines(Body::from_stream(body))
        .open()
        .await
        .into_body();
    // Nobody reads; all of it is carried out all the same.
    tokio::time::sleep(Duration::from_millis(200)).await;

    let mut text = Vec::new();
    while let Some(frame) = answer.frame().await {
        text.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    let indices = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    for (index, line) in indices.clone().enumerate() {
        let result: Value = serde_json::from_slice(line).unwrap();
        assert_eq!(
            (&result["index"], &result["status"]),
            (&json!(index), &json!(404))
        );
    }
    assert_eq!(indices.count(), count);
}

#[tokio::test]
async fn a_stream_that_breaks_off_says_so_at_its_end() {
    let limits = notification_ledger::api::Limits {
        body_timeout: Duration::from_millis(100),
        ..LIMITS
    };
    let f = Fixture::with(limits).await;
    let line = lines(&[request(&id(1))]);
    let cut = stream::iter([Ok(line.clone() + "{\"type"), Err("gone")]);
    let paused = stream::iter([Ok::<_, Infallible>(line)]).chain(stream::pending());

    let broken = f.post_lines(Body::from_stream(cut)).send().await.lines();
    let late = f.post_lines(Body::from_stream(paused)).send().await.lines();

    assert_eq!(
        (&broken[0]["status"], &broken[1]["status"]),
        (&json!(201), &json!(400))
    );
    assert_eq!(
        (&late[0]["status"], &late[1]["status"]),
        (&json!(409), &json!(408))
    );
    assert_eq!(late[1]["problem"]["code"], "request_timeout");
}

async fn an_interrupted_import_is_run_again(f: &Fixture) {
    let keyed = |number: u32| {
        let mut command = minimal();
        command["type"] = json!("request");
        command["idempotency_key"] = json!(format!("line-{number}"));
        command
    };
    let all: Vec<Value> = (0..20).map(keyed).collect();

    let first = f.post_lines(lines(&all[..12])).send().await.lines();
    let again = f.post_lines(lines(&all)).send().await.lines();
    let list = f
        .post("/v1/commands", &json!({"commands": all}))
        .send()
        .await
        .expect(200);

    assert_eq!(f.events().await, 20);
    for (index, result) in again.iter().enumerate() {
        assert_eq!(
            result.get("replayed"),
            (index < 12).then_some(&json!(true)),
            "{result}"
        );
    }
    for results in [&again, list["results"].as_array().unwrap()] {
        for (index, result) in first.iter().enumerate() {
            assert_eq!(results[index]["notification_id"], result["notification_id"]);
        }
    }
    let mut other = all[3].clone();
    other["workflow_id"] = json!("other");
    let reused = f.post_lines(lines(&[other])).send().await.lines();
    assert_eq!(reused[0]["problem"]["code"], "idempotency_key_reused");
}

async fn a_repeated_list_gets_the_first_answer(f: &Fixture) {
    let plain = || {
        let mut command = minimal();
        command["type"] = json!("request");
        command
    };
    let commands = json!({"commands": [plain(), {"type": "request"}, plain()]});
    let call = || f.post("/v1/commands", &commands).once("call-1");

    let first = call().send().await;
    first.expect(200);
    call().send().await.is_replay_of(&first);
    assert_eq!(f.events().await, 2);
    let other = json!({"commands": [plain()]});
    let refused = f.post("/v1/commands", &other).once("call-1").send().await;
    refused.problem(422, "idempotency_key_reused");

    // Lines under a key of the call have keys that follow from it.
    let two = lines(&[plain(), plain()]);
    let first = f
        .post_lines(two.clone())
        .once("call-2")
        .send()
        .await
        .lines();
    let again = f.post_lines(two).once("call-2").send().await.lines();
    assert_eq!(f.events().await, 4);
    for (first, again) in first.iter().zip(&again) {
        assert_eq!(first["notification_id"], again["notification_id"]);
        assert_eq!(again["replayed"], true);
    }
    // And none that somebody else's key could be.
    for clash in ["call-2#0", "bulk:0:call-2", "0:call-2"] {
        f.post("/v1/notifications", &minimal())
            .once(clash)
            .send()
            .await
            .expect(201);
    }
}
