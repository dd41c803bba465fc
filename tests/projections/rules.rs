//! What counts as what, where and when, with numbers worked out by hand.

use std::sync::Arc;

use notification_ledger::domain::event::{
    BounceType, Context, Fact, MessageRef, Report, Requested,
};
use notification_ledger::domain::ids::{EventId, StreamId};
use notification_ledger::domain::notification::{Action, Notification, NotificationCommand};
use notification_ledger::domain::time::Timestamp;
use notification_ledger::ledger::Beginning;
use notification_ledger::ledger::record::Partition;
use notification_ledger::projections::Projection;
use notification_ledger::projections::latency;
use notification_ledger::projections::metrics::{DAY, HOUR, LATENCIES, METRICS, MINUTE};
use notification_ledger::projections::notification_logs::NOTIFICATION_LOGS;
use notification_ledger::projections::step::Wanted;

use crate::client::{queue, request};
use crate::process::Process;
use crate::support::{Place, on_each_database};
use crate::tables::{Row, Tables, assert_expected};

on_each_database!("current_thread":
    a_request_counts_under_each_channel_it_names,
    a_request_that_names_no_channel_counts_under_none,
    two_deliveries_of_one_message_count_once,
    a_delivery_after_a_bounce_moves_the_count,
    a_failure_that_is_retried_counts_no_more,
    a_failure_before_sending_is_told_from_one_after_it,
    a_suppression_counts_at_the_time_that_decides,
    a_late_fact_moves_the_count_to_its_minute,
    hours_and_days_agree_with_minutes,
    latencies_are_measured_from_the_request,
    two_messages_that_turn_out_to_be_one_count_once,
    the_longest_names_fit,
);

/// One notification, its reporters, and somebody who looks at the tables now and then.
struct Desk<'a> {
    place: &'a Place,
    process: Process,
    stream: StreamId,
}

impl<'a> Desk<'a> {
    async fn of(place: &'a Place) -> Self {
        let process = Process::idle(place);
        process.projections.store().add_checkpoints().await.unwrap();
        Self {
            place,
            stream: process.client.new_stream(),
            process,
        }
    }

    /// Of a notification that was requested at nine, naming no channel.
    async fn requested(place: &'a Place) -> Self {
        let desk = Self::of(place).await;
        desk.act(0, request()).await;
        desk
    }

    /// So many seconds after nine.
    async fn act(&self, seconds: i64, action: Action) {
        let client = &self.process.client;
        let now = client.surroundings.now().as_micros();
        let command = NotificationCommand {
            event_id: EventId(client.surroundings.ids.time_ordered()),
            occurred_at: Timestamp::from_micros(now + seconds * 1_000_000).unwrap(),
            private: None,
            action,
        };
        let told = client
            .ledger
            .execute::<Notification>(&client.order, self.stream, Beginning::Unknown, command)
            .await;
        told.unwrap();
    }

    async fn report(&self, seconds: i64, fact: Fact, message: MessageRef) {
        let report = Report {
            fact,
            message,
            untimed: false,
            context: Context::default(),
            delivery_id: None,
        };
        let action = Action::Report {
            report: Arc::new(report),
            adoption: None,
        };
        self.act(seconds, action).await;
    }

    /// About the one e-mail.
    async fn tell(&self, seconds: i64, fact: Fact) {
        self.report(seconds, fact, email("sg-1")).await;
    }

    /// Brings the tables up to date, and says what they are.
    async fn look(&self) -> Tables {
        let wanted = Projection::ALL.map(|projection| Wanted {
            projection,
            events_max: 1000,
        });
        let stepper = self.process.stepper();
        stepper.step(Partition(0), &wanted).await.unwrap().unwrap();
        assert_expected(&stepper.store, self.place.storage.as_ref()).await
    }

    /// What is counted by the minute: `1 email/sendgrid sent 1` is one minute past nine.
    async fn minutes(&self) -> Vec<String> {
        counts(self.look().await.rows(&METRICS), MINUTE)
    }

    async fn leave(self) {
        self.process.stop().await;
    }
}

fn counts(rows: &[Row], resolution: i64) -> Vec<String> {
    const NINE_O_CLOCK: i64 = 1_773_478_800_000_000;
    let mut counts = Vec::new();
    let rows = rows
        .iter()
        .filter(|row| row[2].as_int() == Some(resolution));
    for row in rows {
        let at = (row[3].as_int().unwrap() - NINE_O_CLOCK) / 60_000_000;
        let place = [5, 6]
            .map(|column| row[column].as_text().unwrap())
            .join("/");
        for (column, count) in METRICS.columns.iter().zip(row).skip(METRICS.key) {
            let count = count.as_int().unwrap();
            if count != 0 {
                counts.push(format!("{at} {place} {} {count}", column.name));
            }
        }
    }
    counts
}

