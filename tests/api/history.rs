//! What happened, in order, and what was known when.

use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture::Fixture;
use crate::on_both_databases;

on_both_databases!(
    a_notification_is_shown_as_it_was_known_then,
    the_log_comes_in_pages_in_its_order,
    the_log_is_filtered,
    large_events_come_in_smaller_pages,
    a_long_history_comes_whole_or_in_pages,
);

const NOTIFICATIONS: &str = "/v1/notifications";

async fn a_notification_is_shown_as_it_was_known_then(f: &Fixture) {
    let id = f.requested().await;
    f.clock.advance(Duration::from_secs(10));
    let path = format!("{NOTIFICATIONS}/{id}");
    let early = json!({"occurred_at": "2026-03-14T09:30:01Z"});
    f.post(&format!("{path}/sent"), &early)
        .send()
        .await
        .expect(200);
    f.clock.advance(Duration::from_secs(10));
    let seen = async |as_of: &str| {
        let shown = f
            .get(&format!("{path}?as_of={as_of}"))
            .send()
            .await
            .expect(200);
        let events = f
            .get(&format!("{path}/events?as_of={as_of}"))
            .send()
            .await
            .expect(200);
        assert_eq!(
            events["data"].as_array().unwrap().len() as u64,
            shown["version"]
        );
        shown["status"].as_str().unwrap().to_owned()
    };

    // By when it was recorded, not by when it happened.
    assert_eq!(seen("2026-03-14T09:30:05Z").await, "requested");
    assert_eq!(seen("2026-03-14T09:30:10Z").await, "sent");
    assert_eq!(
        seen("2026-03-14T10:30:09.999999%2B01:00").await,
        "requested"
    );
    // As everybody types it.
    assert_eq!(seen("2026-03-14T10:30:10+01:00").await, "sent");
    assert_eq!(seen("3-1").await, "requested");
    assert_eq!(seen("3-2").await, "sent");

    for before in ["2026-03-14T09:29:59Z", "3-0"] {
        let refused = f.get(&format!("{path}?as_of={before}")).send().await;
        refused.problem(404, "not_found");
    }
    for bad in [
        "yesterday",
        "4-1",
        "3-3",
        "3-999",
        "2026-03-14T09:30:21Z",
        "9999-01-01T00:00:00Z",
    ] {
        for path in [path.clone(), format!("{path}/events")] {
            let refused = f.get(&format!("{path}?as_of={bad}")).send().await;
            assert_eq!(refused.pointers(), ["?as_of"], "{bad}");
        }
    }
    let unknown = f
        .get(&format!("{path}?asof=3-1"))
        .send()
        .await
        .problem(422, "invalid");
    assert!(
        unknown["detail"].as_str().unwrap().contains("asof"),
        "{unknown}"
    );
}

