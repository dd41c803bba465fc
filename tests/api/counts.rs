//! How many messages reached which stage when, and how fast.

use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture::{Fixture, minimal};
use crate::{on_both_databases, snapshot};

on_both_databases!(
    counts_are_shown_whole,
    where_nothing_happened_zeros_are_shown,
    a_message_counts_once_however_often_it_is_reported,
    a_late_fact_moves_a_message_to_where_it_belongs,
    messages_are_counted_apart,
    only_what_happened_in_the_range_is_counted,
    a_year_is_counted_by_the_day,
    errors_are_a_share_of_what_was_tried,
    latencies_are_within_two_percent,
    everything_wrong_with_a_question_is_said,
);

const METRICS: &str = "/v1/metrics";
/// The hour in which tests begin, by the minute.
const MINUTES: &str = "from=2026-03-14T09:28:00Z&to=2026-03-14T09:34:00Z&interval=minute";

async fn request(f: &Fixture, body: &Value) -> String {
    let made = f.post("/v1/notifications", body).send().await.expect(201);
    made["id"].as_str().unwrap().to_owned()
}

async fn tell(f: &Fixture, id: &str, fact: &str, body: &Value) {
    let path = format!("/v1/notifications/{id}/{fact}");
    f.post(&path, body).send().await.expect(200);
}

/// A fact about the e-mail, at a time of that day.
fn email(at: &str) -> Value {
    let message = json!({"channel": "email", "provider_id": "sendgrid"});
    json!({"message": message, "occurred_at": format!("2026-03-14T{at}Z")})
}

/// Where a stage was counted, of the first series: the minute and how many.
async fn counted(f: &Fixture, query: &str, stage: &str) -> Vec<(String, i64)> {
    let answer = f.fresh(&format!("{METRICS}?{query}")).await;
    let points = answer["series"][0]["points"].as_array().unwrap().iter();
    points
        .map(|point| {
            (
                point["at"].as_str().unwrap()[11..16].to_owned(),
                point[stage].as_i64().unwrap(),
            )
        })
        .filter(|(_, count)| *count != 0)
        .collect()
}

fn at(minute: &str, count: i64) -> Vec<(String, i64)> {
    vec![(minute.to_owned(), count)]
}