fn email(provider_message_id: &str) -> MessageRef {
    MessageRef {
        provider_message_id: Some(provider_message_id.to_owned()),
        channel: Some("email".to_owned()),
        provider_id: Some("sendgrid".to_owned()),
        ..MessageRef::default()
    }
}

fn bounced() -> Fact {
    Fact::Bounced {
        bounce_type: BounceType::Hard,
        code: Some("550".to_owned()),
    }
}

fn failed(retryable: bool, is_final: bool) -> Fact {
    Fact::Failed {
        code: Some("timeout".to_owned()),
        retryable,
        is_final,
        attempt: None,
    }
}

fn suppressed() -> Fact {
    Fact::Suppressed {
        reason: "rate limit".to_owned(),
    }
}

async fn a_request_counts_under_each_channel_it_names(place: &Place) {
    let desk = Desk::of(place).await;
    let Action::Request(mut requested) = request() else {
        unreachable!("it is one")
    };
    Arc::make_mut(&mut requested).channels = vec!["email".to_owned(), "push".to_owned()];
    desk.act(0, Action::Request(requested)).await;
    desk.act(60, queue()).await;
    desk.tell(60, Fact::Sent).await;
    desk.act(120, Action::Retract).await;

    assert_eq!(
        desk.minutes().await,
        [
            "0 email/ requested 1",
            "0 push/ requested 1",
            "1 email/ queued 1",
            "1 email/sendgrid sent 1",
            "1 push/ queued 1",
            "2 email/ retracted 1",
            "2 push/ retracted 1",
        ]
    );
    desk.leave().await;
}

async fn a_request_that_names_no_channel_counts_under_none(place: &Place) {
    let desk = Desk::requested(place).await;
    desk.tell(0, Fact::Sent).await;
    desk.report(0, Fact::Sent, MessageRef::default()).await;
    desk.report(0, Fact::Seen, email("sg-2")).await;

    assert_eq!(
        desk.minutes().await,
        [
            // One message is known by nothing, and fits two.
            "0 / requested 1",
            "0 / sent 1",
            "0 email/sendgrid sent 1",
            "0 email/sendgrid seen 1",
        ]
    );
    desk.leave().await;
}

async fn two_deliveries_of_one_message_count_once(place: &Place) {
    let desk = Desk::requested(place).await;
    desk.tell(10, Fact::Sent).await;
    desk.tell(30, Fact::Delivered).await;
    let once = [
        "0 / requested 1",
        "0 email/sendgrid sent 1",
        "0 email/sendgrid delivered 1",
    ];
    assert_eq!(desk.minutes().await, once);

    desk.tell(30, Fact::Delivered).await;
    assert_eq!(desk.minutes().await, once);
    // Among endings the later decides, so it counts there.
    desk.tell(130, Fact::Delivered).await;
    assert_eq!(
        desk.minutes().await,
        [
            "0 / requested 1",
            "0 email/sendgrid sent 1",
            "2 email/sendgrid delivered 1"
        ]
    );
    desk.tell(70, Fact::Delivered).await;
    desk.tell(20, Fact::Sent).await;
    assert_eq!(
        desk.minutes().await,
        [
            "0 / requested 1",
            "0 email/sendgrid sent 1",
            "2 email/sendgrid delivered 1"
        ]
    );
    desk.leave().await;
}

async fn a_delivery_after_a_bounce_moves_the_count(place: &Place) {
    let desk = Desk::requested(place).await;
    desk.tell(60, bounced()).await;
    assert_eq!(
        desk.minutes().await,
        ["0 / requested 1", "1 email/sendgrid bounced 1"]
    );

    desk.tell(180, Fact::Delivered).await;
    assert_eq!(
        desk.minutes().await,
        ["0 / requested 1", "3 email/sendgrid delivered 1"]
    );

    desk.tell(240, bounced()).await;
    assert_eq!(
        desk.minutes().await,
        ["0 / requested 1", "4 email/sendgrid bounced 1"]
    );

    // A soft one ends nothing.
    let soft = Fact::Bounced {
        bounce_type: BounceType::Soft,
        code: None,
    };
    desk.tell(300, soft).await;
    assert_eq!(
        desk.minutes().await,
        ["0 / requested 1", "4 email/sendgrid bounced 1"]
    );
    desk.leave().await;
}

