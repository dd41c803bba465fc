//! First pages of lists, by every filter, over a ledger with many notifications.
//!
//! The ledger is filled through the API first, if it has too few. Each filter is asked for values
//! that many rows have, that few have and that none has: an index that only fits one of these would
//! show. So would, with ranges of time that end long before the newest rows, a walk past these.

use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use hdrhistogram::Histogram;
use notification_ledger::domain::time::Timestamp;

use crate::http::{Connection, Target};

/// Notifications in each bulk call: with their facts just below what a call takes.
const CALL: u64 = 250;
/// Callers that fill at the same time.
const FILLERS: u64 = 4;

/// Measures first pages.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Host and port of the service.
    #[arg(long, default_value = "127.0.0.1:8080")]
    address: String,
    /// A key with the scopes `read` and `write`, of a tenant that only this uses.
    #[arg(long, env = "BENCH_KEY")]
    key: String,
    /// Fill the ledger with so many notifications first, 3 to 4 events each.
    #[arg(long, default_value_t = 0)]
    fill: u64,
    /// Requests per filter.
    #[arg(long, default_value_t = 200)]
    requests: u64,
    /// How many notifications there are, if they were filled in earlier.
    #[arg(long, default_value_t = 1_000_000)]
    notifications: u64,
}

pub async fn run(arguments: Arguments) -> Result<()> {
    let target = Target {
        address: arguments.address,
        key: arguments.key,
    };
    let mut connection = Connection::open(&target).await?;
    if arguments.fill > 0 {
        let position = fill(&target, arguments.fill).await?;
        // Lists are asked again until they have caught up.
        let header = format!("Ledger-Min-Position: {position}\r\n");
        for list in ["notifications", "notification-logs", "timeline"] {
            let path = format!("/v1/{list}?limit=1");
            while connection.call("GET", &path, &header, "").await?.status == 503 {}
        }
    }
    let span = Span {
        oldest: first_time(&mut connection, "/v1/timeline?limit=1").await?,
        newest: first_time(&mut connection, "/v1/timeline?limit=1&order=desc").await?,
    };
    println!("| list | p50 ms | p99 ms | longest ms | rows |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    for path in paths(arguments.notifications, span) {
        let mut histogram = Histogram::<u64>::new(3)?;
        let mut rows = 0;
        for number in 0..arguments.requests {
            let path = path.replace(
                "{n}",
                &(number * 7919 % arguments.notifications).to_string(),
            );
            let path = path.replace("{s}", &(number * 7919 % SUBSCRIBERS).to_string());
            let asked = Instant::now();
            let answer = connection.call("GET", &path, "", "").await?;
            let body = answer.ok(200).with_context(|| path.clone())?;
            histogram.record(u64::try_from(asked.elapsed().as_micros())?)?;
            rows = rows.max(count(body));
        }
        let ms = |micros: u64| micros as f64 / 1000.0;
        println!(
            "| `{path}` | {:.1} | {:.1} | {:.1} | {rows} |",
            ms(histogram.value_at_quantile(0.50)),
            ms(histogram.value_at_quantile(0.99)),
            ms(histogram.max()),
        );
    }
    Ok(())
}

const SUBSCRIBERS: u64 = 50_000;

/// Items of a page, told by their positions in the answer's nesting.
fn count(body: &[u8]) -> usize {
    let (mut depth, mut items, mut is_text, mut is_escaped) = (0, 0, false, false);
    for byte in body {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b'{' | b'[' if !is_text => {
                depth += 1;
                // The page, its list, an item.
                items += usize::from(depth == 3 && *byte == b'{');
            }
            b'}' | b']' if !is_text => depth -= 1,
            _ => {}
        }
    }
    items
}

/// From when to when the ledger's events are.
#[derive(Clone, Copy, Debug)]
struct Span {
    oldest: Timestamp,
    newest: Timestamp,
}

impl Span {
    /// When so many thousandths of it had passed.
    fn at(self, thousandths: i64) -> Timestamp {
        let micros = self.newest.as_micros() - self.oldest.as_micros();
        Timestamp::from_micros_clamped(self.oldest.as_micros() + micros / 1000 * thousandths)
    }
}

/// When the first entry of a page was.
async fn first_time(connection: &mut Connection, path: &str) -> Result<Timestamp> {
    let answer = connection.call("GET", path, "", "").await?;
    let page: serde_json::Value = serde_json::from_slice(answer.ok(200)?)?;
    let first = page.pointer("/data/0/occurred_at").cloned();
    Ok(serde_json::from_value(first.context("an empty list")?)?)
}

/// Ranges of time, alone and with filters that many and few rows pass, for both lists.
fn ranges(span: Span) -> Vec<String> {
    // Nearly all rows are newer than most of these.
    let (begin, end) = (span.at(5), span.at(10));
    let moment = Timestamp::from_micros_clamped(end.as_micros() + 1_000);
    let mut paths = Vec::new();
    for list in ["notifications", "notification-logs"] {
        for filter in [
            "",
            "status=delivered&",
            "status=bounced&",
            "workflow_id=welcome&",
            "workflow_id=rare&",
        ] {
            paths.push(format!("/v1/{list}?{filter}to={end}"));
            paths.push(format!("/v1/{list}?{filter}from={begin}&to={end}"));
        }
        // A gap, or next to one.
        paths.push(format!("/v1/{list}?from={end}&to={moment}"));
        paths.push(format!(
            "/v1/{list}?status=delivered&from={end}&to={moment}"
        ));
        for filter in ["", "status=delivered&", "status=retracted&"] {
            paths.push(format!("/v1/{list}?{filter}from={}", span.at(900)));
        }
        paths.push(format!("/v1/{list}?to={}", span.oldest));
    }
    paths.push(format!("/v1/notifications?metadata[region]=eu&to={end}"));
    paths
}

