//! What happened, in the order of what happened.

use std::time::Duration;

use notification_ledger::ledger::database::Database;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::fixture::{Fixture, minimal};
use crate::{on_both_databases, snapshot};

on_both_databases!(
    a_timeline_says_what_happened,
    every_event_has_a_line,
    an_entry_says_what_was_known_by_then,
    a_line_does_without_what_was_erased,
    a_timeline_is_in_the_order_of_what_happened,
    a_timeline_is_shown_as_it_was_known_then,
    a_timeline_has_everything_up_to_the_moment_asked_for,
    all_pages_show_what_was_known_at_the_first,
    everything_wrong_with_a_timelines_query_is_said,
);

const TIMELINE: &str = "/v1/timeline";

async fn request(f: &Fixture, body: &Value) -> String {
    let made = f.post("/v1/notifications", body).send().await.expect(201);
    made["id"].as_str().unwrap().to_owned()
}

async fn tell(f: &Fixture, id: &str, fact: &str, body: &Value) {
    let path = format!("/v1/notifications/{id}/{fact}");
    f.post(&path, body).send().await.expect(200);
}

/// One property of each entry of a page.
fn each(page: &Value, name: &str) -> Vec<String> {
    let data = page["data"].as_array().unwrap().iter();
    data.map(|entry| match &entry[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    })
    .collect()
}

/// The positions, without the partition.
async fn positions(f: &Fixture, query: &str) -> Vec<u32> {
    let page = f.fresh(&format!("{TIMELINE}?{query}")).await;
    let positions = each(&page, "position");
    positions
        .iter()
        .map(|position| position[2..].parse().unwrap())
        .collect()
}