async fn a_failure_that_is_retried_counts_no_more(place: &Place) {
    let desk = Desk::requested(place).await;
    desk.tell(10, Fact::Sent).await;
    desk.tell(60, failed(true, false)).await;
    let sent = ["0 / requested 1", "0 email/sendgrid sent 1"];
    assert_eq!(desk.minutes().await, sent);

    desk.tell(70, failed(true, true)).await;
    assert_eq!(
        desk.minutes().await,
        [&sent[..], &["1 email/sendgrid failed 1"]].concat()
    );

    desk.act(120, queue()).await;
    assert_eq!(
        desk.minutes().await,
        [&sent[..], &["2 / queued 1"]].concat()
    );

    desk.tell(180, Fact::Delivered).await;
    assert_eq!(
        desk.minutes().await,
        [&sent[..], &["2 / queued 1", "3 email/sendgrid delivered 1"]].concat()
    );
    desk.leave().await;
}

async fn a_failure_before_sending_is_told_from_one_after_it(place: &Place) {
    let desk = Desk::requested(place).await;
    desk.tell(60, failed(false, true)).await;
    assert_eq!(
        desk.minutes().await,
        [
            "0 / requested 1",
            "1 email/sendgrid failed 1",
            "1 email/sendgrid failed_unsent 1"
        ]
    );

    desk.tell(30, Fact::Sent).await;
    assert_eq!(
        desk.minutes().await,
        [
            "0 / requested 1",
            "0 email/sendgrid sent 1",
            "1 email/sendgrid failed 1"
        ]
    );
    desk.leave().await;
}

async fn a_suppression_counts_at_the_time_that_decides(place: &Place) {
    let desk = Desk::requested(place).await;
    desk.tell(120, suppressed()).await;
    desk.tell(130, failed(true, false)).await;
    assert_eq!(
        desk.minutes().await,
        ["0 / requested 1", "2 email/sendgrid suppressed 1"]
    );

    // What a retry has superseded stands no more.
    desk.act(180, queue()).await;
    assert_eq!(desk.minutes().await, ["0 / requested 1", "3 / queued 1"]);
    desk.tell(240, suppressed()).await;
    assert_eq!(
        desk.minutes().await,
        [
            "0 / requested 1",
            "3 / queued 1",
            "4 email/sendgrid suppressed 1"
        ]
    );
    desk.leave().await;
}

async fn a_late_fact_moves_the_count_to_its_minute(place: &Place) {
    let desk = Desk::requested(place).await;
    desk.tell(200, Fact::Sent).await;
    desk.tell(260, Fact::Read).await;
    assert_eq!(
        desk.minutes().await,
        [
            "0 / requested 1",
            "3 email/sendgrid sent 1",
            "4 email/sendgrid read 1"
        ]
    );

    desk.tell(-90, Fact::Sent).await;
    desk.tell(190, Fact::Read).await;
    assert_eq!(
        desk.minutes().await,
        [
            "-2 email/sendgrid sent 1",
            "0 / requested 1",
            "3 email/sendgrid read 1"
        ]
    );
    desk.leave().await;
}

async fn hours_and_days_agree_with_minutes(place: &Place) {
    let desk = Desk::requested(place).await;
    desk.tell(3_540, Fact::Sent).await;
    desk.tell(3_600, Fact::Delivered).await;
    desk.report(3_599, Fact::Sent, email("sg-2")).await;
    // Fifteen hours later is midnight.
    desk.report(54_000, Fact::Delivered, email("sg-2")).await;
    let tables = desk.look().await;
    let rows = tables.rows(&METRICS);

    assert_eq!(
        counts(rows, MINUTE),
        [
            "0 / requested 1",
            "59 email/sendgrid sent 2",
            "60 email/sendgrid delivered 1",
            "900 email/sendgrid delivered 1",
        ]
    );
    assert_eq!(
        counts(rows, HOUR),
        [
            "0 / requested 1",
            "0 email/sendgrid sent 2",
            "60 email/sendgrid delivered 1",
            "900 email/sendgrid delivered 1",
        ]
    );
    assert_eq!(
        counts(rows, DAY),
        [
            "-540 / requested 1",
            "-540 email/sendgrid sent 2",
            "-540 email/sendgrid delivered 1",
            "900 email/sendgrid delivered 1",
        ]
    );
    // A second back, and it is another day.
    desk.report(53_999, bounced(), email("sg-2")).await;
    desk.report(54_000, bounced(), email("sg-2")).await;
    let tables = desk.look().await;
    assert_eq!(
        counts(tables.rows(&METRICS), DAY)[3..],
        ["900 email/sendgrid bounced 1"]
    );
    desk.leave().await;
}