async fn counts_are_shown_whole(f: &Fixture) {
    let mut body = minimal();
    body["channels"] = json!(["email"]);
    let id = request(f, &body).await;
    tell(f, &id, "queue", &json!({})).await;
    tell(f, &id, "sent", &email("09:30:01")).await;
    tell(f, &id, "delivered", &email("09:31:04")).await;
    tell(f, &id, "seen", &email("09:31:10")).await;

    let query = "from=2026-03-14T09:30:30Z&to=2026-03-14T09:31:01Z&interval=minute";
    let answer = f
        .fresh(&format!("{METRICS}?{query}&group_by=channel"))
        .await;

    snapshot!(answer, @r#"
    {
      "from": "2026-03-14T09:30:00.000000Z",
      "group_by": [
        "channel"
      ],
      "interval": "minute",
      "series": [
        {
          "group": {
            "channel": "email"
          },
          "latency_ms": {
            "delivered": {
              "count": 1,
              "p50": 64487.4235,
              "p95": 64487.4235,
              "p99": 64487.4235
            },
            "sent": {
              "count": 1,
              "p50": 1007.6155,
              "p95": 1007.6155,
              "p99": 1007.6155
            }
          },
          "points": [
            {
              "at": "2026-03-14T09:30:00.000000Z",
              "bounced": 0,
              "delivered": 0,
              "failed": 0,
              "queued": 1,
              "read": 0,
              "requested": 1,
              "retracted": 0,
              "seen": 0,
              "sent": 1,
              "suppressed": 0
            },
            {
              "at": "2026-03-14T09:31:00.000000Z",
              "bounced": 0,
              "delivered": 1,
              "failed": 0,
              "queued": 0,
              "read": 0,
              "requested": 0,
              "retracted": 0,
              "seen": 1,
              "sent": 0,
              "suppressed": 0
            }
          ],
          "totals": {
            "bounced": 0,
            "delivered": 1,
            "error_rate": 0.0,
            "failed": 0,
            "queued": 1,
            "read": 0,
            "requested": 1,
            "retracted": 0,
            "seen": 1,
            "sent": 1,
            "suppressed": 0
          }
        }
      ],
      "to": "2026-03-14T09:32:00.000000Z"
    }
    "#);
}

async fn where_nothing_happened_zeros_are_shown(f: &Fixture) {
    let range = "from=2026-03-13T09:30:00Z&to=2026-03-13T10:00:00Z";

    let answer = f.fresh(&format!("{METRICS}?{range}")).await;
    let apart = f
        .fresh(&format!("{METRICS}?{range}&group_by=channel"))
        .await;

    let series = &answer["series"][0];
    assert_eq!(series["group"], json!({}));
    assert_eq!(series["points"].as_array().unwrap().len(), 1);
    assert_eq!(series["points"][0]["at"], "2026-03-13T09:00:00.000000Z");
    for count in ["requested", "sent", "read"] {
        assert_eq!(series["points"][0][count], 0);
        assert_eq!(series["totals"][count], 0);
    }
    assert_eq!(apart["series"], json!([]));
}

async fn a_message_counts_once_however_often_it_is_reported(f: &Fixture) {
    let id = f.requested().await;
    for at in ["09:32:00", "09:32:00", "09:31:00", "09:33:00"] {
        tell(f, &id, "sent", &email(at)).await;
        tell(f, &id, "delivered", &email(at)).await;
    }
    // Sent when it was first, delivered by the report that decides: the last one.
    for (stage, minute) in [("sent", "09:31"), ("delivered", "09:33")] {
        assert_eq!(counted(f, MINUTES, stage).await, at(minute, 1), "{stage}");
        let hours = "to=2026-03-14T10:00:00Z";
        assert_eq!(counted(f, hours, stage).await, at("09:00", 1), "{stage}");
        let days = "to=2026-03-15T00:00:00Z&interval=day";
        assert_eq!(counted(f, days, stage).await, at("00:00", 1), "{stage}");
    }
}

async fn a_late_fact_moves_a_message_to_where_it_belongs(f: &Fixture) {
    let id = f.requested().await;
    let known_by_id = |at: &str| {
        json!({
            "message": {"provider_message_id": "sg-1"},
            "occurred_at": format!("2026-03-14T{at}Z"),
        })
    };
    tell(f, &id, "delivered", &known_by_id("09:31:00")).await;
    let by_channel = format!("{MINUTES}&group_by=channel");
    let groups = async || {
        let answer = f.fresh(&format!("{METRICS}?{by_channel}")).await;
        let series = answer["series"].as_array().unwrap().iter();
        series
            .filter(|series| series["totals"]["delivered"] == 1)
            .map(|series| series["group"]["channel"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(groups().await, [Value::Null]);

    // Which channel it was, is told later.
    let mut named = known_by_id("09:30:00");
    named["message"]["channel"] = json!("email");
    tell(f, &id, "sent", &named).await;
    assert_eq!(groups().await, ["email"]);
    assert_eq!(counted(f, MINUTES, "delivered").await, at("09:31", 1));

    // So is that it was delivered once more.
    tell(f, &id, "delivered", &known_by_id("09:32:30")).await;
    assert_eq!(groups().await, ["email"]);
    assert_eq!(counted(f, MINUTES, "delivered").await, at("09:32", 1));

    // A bounce takes the delivery back.
    let mut bounced = known_by_id("09:33:30");
    bounced["bounce_type"] = json!("hard");
    tell(f, &id, "bounced", &bounced).await;
    assert_eq!(counted(f, MINUTES, "bounced").await, at("09:33", 1));
    assert_eq!(counted(f, MINUTES, "delivered").await, []);
}

async fn messages_are_counted_apart(f: &Fixture) {
    for (workflow, channel) in [("b", "sms"), ("a", "email"), ("a", "sms"), ("a", "sms")] {
        let body = json!({"workflow_id": workflow, "subscriber": {"id": "ada"}});
        let id = request(f, &body).await;
        tell(f, &id, "sent", &json!({"message": {"channel": channel}})).await;
    }
    let sent = async |group_by: &str| {
        let path = format!("{METRICS}?{MINUTES}&{group_by}");
        let answer = f.fresh(&path).await;
        let series = answer["series"].as_array().unwrap().iter();
        series
            .filter(|series| series["totals"]["sent"] != 0)
            .map(|series| {
                (
                    series["group"].to_string(),
                    series["totals"]["sent"].as_i64().unwrap(),
                )
            })
            .collect::<Vec<_>>()
    };
    let group = |text: &str, count: i64| (text.to_owned(), count);

    assert_eq!(sent("").await, [group("{}", 4)]);
    assert_eq!(
        sent("group_by=workflow_id").await,
        [
            group(r#"{"workflow_id":"a"}"#, 3),
            group(r#"{"workflow_id":"b"}"#, 1)
        ]
    );
    let expected = [
        group(r#"{"channel":"email","workflow_id":"a"}"#, 1),
        group(r#"{"channel":"sms","workflow_id":"a"}"#, 2),
        group(r#"{"channel":"sms","workflow_id":"b"}"#, 1),
    ];
    for both in [
        "group_by=workflow_id,channel",
        "group_by=workflow_id&group_by=channel",
    ] {
        assert_eq!(sent(both).await, expected, "{both}");
    }
    assert_eq!(
        sent("group_by=provider_id").await,
        [group(r#"{"provider_id":null}"#, 4)]
    );
}

async fn only_what_happened_in_the_range_is_counted(f: &Fixture) {
    for at in [
        "08:59:59.999999",
        "09:00:00",
        "09:59:59.999999",
        "10:00:00",
        "10:01:59",
    ] {
        let id = f.requested().await;
        tell(f, &id, "sent", &email(at)).await;
    }
    for (query, count) in [
        ("from=2026-03-14T09:00:00Z&to=2026-03-14T10:00:00Z", 2),
        ("from=2026-03-14T09:00:59Z&to=2026-03-14T10:00:01Z", 3),
        ("from=2026-03-14T09:01:00Z&to=2026-03-14T10:01:00Z", 2),
        ("from=2026-03-14T08:59:00Z&to=2026-03-14T10:02:00Z", 5),
        ("from=2026-03-14T09:00:00Z&to=2026-03-14T09:00:00Z", 0),
        ("from=2026-03-13T08:59:00Z&to=2026-03-15T10:02:00Z", 5),
    ] {
        for interval in ["minute", "hour", "day"] {
            let answer = f
                .fresh(&format!("{METRICS}?{query}&interval={interval}"))
                .await;
            let series = &answer["series"][0];
            assert_eq!(series["totals"]["sent"], count, "{query} {interval}");
            assert_eq!(
                series["latency_ms"]["sent"]["count"], count,
                "{query} {interval}"
            );
        }
    }
}

async fn a_year_is_counted_by_the_day(f: &Fixture) {
    let days = [
        "2025-03-14T09:30:00Z",
        "2025-06-01T00:00:00Z",
        "2025-12-31T23:59:59Z",
        "2026-03-14T09:29:59Z",
    ];
    for day in days {
        let id = f.requested().await;
        let sent = json!({"message": {"channel": "email"}, "occurred_at": day});
        tell(f, &id, "sent", &sent).await;
    }
    let query = "from=2025-03-14T09:30:00Z&to=2026-03-14T09:30:00Z&interval=day";

    let answer = f.fresh(&format!("{METRICS}?{query}")).await;

    let points = answer["series"][0]["points"].as_array().unwrap();
    assert_eq!(points.len(), 366);
    let shown: Vec<_> = points
        .iter()
        .filter(|point| point["sent"] == 1)
        .map(|point| point["at"].as_str().unwrap()[..10].to_owned())
        .collect();
    assert_eq!(shown, days.map(|day| day[..10].to_owned()));
    assert_eq!(answer["series"][0]["totals"]["sent"], 4);
}

async fn errors_are_a_share_of_what_was_tried(f: &Fixture) {
    let rate = async || {
        let answer = f.fresh(&format!("{METRICS}?{MINUTES}")).await;
        answer["series"][0]["totals"]["error_rate"].clone()
    };
    assert_eq!(rate().await, 0.0);
    let failed = json!({"message": {"channel": "email"}, "error": {"message": "m"}});
    let unsent = f.requested().await;
    tell(f, &unsent, "failed", &failed).await;
    assert_eq!(rate().await, 1.0);
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = f.requested().await;
        tell(f, &id, "sent", &json!({"message": {"channel": "email"}})).await;
        ids.push(id);
    }
    assert_eq!(rate().await, 0.25);
    tell(
        f,
        &ids[0],
        "bounced",
        &json!({"message": {"channel": "email"}, "bounce_type": "hard"}),
    )
    .await;
    assert_eq!(rate().await, 0.5);
    tell(f, &ids[1], "failed", &failed).await;
    assert_eq!(rate().await, 0.75);
}

async fn latencies_are_within_two_percent(f: &Fixture) {
    let mut exact = Vec::new();
    for number in 1..=40_u64 {
        let id = f.requested().await;
        let millis = number * number * 7 % 50_000 + 3;
        f.clock.advance(Duration::from_millis(millis));
        tell(f, &id, "sent", &json!({"message": {"channel": "email"}})).await;
        exact.push(millis);
    }
    exact.sort_unstable();

    let answer = f.fresh(&format!("{METRICS}?to=2026-03-15T00:00:00Z")).await;

    let sent = &answer["series"][0]["latency_ms"]["sent"];
    assert_eq!(sent["count"], 40);
    // The nearest rank: the 20th, 38th and 40th of 40.
    for (name, rank) in [("p50", 20), ("p95", 38), ("p99", 40)] {
        let shown = sent[name].as_f64().unwrap();
        let exact = f64::from(u32::try_from(exact[rank - 1]).unwrap());
        assert!(
            (shown - exact).abs() <= exact * 0.02,
            "{name}: {exact} → {shown}"
        );
    }
    assert_eq!(
        answer["series"][0]["latency_ms"]["delivered"],
        json!({"p50": null, "p95": null, "p99": null, "count": 0})
    );
}

async fn everything_wrong_with_a_question_is_said(f: &Fixture) {
    for number in 0..8 {
        let body = json!({"workflow_id": format!("w{number}"), "subscriber": {"id": "ada"}});
        request(f, &body).await;
    }
    for (query, pointers) in [
        ("interval=week", vec!["?interval"]),
        ("group_by=status", vec!["?group_by"]),
        ("group_by=channel,colour", vec!["?group_by"]),
        ("from=x&to=y", vec!["?from", "?to"]),
        (
            "from=2026-03-14T09:30:01Z&to=2026-03-14T09:30:00Z",
            vec!["?from"],
        ),
        ("from=2026-03-14T09:30:01Z", vec!["?from"]),
        (
            "from=2026-03-07T09:00:00Z&to=2026-03-14T09:00:00Z&interval=minute",
            vec!["?interval"],
        ),
        ("limit=1", vec!["?"]),
    ] {
        let refused = f.get(&format!("{METRICS}?{query}")).send().await;
        assert_eq!(refused.pointers(), pointers, "{query}");
    }
    // 24 hours by the minute, eight times.
    let path = format!("{METRICS}?interval=minute&to=2026-03-14T10:00:00Z");
    f.fresh(&path).await;
    let position = "3-8";
    let refused = f
        .get(&format!("{path}&group_by=workflow_id"))
        .header("ledger-min-position", position);
    assert_eq!(refused.send().await.pointers(), ["?group_by"]);
}