async fn a_timeline_says_what_happened(f: &Fixture) {
    let id = f.requested().await;
    f.clock.advance(Duration::from_secs(10));
    let bounced = json!({
        "message": {"channel": "email", "provider_id": "sendgrid"},
        "occurred_at": "2026-03-14T09:30:05Z",
        "bounce_type": "hard",
        "code": "550",
        "reason": "mailbox\n unknown",
        "raw": {"event": "bounce"},
    });
    tell(f, &id, "bounced", &bounced).await;

    let page = f.fresh(TIMELINE).await;

    snapshot!(page, @r#"
    {
      "data": [
        {
          "actor": {
            "id": "00000000-0000-7000-8000-000000000002",
            "kind": "key"
          },
          "channel": null,
          "event_id": "00000000-0000-7000-8000-000000000006",
          "notification_id": "00000000-0000-7000-8000-000000000005",
          "occurred_at": "2026-03-14T09:30:00.000000Z",
          "position": "3-1",
          "recorded_at": "2026-03-14T09:30:00.000000Z",
          "sequence": 1,
          "source": "api",
          "subscriber_id": "ada",
          "summary": "Requested for ada through welcome.",
          "type": "notification.requested",
          "workflow_id": "welcome"
        },
        {
          "actor": {
            "id": "00000000-0000-7000-8000-000000000002",
            "kind": "key"
          },
          "channel": "email",
          "event_id": "00000000-0000-7000-8000-000000000008",
          "notification_id": "00000000-0000-7000-8000-000000000005",
          "occurred_at": "2026-03-14T09:30:05.000000Z",
          "position": "3-2",
          "recorded_at": "2026-03-14T09:30:10.000000Z",
          "sequence": 2,
          "source": "api",
          "subscriber_id": "ada",
          "summary": "E-mail bounced hard (550): mailbox unknown.",
          "type": "notification.bounced",
          "workflow_id": "welcome"
        }
      ],
      "next_cursor": null
    }
    "#);
}

async fn every_event_has_a_line(f: &Fixture) {
    let email =
        json!({"channel": "email", "provider_id": "sendgrid", "provider_message_id": "sg-7Kd2"});
    let full = json!({
        "workflow_id": "order-shipped",
        "subscriber": {"id": "ada"},
        "channels": ["email", "sms"],
        "scheduled_at": "2026-03-14T10:00:00Z",
    });
    let id = request(f, &full).await;
    for (fact, body) in [
        (
            "queue",
            json!({"queue": "bulk", "available_at": "2026-03-14T10:00:00Z"}),
        ),
        (
            "failed",
            json!({"message": email, "error": {"code": "timeout", "message": "No answer."}, "retryable": true, "attempt": 1}),
        ),
        ("queue", json!({})),
        ("sent", json!({"message": email})),
        ("delivered", json!({"message": email})),
        ("seen", json!({"message": email})),
        ("read", json!({"message": email})),
        ("interacted", json!({"message": email, "kind": "clicked"})),
        (
            "suppressed",
            json!({"message": {"channel": "sms"}, "reason": "preference"}),
        ),
        ("sent", json!({"message": {"channel": "fax"}})),
        (
            "failed",
            json!({"message": {"channel": "fax"}, "error": {"message": "x".repeat(300)}}),
        ),
        ("bounced", json!({"message": {"channel": "fax"}})),
    ] {
        f.clock.advance(Duration::from_secs(1));
        tell(f, &id, fact, &body).await;
    }
    let other = f.requested().await;
    f.clock.advance(Duration::from_secs(1));
    tell(
        f,
        &other,
        "retract",
        &json!({"reason": "The order was cancelled."}),
    )
    .await;

    let page = f.fresh(TIMELINE).await;

    let mut lines = each(&page, "summary");
    for line in &mut lines {
        *line = line.replace(&"x".repeat(200), "(200 x)");
    }
    snapshot!(lines, @r#"
    [
      "Requested for ada through order-shipped by email, sms, to be sent at 2026-03-14T10:00:00.000000Z.",
      "Queued in bulk, not before 2026-03-14T10:00:00.000000Z.",
      "E-mail failed at attempt 1 (timeout), and will be tried again: No answer.",
      "Queued again after a failure.",
      "E-mail sent through sendgrid as sg-7Kd2.",
      "E-mail delivered by sendgrid.",
      "E-mail seen.",
      "E-mail read.",
      "E-mail clicked.",
      "SMS not sent on purpose: preference.",
      "Message by fax sent.",
      "Message by fax failed: (200 x)…",
      "Message by fax bounced.",
      "Requested for ada through welcome.",
      "Retracted: The order was cancelled."
    ]
    "#);
    assert_eq!(page["data"][1]["channel"], Value::Null);
    assert_eq!(page["data"][4]["channel"], "email");
}

async fn an_entry_says_what_was_known_by_then(f: &Fixture) {
    let id = f.requested().await;
    let other = json!({"workflow_id": "order-shipped", "subscriber": {"id": "bob"}});
    let other = request(f, &other).await;
    let email = json!({"channel": "email", "provider_message_id": "sg-1"});
    let email_again = json!({"provider_message_id": "sg-1"});
    let sms = json!({"channel": "sms", "provider_message_id": "tw-1"});
    let sms_unnamed = json!({"provider_message_id": "tw-1"});
    for (id, fact, body) in [
        (&id, "queue", json!({})),
        (&id, "sent", json!({ "message": email })),
        (&other, "seen", json!({})),
        (&id, "retract", json!({"reason": "cancelled"})),
        (&id, "delivered", json!({ "message": email_again })),
        (&id, "sent", json!({ "message": sms_unnamed })),
        (&id, "delivered", json!({ "message": sms })),
        (&id, "read", json!({ "message": sms_unnamed })),
    ] {
        f.clock.advance(Duration::from_secs(1));
        tell(f, id, fact, &body).await;
    }
    let expected = [
        ("welcome", None, "Requested for ada through welcome."),
        (
            "order-shipped",
            None,
            "Requested for bob through order-shipped.",
        ),
        ("welcome", None, "Queued."),
        ("welcome", Some("email"), "E-mail sent as sg-1."),
        ("order-shipped", None, "Message seen."),
        ("welcome", None, "Retracted: cancelled."),
        ("welcome", Some("email"), "E-mail delivered."),
        // Only the next says that it was an SMS.
        ("welcome", None, "Message sent as tw-1."),
        ("welcome", Some("sms"), "SMS delivered."),
        ("welcome", Some("sms"), "SMS read."),
    ];
    let entries = async |query: &str| {
        let page = f.fresh(&format!("{TIMELINE}?{query}")).await;
        let entries = page["data"].as_array().unwrap().iter();
        let entries: Vec<_> = entries
            .map(|entry| {
                let text = |name: &str| entry[name].as_str().map(str::to_owned);
                (text("workflow_id"), text("channel"), text("summary"))
            })
            .collect();
        (entries, page["next_cursor"].as_str().map(str::to_owned))
    };
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(workflow, channel, summary)| {
            let owned = |text: &str| Some(text.to_owned());
            (owned(workflow), channel.and_then(owned), owned(summary))
        })
        .collect();

    assert_eq!(entries("").await.0, expected);
    assert_eq!(entries("as_of=3-8").await.0, expected[..8]);
    assert_eq!(entries("as_of=2026-03-14T09:30:05Z").await.0, expected[..7]);
    let (newest, cursor) = entries("order=desc&limit=3").await;
    let (older, _) = entries(&format!("order=desc&limit=3&cursor={}", cursor.unwrap())).await;
    let backwards: Vec<_> = expected.iter().rev().take(6).cloned().collect();
    assert_eq!([newest, older].concat(), backwards);
}

async fn a_line_does_without_what_was_erased(f: &Fixture) {
    let id = f.requested().await;
    f.clock.advance(Duration::from_secs(1));
    let bounced =
        json!({"bounce_type": "soft", "code": "452", "reason": "ada@example.com is full"});
    tell(f, &id, "bounced", &bounced).await;
    f.erase_everybody().await;

    let page = f.fresh(TIMELINE).await;

    let line = "Message bounced softly, the provider goes on trying (452).";
    assert_eq!(page["data"][1]["summary"], line);
    assert!(!page.to_string().contains("ada@"), "{page}");
}

/// Six events about two notifications to two subscribers, told in another order than they happened.
async fn mixed(f: &Fixture) -> [String; 2] {
    let first = request(f, &minimal()).await;
    f.clock.advance(Duration::from_secs(10));
    let other = json!({"workflow_id": "w", "subscriber": {"id": "bob"}});
    let second = request(f, &other).await;
    let at = |second: u32| json!({"occurred_at": format!("2026-03-14T09:30:{second:02}Z")});
    f.clock.advance(Duration::from_secs(10));
    tell(f, &first, "delivered", &at(9)).await;
    tell(f, &second, "delivered", &at(19)).await;
    f.clock.advance(Duration::from_secs(10));
    tell(f, &first, "sent", &at(1)).await;
    tell(f, &second, "sent", &at(10)).await;
    [first, second]
}

async fn a_timeline_is_in_the_order_of_what_happened(f: &Fixture) {
    let [first, second] = mixed(f).await;
    let both = format!("notification_id={first}&notification_id={second}");
    for (query, expected) in [
        ("", &[1, 5, 3, 2, 6, 4][..]),
        ("order=desc", &[4, 6, 2, 3, 5, 1]),
        ("subscriber_id=ada", &[1, 5, 3]),
        (
            "subscriber_id=ada&subscriber_id=bob&order=desc",
            &[4, 6, 2, 3, 5, 1],
        ),
        ("subscriber_id=nobody", &[]),
        (&format!("notification_id={second}"), &[2, 6, 4]),
        (&both, &[1, 5, 3, 2, 6, 4]),
        (
            &format!(
                "notification_id={second}&notification_id={}",
                second.replace('-', "")
            ),
            &[2, 6, 4],
        ),
        (&format!("{both}&subscriber_id=bob"), &[2, 6, 4]),
        (
            &format!("{both}&from=2026-03-14T09:30:01Z&to=2026-03-14T09:30:10Z"),
            &[5, 3],
        ),
        ("from=2026-03-14T09:30:01Z&to=2026-03-14T09:30:10Z", &[5, 3]),
        (
            "from=2026-03-14T09:30:10Z&order=desc&subscriber_id=bob",
            &[4, 6, 2],
        ),
    ] {
        assert_eq!(positions(f, query).await, expected, "{query}");
        // The same in small pages.
        let mut paged = Vec::new();
        let mut cursor = String::new();
        loop {
            let path = format!("{TIMELINE}?limit=2&{query}{cursor}");
            let page = f.fresh(&path).await;
            let shown = each(&page, "position");
            let is_full = shown.len() == 2;
            paged.extend(shown);
            let Some(next) = page["next_cursor"].as_str() else {
                break;
            };
            assert!(is_full, "{query}: {page}");
            cursor = format!("&cursor={next}");
        }
        let expected: Vec<_> = expected
            .iter()
            .map(|position| format!("3-{position}"))
            .collect();
        assert_eq!(paged, expected, "{query}");
    }
}

async fn a_timeline_is_shown_as_it_was_known_then(f: &Fixture) {
    mixed(f).await;
    for (query, expected) in [
        ("as_of=2026-03-14T09:30:30Z", &[1, 5, 3, 2, 6, 4][..]),
        ("as_of=2026-03-14T09:30:20Z", &[1, 3, 2, 4]),
        (
            "as_of=2026-03-14T10:30:29.9+01:00&order=desc",
            &[4, 2, 3, 1],
        ),
        ("as_of=3-5", &[1, 5, 3, 2, 4]),
        ("as_of=3-6&subscriber_id=bob", &[2, 6, 4]),
        ("as_of=3-0", &[]),
        ("as_of=2026-03-14T09:29:59Z", &[]),
    ] {
        assert_eq!(positions(f, query).await, expected, "{query}");
    }
}

/// Sets the version of the timeline's tables: those of a later release are not followed.
async fn tables_of_version(f: &Fixture, version: u8) {
    let set = format!(
        "UPDATE projection_checkpoints SET version = {version} WHERE projection = 'timeline'"
    );
    let set = sqlx::raw_sql(AssertSqlSafe(set));
    match &f.state.database {
        Database::Postgres { pool, .. } => drop(set.execute(pool).await.unwrap()),
        Database::Sqlite { pool, .. } => drop(set.execute(pool).await.unwrap()),
    }
}

async fn a_timeline_has_everything_up_to_the_moment_asked_for(f: &Fixture) {
    let now = "2026-03-14T09:30:00Z";
    let entries = async |as_of: &str| {
        let shown = f.get(&format!("{TIMELINE}?as_of={as_of}")).send().await;
        shown.expect(200)["data"].as_array().unwrap().len()
    };
    for count in 1..=10 {
        let made = f.post("/v1/notifications", &minimal()).send().await;
        let position = made.header("ledger-position").unwrap();
        assert_eq!(entries(position).await, 2 * count - 1);
        f.requested().await;
        assert_eq!(entries(now).await, 2 * count);
    }
    let known = f.fresh(TIMELINE).await;

    tables_of_version(f, 2).await;
    f.clock.advance(Duration::from_secs(10));
    let made = f.post("/v1/notifications", &minimal()).send().await;
    let last = made.header("ledger-position").unwrap();
    // Not yet: later there would be one more.
    for as_of in [last, "2026-03-14T09:30:10Z"] {
        let call = f.get(&format!("{TIMELINE}?as_of={as_of}"));
        call.send().await.problem(503, "projection_behind");
    }
    // Of what was before, nothing is missing.
    assert_eq!(known["data"].as_array().unwrap().len(), 20);
    for as_of in ["3-20", now, "2026-03-14T09:30:09.999999Z"] {
        assert_eq!(entries(as_of).await, 20, "{as_of}");
    }

    tables_of_version(f, 1).await;
    for as_of in [last, "2026-03-14T09:30:10Z"] {
        assert_eq!(entries(as_of).await, 21, "{as_of}");
    }
}

async fn all_pages_show_what_was_known_at_the_first(f: &Fixture) {
    let [first, _] = mixed(f).await;
    let page = f.fresh(&format!("{TIMELINE}?limit=2")).await;
    let cursor = page["next_cursor"].as_str().unwrap();
    // It happened between what the next page shows.
    let late = json!({"occurred_at": "2026-03-14T09:30:10Z"});
    tell(f, &first, "seen", &late).await;

    assert_eq!(
        positions(f, &format!("limit=20&cursor={cursor}")).await,
        [3, 2, 6, 4]
    );
    assert_eq!(positions(f, "").await, [1, 5, 3, 2, 6, 7, 4]);
}

async fn everything_wrong_with_a_timelines_query_is_said(f: &Fixture) {
    for (query, pointers) in [
        ("as_of=yesterday", vec!["?as_of"]),
        ("as_of=4-1", vec!["?as_of"]),
        ("as_of=3-1", vec!["?as_of"]),
        ("as_of=2026-03-14T09:30:01Z", vec!["?as_of"]),
        ("order=down", vec!["?order"]),
        ("notification_id=1", vec!["?notification_id"]),
        ("subscriber_id=", vec!["?subscriber_id"]),
        (
            "from=2026-03-14T09:30:01Z&to=2026-03-14T09:30:00Z",
            vec!["?from"],
        ),
        ("order=x&status=sent", vec!["?order", "?"]),
    ] {
        let refused = f.get(&format!("{TIMELINE}?{query}")).send().await;
        assert_eq!(refused.pointers(), pointers, "{query}");
    }
}