async fn the_log_comes_in_pages_in_its_order(f: &Fixture) {
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(json!(f.requested().await));
    }
    let rival = f.tenant("rival").await;
    f.post(NOTIFICATIONS, &crate::fixture::minimal())
        .key(&rival)
        .send()
        .await
        .expect(201);

    let mut seen = Vec::new();
    let mut path = "/v1/events?limit=2".to_owned();
    loop {
        let page = f.get(&path).send().await.expect(200);
        let data = page["data"].as_array().unwrap();
        assert!(data.len() <= 2);
        seen.extend(data.iter().map(|event| event["notification_id"].clone()));
        // What comes meanwhile comes last.
        if seen.len() == 2 {
            ids.push(json!(f.requested().await));
        }
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        path = format!("/v1/events?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, ids);

    let after = f.get("/v1/events?after=3-5").send().await.expect(200);
    assert_eq!(after["data"][0]["position"], "3-6");
    let end = f.get("/v1/events?after=3-6").send().await.expect(200);
    assert_eq!(end, json!({"data": [], "next_cursor": null}));
}

async fn large_events_come_in_smaller_pages(f: &Fixture) {
    const COUNT: usize = 20;
    let mut large = crate::fixture::minimal();
    large["payload"] = json!({"text": "x".repeat(500_000)});
    let mut ids = Vec::new();
    for _ in 0..COUNT {
        let made = f.post(NOTIFICATIONS, &large).send().await.expect(201);
        ids.push(made["id"].clone());
    }

    let mut seen = Vec::new();
    let mut pages = 0;
    let mut path = "/v1/events?limit=200".to_owned();
    loop {
        let page = f.get(&path).send().await.expect(200);
        let data = page["data"].as_array().unwrap();
        seen.extend(data.iter().map(|event| event["notification_id"].clone()));
        pages += 1;
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        path = format!("/v1/events?limit=200&cursor={cursor}");
    }

    assert_eq!(seen, ids);
    assert_eq!(pages, 2);
}

async fn a_long_history_comes_whole_or_in_pages(f: &Fixture) {
    const COUNT: usize = 75;
    let id = f.requested().await;
    let facts: Vec<_> = (1..COUNT)
        .map(|number| {
            let message = json!({"provider_message_id": format!("sg-{number}")});
            json!({"type": "sent", "notification_id": id, "message": message})
        })
        .collect();
    let told = f.post("/v1/commands", &json!({ "commands": facts }));
    told.send().await.expect(200);
    let path = format!("{NOTIFICATIONS}/{id}/events");
    let read = async |query: &str| {
        let page = f.get(&format!("{path}?{query}")).send().await.expect(200);
        let data = page["data"].as_array().unwrap().iter();
        let sequences: Vec<_> = data.map(|event| event["sequence"].as_u64()).collect();
        (sequences, page["next_cursor"].as_str().map(str::to_owned))
    };
    let numbers = |range: std::ops::RangeInclusive<u64>| range.map(Some).collect::<Vec<_>>();

    assert_eq!(read("").await, (numbers(1..=75), None));
    for end in [1, 31, 32, 33, 64, 75] {
        let known = numbers(1..=end);
        assert_eq!(read(&format!("as_of=3-{end}")).await, (known, None));
    }
    for limit in [1, 25, 31, 32, 33, 74, 75, 76, 200] {
        let mut seen = Vec::new();
        let mut query = format!("limit={limit}");
        loop {
            let (page, cursor) = read(&query).await;
            let left = COUNT - seen.len();
            assert_eq!(page.len(), left.min(limit), "{query}");
            seen.extend(page);
            let Some(cursor) = cursor else { break };
            query = format!("limit={limit}&cursor={cursor}");
        }
        assert_eq!(seen, numbers(1..=75), "{limit}");
    }
    let (page, cursor) = read("limit=10&as_of=3-12").await;
    assert_eq!(page, numbers(1..=10));
    let rest = format!("as_of=3-12&cursor={}", cursor.unwrap());
    assert_eq!(read(&rest).await, (numbers(11..=12), None));
    assert_eq!(read("cursor=75").await, (vec![], None));

    let refused = f.get(&format!("{path}?limit=0&cursor=x")).send().await;
    assert_eq!(refused.pointers(), ["?limit", "?cursor"]);
    let nobody = "00000000-0000-7000-8000-00000000ffff";
    for query in ["", "cursor=3", "as_of=3-1&limit=1"] {
        let path = format!("{NOTIFICATIONS}/{nobody}/events?{query}");
        f.get(&path).send().await.problem(404, "not_found");
    }
}

async fn the_log_is_filtered(f: &Fixture) {
    for (subscriber, call) in [("ada", "sent"), ("ada", "delivered"), ("bob", "sent")] {
        let request = json!({"workflow_id": "w", "subscriber": {"id": subscriber}});
        let made = f.post(NOTIFICATIONS, &request).send().await.expect(201);
        f.clock.advance(Duration::from_secs(10));
        let path = format!("{NOTIFICATIONS}/{}/{call}", made["id"].as_str().unwrap());
        f.post(&path, &json!({})).send().await.expect(200);
    }
    let positions = async |query: &str| {
        let page = f
            .get(&format!("/v1/events?{query}"))
            .send()
            .await
            .expect(200);
        let events: Vec<Value> = page["data"].as_array().unwrap().clone();
        let place = |event: &Value| event["position"].as_str().unwrap()[2..].parse().unwrap();
        events.iter().map(place).collect::<Vec<u32>>()
    };

    assert_eq!(positions("").await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(positions("types=notification.sent").await, [2, 6]);
    let either = "types=notification.sent,notification.delivered";
    assert_eq!(positions(either).await, [2, 4, 6]);
    let repeated = "types=notification.sent&types=notification.delivered&after=3-2";
    assert_eq!(positions(repeated).await, [4, 6]);
    assert_eq!(positions("subscriber_id=bob").await, [5, 6]);
    assert_eq!(
        positions("subscriber_id=bob&subscriber_id=ada&limit=200")
            .await
            .len(),
        6
    );
    assert!(positions("subscriber_id=nobody").await.is_empty());
    // From is inclusive, to is not.
    let window = "from=2026-03-14T09:30:10Z&to=2026-03-14T09:30:20Z";
    assert_eq!(positions(window).await, [2, 3]);

    for (query, pointers) in [
        ("limit=0", vec!["?limit"]),
        ("limit=201", vec!["?limit"]),
        ("limit=-1", vec!["?limit"]),
        ("limit=ten", vec!["?limit"]),
        ("types=sent", vec!["?types"]),
        ("after=1&cursor=5-1", vec!["?after", "?cursor"]),
        ("from=x&to=y", vec!["?from", "?to"]),
        (
            "from=2026-03-14T09:30:10Z&to=2026-03-14T09:30:09Z",
            vec!["?from"],
        ),
        ("subscriber_id=", vec!["?subscriber_id"]),
        ("subscriber_id=a%00b", vec!["?subscriber_id"]),
        ("unknown=1", vec!["?"]),
        ("limit=1&limit=2", vec!["?limit"]),
    ] {
        let refused = f.get(&format!("/v1/events?{query}")).send().await;
        assert_eq!(refused.pointers(), pointers, "{query}");
    }
    let odd = f.get("/v1/events?subscriber_id=%ff").send().await;
    assert!(odd.status.as_u16() < 500, "{}", odd.text());
}