async fn latencies_are_measured_from_the_request(place: &Place) {
    let desk = Desk::requested(place).await;
    desk.tell(2, Fact::Sent).await;
    desk.tell(61, Fact::Delivered).await;
    // Before the request: the clocks of two machines disagreed.
    desk.report(-1, Fact::Sent, email("sg-2")).await;
    let tables = desk.look().await;

    let mut found = Vec::new();
    for row in tables.rows(&LATENCIES) {
        if row[2].as_int() == Some(MINUTE) {
            let stage = row[7].as_text().unwrap().to_owned();
            found.push((stage, row[8].as_int().unwrap(), row[9].as_int().unwrap()));
        }
    }
    assert_eq!(
        found,
        [
            ("sent".to_owned(), latency::bucket(0), 1),
            ("sent".to_owned(), latency::bucket(2_000_000), 1),
            ("delivered".to_owned(), latency::bucket(61_000_000), 1),
        ]
    );
    desk.tell(62, bounced()).await;
    let tables = desk.look().await;
    let delivered = |row: &&Row| row[7].as_text() == Some("delivered");
    assert_eq!(tables.rows(&LATENCIES).iter().filter(delivered).count(), 0);
    desk.leave().await;
}

async fn two_messages_that_turn_out_to_be_one_count_once(place: &Place) {
    let desk = Desk::requested(place).await;
    let novu = MessageRef {
        message_id: Some("66f0".to_owned()),
        channel: Some("email".to_owned()),
        ..MessageRef::default()
    };
    desk.tell(0, Fact::Sent).await;
    desk.report(60, Fact::Sent, novu.clone()).await;
    let tables = desk.look().await;
    assert_eq!(tables.rows(&NOTIFICATION_LOGS).len(), 2);
    assert_eq!(
        counts(tables.rows(&METRICS), MINUTE),
        [
            "0 / requested 1",
            "0 email/sendgrid sent 1",
            "1 email/ sent 1"
        ]
    );

    let both = MessageRef {
        provider_message_id: Some("sg-1".to_owned()),
        ..novu
    };
    desk.report(120, Fact::Seen, both).await;
    let tables = desk.look().await;
    assert_eq!(tables.rows(&NOTIFICATION_LOGS).len(), 1);
    assert_eq!(
        counts(tables.rows(&METRICS), MINUTE),
        [
            "0 / requested 1",
            "0 email/sendgrid sent 1",
            "2 email/sendgrid seen 1"
        ]
    );
    desk.leave().await;
}

/// A name as long as names may be, of characters that take four bytes each, no two alike.
fn longest(first: u32) -> String {
    let characters = (0..256).map(|number| char::from_u32(first + (number * 97) % 4001));
    characters.collect::<Option<String>>().unwrap()
}

async fn the_longest_names_fit(place: &Place) {
    let desk = Desk::of(place).await;
    let Action::Request(requested) = request() else {
        unreachable!("it is one")
    };
    let requested = Requested {
        workflow_id: longest(0x20000).parse().unwrap(),
        workflow_version: Some(longest(0x21000)),
        subscriber_id: longest(0x22000).parse().unwrap(),
        external_id: Some(longest(0x23000)),
        metadata: [(longest(0x24000), longest(0x25000))].into(),
        ..Requested::clone(&requested)
    };
    desk.act(0, Action::Request(Arc::new(requested))).await;
    // One id in two places, so that the place is a part of the key.
    for channel in ["c".repeat(63), "d".repeat(63)] {
        let message = MessageRef {
            message_id: None,
            provider_message_id: Some(longest(0x26000)),
            channel: Some(channel),
            provider_id: Some(longest(0x27000)),
            step_id: Some(longest(0x28000)),
        };
        desk.report(10, Fact::Sent, message.clone()).await;
        let failed = Fact::Failed {
            code: Some(longest(0x29000)),
            retryable: true,
            is_final: true,
            attempt: None,
        };
        desk.report(20, failed, message).await;
    }

    let tables = desk.look().await;

    assert_eq!(tables.rows(&NOTIFICATION_LOGS).len(), 2);
    desk.leave().await;
}
