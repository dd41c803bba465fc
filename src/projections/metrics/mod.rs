//! `metrics`: how many messages reached which stage, and how long it took.
//!
//! Counts messages, not reports: a message counts once per stage, at the time that decides. A
//! notification's own stages (requested, queued, retracted) count under each channel it names.
//! Every count follows from a stream's state, so a fact that comes late moves it to its true
//! minute: what the state said before is taken back.

pub mod query;

use std::collections::HashMap;

use super::latency;
use super::stream::{Folded, Stream, Unreadable};
use super::table::{Cell, Rows, Table, Writing, columns};
use crate::domain::ids::WorkflowId;
use crate::domain::state::{Message, Status};
use crate::domain::time::Timestamp;

pub static METRICS: Table = Table {
    name: "metrics",
    row_type: "metrics_row",
    key: 7,
    writing: Writing::Add,
    columns: columns![
        partition: Small,
        tenant_id: Text,
        resolution: Int,
        at: Time,
        workflow_id: Text,
        channel: Text,
        provider_id: Text,
        requested: Int,
        queued: Int,
        sent: Int,
        delivered: Int,
        bounced: Int,
        failed: Int,
        failed_unsent: Int,
        suppressed: Int,
        retracted: Int,
        seen: Int,
        read: Int,
    ],
};

pub static LATENCIES: Table = Table {
    name: "metric_latencies",
    row_type: "metric_latencies_row",
    key: 9,
    writing: Writing::Add,
    columns: columns![
        partition: Small,
        tenant_id: Text,
        resolution: Int,
        at: Time,
        workflow_id: Text,
        channel: Text,
        provider_id: Text,
        stage: Text,
        bucket: Int,
        messages: Int,
    ],
};

/// Lengths of intervals that are counted, in seconds.
pub const MINUTE: i64 = 60;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;
/// Index of `resolution` and `at` among the columns of both tables.
const RESOLUTION: usize = 2;
const AT: usize = 3;

/// What is counted, in the order of the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Requested,
    Queued,
    Sent,
    Delivered,
    Bounced,
    Failed,
    FailedUnsent,
    Suppressed,
    Retracted,
    Seen,
    Read,
}

const STAGES: usize = 11;

/// Where and when something is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place<'a> {
    minute: i64,
    channel: &'a str,
    provider_id: &'a str,
}

/// What one stream contributes, by the minute; [`roll_up`] adds hours and days.
pub(super) fn rows<'a>(
    stream: &'a Stream<'a>,
    metrics: &mut Rows<'a>,
    latencies: &mut Rows<'a>,
) -> Result<(), Unreadable> {
    let Some(folded) = stream.notification()? else {
        return Ok(());
    };
    let workflow_id = folded
        .notification
        .workflow_id()
        .map_or("", WorkflowId::as_str);
    for (place, counts) in counts(folded) {
        let [c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10] = counts.map(Cell::Int);
        metrics.push([
            i64::from(stream.partition.0).into(),
            stream.tenant_id.into(),
            MINUTE.into(),
            place.minute.into(),
            workflow_id.into(),
            place.channel.into(),
            place.provider_id.into(),
            c0,
            c1,
            c2,
            c3,
            c4,
            c5,
            c6,
            c7,
            c8,
            c9,
            c10,
        ]);
    }
    let Some(request) = folded.notification.request() else {
        return Ok(());
    };
    for message in &folded.summary.messages {
        for (stage, reached_at) in [
            ("sent", message.times.sent_at),
            ("delivered", delivered_at(message)),
        ] {
            let Some(reached_at) = reached_at else {
                continue;
            };
            let micros = reached_at.as_micros() - request.occurred_at.as_micros();
            let place = place(message, reached_at);
            latencies.push([
                i64::from(stream.partition.0).into(),
                stream.tenant_id.into(),
                MINUTE.into(),
                place.minute.into(),
                workflow_id.into(),
                place.channel.into(),
                place.provider_id.into(),
                stage.into(),
                latency::bucket(micros).into(),
                1.into(),
            ]);
        }
    }
    Ok(())
}