/// What is asked; `{n}` and `{s}` are numbers of a notification and of a subscriber.
fn paths(notifications: u64, span: Span) -> Vec<String> {
    let rare = notifications / 2;
    let mut paths = vec![
        "/v1/notifications".to_owned(),
        "/v1/notifications?limit=200".to_owned(),
    ];
    for filter in [
        "status=delivered",
        "status=bounced",
        "status=retracted",
        "status=bounced&status=failed&status=suppressed",
        "workflow_id=welcome",
        "workflow_id=rare",
        "workflow_id=none",
        "subscriber_id=cust-{s}",
        "category=marketing",
        "category=escalation",
        "external_id=order-{n}",
        "metadata[region]=eu",
        "metadata[order]={n}",
        "metadata[region]=mars",
        "status=bounced&workflow_id=rare",
        "from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z",
    ] {
        paths.push(format!("/v1/notifications?{filter}"));
    }
    for filter in [
        "",
        "status=bounced",
        "channel=email",
        "channel=sms",
        "workflow_id=rare",
        "step_id=step-1",
        "subscriber_id=cust-{s}",
        "provider_id=northmail",
        "provider_id=rare",
        "external_id=order-{n}",
        "error_code=550",
        "error_code=none",
        "audience=support",
    ] {
        paths.push(format!("/v1/notification-logs?{filter}"));
    }
    paths.push("/v1/timeline?order=desc".to_owned());
    paths.push("/v1/timeline".to_owned());
    paths.push("/v1/timeline?subscriber_id=cust-{s}".to_owned());
    paths.push(format!("/v1/notification-logs?external_id=order-{rare}"));
    paths.push(
        "/v1/metrics?from=2026-01-01T00:00:00Z&interval=day&group_by=workflow_id,channel"
            .to_owned(),
    );
    paths.extend(ranges(span));
    paths
}

/// Fills the ledger; says how far it then is.
async fn fill(target: &Target, notifications: u64) -> Result<String> {
    let begun = Instant::now();
    let mut fillers = tokio::task::JoinSet::new();
    for filler in 0..FILLERS {
        let target = target.clone();
        fillers.spawn(async move {
            let mut connection = Connection::open(&target).await?;
            let mut position = String::new();
            let mut first = filler * CALL;
            while first < notifications {
                let body = lives(first, (first + CALL).min(notifications));
                let answer = connection.call("POST", "/v1/commands", "", &body).await?;
                position = answer
                    .header("ledger-position")
                    .context("no position")?
                    .to_owned();
                answer.ok(200)?;
                if first.is_multiple_of(50_000) {
                    eprintln!(
                        "  {first} of {notifications}, {:.0} s",
                        begun.elapsed().as_secs_f64()
                    );
                }
                first += CALL * FILLERS;
            }
            anyhow::Ok(position)
        });
    }
    let mut last = String::new();
    while let Some(filler) = fillers.join_next().await {
        let position = filler??;
        let number = |token: &str| token.rsplit('-').next().and_then(|n| n.parse::<u64>().ok());
        if number(&position) > number(&last) {
            last = position;
        }
    }
    Ok(last)
}

/// The commands of some notifications. What makes one differ from the next follows from its number.
fn lives(first: u64, end: u64) -> String {
    let mut items = Vec::new();
    for number in first..end {
        let id = uuid::Uuid::now_v7();
        let workflow = match number {
            n if n.is_multiple_of(9_973) => "rare",
            n if n.is_multiple_of(3) => "welcome",
            _ => "parcel-dispatched",
        };
        let category = match number {
            n if n.is_multiple_of(5_003) => "escalation",
            n if n.is_multiple_of(5) => "marketing",
            _ => "transactional",
        };
        let channel = if number.is_multiple_of(7) {
            "sms"
        } else {
            "email"
        };
        let provider = if number.is_multiple_of(10_007) {
            "rare"
        } else {
            "northmail"
        };
        let step = if number.is_multiple_of(11) {
            r#","step_id":"step-1""#
        } else {
            ""
        };
        let audience = if number.is_multiple_of(997) {
            r#","classification":{"audience":"support"}"#
        } else {
            ""
        };
        let subscriber = number % SUBSCRIBERS;
        items.push(format!(
            r#"{{"type":"request","id":"{id}","workflow_id":"{workflow}","external_id":"order-{number}","channels":["{channel}"],"subscriber":{{"id":"cust-{subscriber}"}},"category":"{category}","metadata":{{"region":"eu","order":"{number}"}}{audience}}}"#
        ));
        let message = format!(
            r#""message":{{"channel":"{channel}","provider_id":"{provider}","provider_message_id":"m-{number}"{step}}}"#
        );
        items.push(format!(
            r#"{{"type":"sent","notification_id":"{id}",{message}}}"#
        ));
        items.push(match number % 50 {
            0 => format!(r#"{{"type":"bounced","notification_id":"{id}","code":"550",{message}}}"#),
            _ => format!(r#"{{"type":"delivered","notification_id":"{id}",{message}}}"#),
        });
        if number.is_multiple_of(10_000) {
            items.push(format!(
                r#"{{"type":"seen","notification_id":"{id}",{message}}}"#
            ));
        }
    }
    format!(r#"{{"commands":[{}]}}"#, items.join(","))
}