/// Few places per notification, so a list is looked through faster than a map.
fn counts<'a>(folded: &'a Folded) -> Vec<(Place<'a>, [i64; STAGES])> {
    let Folded {
        notification,
        summary,
    } = folded;
    let mut counts: Vec<(Place<'a>, [i64; STAGES])> = Vec::with_capacity(4);
    let mut count = |place: Place<'a>, stage: Stage| {
        let index = stage as usize;
        if let Some((_, counts)) = counts.iter_mut().find(|(known, _)| *known == place) {
            counts[index] += 1;
        } else {
            let mut new = [0; STAGES];
            new[index] = 1;
            counts.push((place, new));
        }
    };
    let own = [
        (
            Stage::Requested,
            notification.request().map(|request| request.occurred_at),
        ),
        (Stage::Queued, summary.queued_at),
        (
            Stage::Retracted,
            notification
                .retraction()
                .map(|retraction| retraction.occurred_at),
        ),
    ];
    let channels = notification
        .request()
        .map_or(&[][..], |request| &request.value.channels);
    for (stage, reached_at) in own {
        let Some(reached_at) = reached_at else {
            continue;
        };
        let minute = start(reached_at, MINUTE);
        let named = channels.iter().map(String::as_str);
        let unnamed = channels.is_empty().then_some("");
        for channel in named.chain(unnamed) {
            count(
                Place {
                    minute,
                    channel,
                    provider_id: "",
                },
                stage,
            );
        }
    }
    for message in &summary.messages {
        for (stage, reached_at) in reached(message) {
            if let Some(reached_at) = reached_at {
                count(place(message, reached_at), stage);
            }
        }
    }
    counts
}

/// When a message reached what it counts under. It has one ending at most: the one that decides.
fn reached(message: &Message) -> [(Stage, Option<Timestamp>); 8] {
    let times = &message.times;
    let ended = |status: Status, at: Option<Timestamp>| at.filter(|_| message.status == status);
    let failed = ended(Status::Failed, times.failed_at);
    [
        (Stage::Sent, times.sent_at),
        (Stage::Delivered, delivered_at(message)),
        (Stage::Bounced, ended(Status::Bounced, times.bounced_at)),
        (Stage::Failed, failed),
        (
            Stage::FailedUnsent,
            failed.filter(|_| times.sent_at.is_none()),
        ),
        (
            Stage::Suppressed,
            // The one that stands, not one that a retry has superseded.
            ended(Status::Suppressed, message.status_at),
        ),
        (Stage::Seen, times.seen_at),
        (Stage::Read, times.read_at),
    ]
}

fn delivered_at(message: &Message) -> Option<Timestamp> {
    message
        .times
        .delivered_at
        .filter(|_| message.status == Status::Delivered)
}

fn place(message: &Message, at: Timestamp) -> Place<'_> {
    Place {
        minute: start(at, MINUTE),
        channel: message.identity.channel.as_deref().unwrap_or_default(),
        provider_id: message.identity.provider_id.as_deref().unwrap_or_default(),
    }
}

/// The beginning of the interval of `seconds` in which a time lies, in microseconds.
fn start(at: Timestamp, seconds: i64) -> i64 {
    floor(at.as_micros(), seconds)
}

/// The beginning of the interval of `seconds` in which a time lies; both in microseconds.
pub(super) fn floor(micros: i64, seconds: i64) -> i64 {
    let length = seconds * 1_000_000;
    micros.div_euclid(length) * length
}

/// In which interval a row counts: from, to, in microseconds.
pub(super) fn interval(row: &[Cell<'_>]) -> Option<(i64, i64)> {
    let (at, seconds) = (row[AT].as_int()?, row[RESOLUTION].as_int()?);
    Some((at, at.saturating_add(seconds.saturating_mul(1_000_000))))
}

/// Adds to rows by the minute those by the hour and by the day.
pub(super) fn roll_up<'a>(rows: &mut Rows<'a>) {
    let mut sums: HashMap<Vec<Cell<'a>>, Vec<i64>> = HashMap::new();
    let key = rows.table.key;
    for row in rows.iter() {
        let Some(minute) = row[AT].as_int() else {
            continue;
        };
        for seconds in [HOUR, DAY] {
            let mut place = row[..key].to_vec();
            place[RESOLUTION] = seconds.into();
            place[AT] = floor(minute, seconds).into();
            let sum = sums
                .entry(place)
                .or_insert_with(|| vec![0; row.len() - key]);
            for (sum, cell) in sum.iter_mut().zip(&row[key..]) {
                *sum += cell.as_int().unwrap_or_default();
            }
        }
    }
    for (mut row, sum) in sums {
        row.extend(sum.into_iter().map(Cell::Int));
        rows.extend_from_row(&row);
    }
}
