//! What is known depends on what was reported, never on the order it arrived in.

use std::sync::Arc;

use std::collections::BTreeSet;

use cqrs_es::Aggregate;
use notification_ledger::domain::event::{
    Body, BounceType, Context, Fact, Interaction, MessageRef, NotificationEvent, Queued, Report,
    Sealed,
};
use notification_ledger::domain::ids::{SubscriberId, WorkflowId};
use notification_ledger::domain::notification::{
    Action, Notification, NotificationCommand, Refusal,
};
use notification_ledger::domain::precedence::PrecedenceRule;
use notification_ledger::domain::state::{Status, Summary};
use notification_ledger::domain::stored::StoredPayload;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::given::{adopting, at, event_id, queue, said, the_adoption, the_request};

/// Few, so that reports meet at the same moment.
const MINUTES: i64 = 4;
/// The most reports of one story.
const REPORTS_MAX: usize = 9;

fn configuration() -> ProptestConfig {
    ProptestConfig {
        cases: 3_000,
        // A case that failed once gets a test with a name instead.
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// One report, as somebody might make it.
#[derive(Clone, Debug)]
struct Told {
    minute: i64,
    report: Report,
}

fn maybe(words: &'static [&'static str]) -> impl Strategy<Value = Option<String>> {
    proptest::option::of(select(words).prop_map(str::to_owned))
}

/// Reports with and without ids, some of which name the same message differently.
fn any_message() -> impl Strategy<Value = MessageRef> {
    (
        maybe(&["66f0", "66f1"]),
        maybe(&["sg-1", "sg-2"]),
        maybe(&["email", "sms"]),
        maybe(&["sendgrid", "ses"]),
        maybe(&["welcome"]),
    )
        .prop_map(
            |(message_id, provider_message_id, channel, provider_id, step_id)| MessageRef {
                message_id,
                provider_message_id,
                channel,
                provider_id,
                step_id,
            },
        )
}

fn any_fact() -> impl Strategy<Value = Fact> {
    let code = || maybe(&["421", "550"]);
    prop_oneof![
        2 => Just(Fact::Sent),
        2 => Just(Fact::Delivered),
        2 => (words(BounceType::WORDS, BounceType::from_word), code())
            .prop_map(|(bounce_type, code)| Fact::Bounced { bounce_type, code }),
        3 => (code(), any::<bool>(), any::<bool>(), proptest::option::of(1_u32..3)).prop_map(
            |(code, retryable, is_final, attempt)| Fact::Failed { code, retryable, is_final, attempt }
        ),
        1 => Just(Fact::Seen),
        2 => Just(Fact::Read),
        3 => words(&["unread", "clicked"], Interaction::from_word)
            .prop_map(|kind| Fact::Interacted { kind }),
        1 => select(&["preference", "expired"][..])
            .prop_map(|reason| Fact::Suppressed { reason: reason.to_owned() }),
    ]
}

fn words<T: Clone + std::fmt::Debug + 'static>(
    words: &'static [&'static str],
    named: fn(&str) -> Option<T>,
) -> impl Strategy<Value = T> {
    select(words).prop_map(move |word| named(word).unwrap())
}

fn any_context() -> impl Strategy<Value = Context> {
    let plain = Context::default();
    let told = (
        maybe(&["parcel", "invoice"]),
        maybe(&["cust-1", "cust-2"]),
        maybe(&["txn-1", "txn-2"]),
    )
        .prop_map(|(workflow, subscriber, transaction_id)| Context {
            workflow_id: workflow.map(|id| WorkflowId::new(&id).unwrap()),
            subscriber_id: subscriber.map(|id| SubscriberId::new(&id).unwrap()),
            transaction_id,
        });
    prop_oneof![3 => Just(plain), 1 => told]
}

fn any_report() -> impl Strategy<Value = Told> {
    (
        any_fact(),
        any_message(),
        any_context(),
        0..MINUTES,
        proptest::bool::weighted(0.2),
    )
        .prop_map(|(fact, message, context, minute, untimed)| Told {
            // Nobody said when, so it is when the ledger was told: here always at the same time.
            minute: if untimed { MINUTES } else { minute },
            report: Report {
                untimed,
                context,
                ..said(fact, message)
            },
        })
}

/// Different reports, some of which came through a transport that numbers its deliveries.
fn any_reports() -> impl Strategy<Value = Vec<Told>> {
    proptest::collection::vec((any_report(), any::<bool>()), 1..=REPORTS_MAX).prop_map(|reports| {
        let number = |(index, (mut told, numbered)): (usize, (Told, bool))| {
            told.report.delivery_id = numbered.then(|| format!("novu:msg_{index}"));
            told
        };
        reports.into_iter().enumerate().map(number).collect()
    })
}

/// How a report comes again.
#[derive(Clone, Copy, Debug)]
enum Again {
    /// The same delivery, because the answer got lost.
    Delivered,
    /// In a new envelope.
    Sent,
    /// By hand.
    Typed,
    /// By somebody who knows only some of the message's five names; one bit for each.
    Paraphrased(u8),
}

fn any_way_again() -> impl Strategy<Value = Again> {
    prop_oneof![
        Just(Again::Delivered),
        Just(Again::Sent),
        Just(Again::Typed),
        (0..32_u8).prop_map(Again::Paraphrased),
    ]
}

fn told_again(told: &Told, how: Again, number: usize) -> Told {
    let mut again = told.clone();
    again.report.delivery_id = match how {
        Again::Delivered => again.report.delivery_id,
        Again::Sent | Again::Paraphrased(_) => Some(format!("novu:msg_again_{number}")),
        Again::Typed => None,
    };
    if let Again::Paraphrased(known) = how {
        let message = &mut again.report.message;
        let names = [
            &mut message.message_id,
            &mut message.provider_message_id,
            &mut message.channel,
            &mut message.provider_id,
            &mut message.step_id,
        ];
        for (bit, name) in names.into_iter().enumerate() {
            name.take_if(|_| known & (1 << bit) == 0);
        }
    }
    again
}

/// The same reports, and some of them again.
fn with_repeats(reports: Vec<Told>) -> impl Strategy<Value = Vec<Told>> {
    let count = reports.len();
    proptest::collection::vec((0..count, any_way_again()), 0..=count).prop_map(move |repeats| {
        let again = repeats.into_iter().enumerate();
        let again = again.map(|(number, (index, how))| told_again(&reports[index], how, number));
        reports.iter().cloned().chain(again).collect()
    })
}

/// A whole stream: a beginning, reports, and what was asked meanwhile.
fn any_stream() -> impl Strategy<Value = Vec<NotificationEvent>> {
    let queued = (
        0..MINUTES,
        subsequence((0..REPORTS_MAX).collect::<Vec<_>>(), 0..REPORTS_MAX),
    );
    // More than a command ever leads to, but the fold must not depend on that.
    let some_minutes = || proptest::collection::vec(0..MINUTES, 0..3);
    (
        any_reports(),
        some_minutes(),
        some_minutes(),
        proptest::collection::vec(queued, 0..3),
        some_minutes(),
    )
        .prop_map(|(reports, requested, adopted, queued, retracted)| {
            let mut events: Vec<(i64, Body)> = reports
                .into_iter()
                .map(|told| (told.minute, Body::Reported(Arc::new(told.report))))
                .collect();
            for (minute, answers) in queued {
                let answers = answers.into_iter().map(event_id).collect();
                events.push((
                    minute,
                    Body::Queued(Queued {
                        answers,
                        ..Queued::default()
                    }),
                ));
            }
            events.extend(
                requested
                    .into_iter()
                    .map(|minute| (minute, requested_body())),
            );
            events.extend(
                adopted
                    .into_iter()
                    .map(|minute| (minute, Body::Adopted(the_adoption()))),
            );
            events.extend(
                retracted
                    .into_iter()
                    .map(|minute| (minute, Body::Retracted)),
            );
            events
                .into_iter()
                .enumerate()
                .map(|(index, (minute, body))| event(index, minute, body))
                .collect()
        })
}

fn event(index: usize, minute: i64, body: Body) -> NotificationEvent {
    NotificationEvent {
        event_id: event_id(index),
        occurred_at: at(minute),
        // Not every reporter has something private to say.
        sealed: (!index.is_multiple_of(3)).then(|| Sealed(format!("1.{index}").into())),
        body,
    }
}

fn requested_body() -> Body {
    Body::Requested(Arc::new(the_request("cust-20417")))
}

fn folded(events: &[NotificationEvent]) -> Notification {
    let mut notification = Notification::default();
    for event in events {
        notification.apply(event.clone());
    }
    notification
}

fn summary(notification: &Notification) -> Summary {
    notification.summary(PrecedenceRule::default())
}

/// Everything there is to see, but for the ids of the events it came from.
fn visible(
    notification: &Notification,
    rule: PrecedenceRule,
) -> (Summary, Option<&SubscriberId>, Option<&WorkflowId>) {
    let mut summary = notification.summary(rule);
    let nobody = event_id(0);
    for message in &mut summary.messages {
        if let Some(error) = &mut message.last_error {
            error.event_id = nobody;
            error.sealed = None;
        }
        // However often something was told, and by whom.
        message.reports.clear();
        message.decided_by = message.decided_by.map(|_| nobody);
        message.report_shown = message.report_shown.map(|_| nobody);
    }
    // One failure may be on record in the words of two reporters.
    summary.unanswered_failures.fill(nobody);
    summary.unanswered_failures.dedup();
    (
        summary,
        notification.subscriber_id(),
        notification.workflow_id(),
    )
}

fn decide(
    notification: &Notification,
    id: usize,
    minute: i64,
    action: Action,
) -> Result<Vec<NotificationEvent>, Refusal> {
    let drafts = notification.decide(NotificationCommand {
        event_id: event_id(id),
        occurred_at: at(minute),
        private: None,
        action,
    })?;
    Ok(drafts.iter().map(|draft| draft.event().clone()).collect())
}

fn tell(notification: &mut Notification, id: usize, told: &Told) -> usize {
    let report = told.report.clone();
    let events = decide(notification, id, told.minute, adopting(report)).unwrap();
    let count = events.len();
    for event in events {
        notification.apply(event);
    }
    count
}

/// One thing that happens to a stream, whatever it holds by then.
#[derive(Clone, Debug)]
enum Happening {
    Told(Told),
    /// Not asked for but on record, since what is asked may be refused.
    Recorded(i64, Body),
}

/// What follows from being told all of it, in that order.
fn told_in_order(happenings: &[Happening]) -> Notification {
    let mut notification = Notification::default();
    for (number, happening) in happenings.iter().enumerate() {
        // Later events get later ids, and an adoption's own event comes before all.
        let id = number + 1;
        match happening {
            Happening::Told(told) => {
                tell(&mut notification, id, told);
            }
            Happening::Recorded(minute, body) => {
                notification.apply(event(id, *minute, body.clone()));
            }
        }
    }
    notification
}

fn any_happenings() -> impl Strategy<Value = Vec<Happening>> {
    let recorded = (
        proptest::option::of(0..MINUTES),
        proptest::option::of(0..MINUTES),
        proptest::option::of(0..MINUTES),
    );
    (any_reports().prop_flat_map(with_repeats), recorded).prop_map(
        |(told, (requested, queued, retracted))| {
            let mut happenings: Vec<_> = told.into_iter().map(Happening::Told).collect();
            happenings
                .extend(requested.map(|minute| Happening::Recorded(minute, requested_body())));
            let queue = Body::Queued(Queued::default());
            happenings.extend(queued.map(|minute| Happening::Recorded(minute, queue)));
            happenings.extend(retracted.map(|minute| Happening::Recorded(minute, Body::Retracted)));
            happenings
        },
    )
}

fn in_two_orders<T: Clone + std::fmt::Debug + 'static>(
    things: impl Strategy<Value = Vec<T>>,
) -> impl Strategy<Value = (Vec<T>, Vec<T>)> {
    things.prop_flat_map(|things| {
        (
            Just(things.clone()).prop_shuffle(),
            Just(things).prop_shuffle(),
        )
    })
}

proptest! {
    #![proptest_config(configuration())]

    #[test]
    fn the_same_events_give_the_same_state_in_every_order(
        (one, other) in in_two_orders(any_stream())
    ) {
        let (one, other) = (folded(&one), folded(&other));

        prop_assert_eq!(&one, &other);
        prop_assert_eq!(one.transaction_id(), other.transaction_id());
        for rule in PrecedenceRule::ALL {
            prop_assert_eq!(one.summary(rule), other.summary(rule));
        }
    }

    #[test]
    fn the_same_reports_give_the_same_state_in_every_order_and_however_often(
        (one, other) in in_two_orders(any_happenings())
    ) {
        let (one, other) = (told_in_order(&one), told_in_order(&other));

        for rule in PrecedenceRule::ALL {
            prop_assert_eq!(visible(&one, rule), visible(&other, rule));
        }
    }

    #[test]
    fn the_end_shown_has_the_time_of_the_report_that_decided(stream in any_stream()) {
        let notification = folded(&stream);
        for rule in PrecedenceRule::ALL {
            for message in notification.summary(rule).messages {
                let times = message.times;
                let ends = [times.delivered_at, times.bounced_at, times.failed_at];
                let shown = match message.status {
                    Status::Delivered => times.delivered_at,
                    Status::Bounced => times.bounced_at,
                    Status::Failed => times.failed_at,
                    Status::Requested | Status::Queued | Status::Sent | Status::Retracted
                    | Status::Suppressed => continue,
                };
                let deciding = match rule {
                    PrecedenceRule::ProviderTruthV1 => ends.into_iter().flatten().max(),
                    PrecedenceRule::FirstTerminalWinsV1 => ends.into_iter().flatten().min(),
                };
                prop_assert_eq!(shown, deciding);
            }
        }
    }

    #[test]
    fn what_is_on_record_appends_nothing_when_told_again(
        reports in any_reports().prop_flat_map(with_repeats)
    ) {
        let mut notification = Notification::default();
        for (index, told) in reports.iter().enumerate() {
            tell(&mut notification, index + 1, told);
        }

        for told in &reports {
            prop_assert_eq!(tell(&mut notification.clone(), 99, told), 0);
        }
    }

    #[test]
    fn every_report_is_about_one_message(stream in any_stream()) {
        let notification = folded(&stream);
        let messages = summary(&notification).messages;

        let mut found: Vec<_> = messages.into_iter().flat_map(|message| message.reports).collect();
        found.sort_unstable();
        let mut told: Vec<_> =
            notification.reports().iter().map(|report| report.event_id).collect();
        told.sort_unstable();
        prop_assert_eq!(found, told);
    }

    #[test]
    fn a_message_points_back_at_the_reports_it_follows_from(stream in any_stream()) {
        let notification = folded(&stream);
        let on_record = |id| notification.reports().iter().find(|report| report.event_id == id);
        for rule in PrecedenceRule::ALL {
            for message in notification.summary(rule).messages {
                let waits = matches!(message.status, Status::Requested | Status::Queued);
                prop_assert_eq!(message.decided_by.is_none(), waits);
                let told = message.reports.iter().map(|id| on_record(*id).unwrap());
                let decided_at = message.decided_by.map(|id| on_record(id).unwrap().occurred_at);
                prop_assert_eq!(message.status_at, decided_at);
                prop_assert!(message.decided_by.is_none_or(|id| message.reports.contains(&id)));

                let sealed: Vec<_> = told
                    .filter(|report| report.sealed.is_some())
                    .map(|report| report.event_id)
                    .collect();
                let decided = message.decided_by.filter(|id| sealed.contains(id));
                prop_assert_eq!(message.report_shown, decided.or(sealed.last().copied()));
            }
        }
    }

    #[test]
    fn a_key_names_one_message_only(stream in any_stream()) {
        let messages = summary(&folded(&stream)).messages;
        let keys: BTreeSet<_> = messages.iter().map(|message| &message.identity.key).collect();

        prop_assert_eq!(keys.len(), messages.len());
        prop_assert!(messages.is_sorted_by_key(|message| &message.identity.key));
    }

    #[test]
    fn whatever_was_queued_waits_until_something_new_is_reported(stream in any_stream()) {
        let mut notification = folded(&stream);
        let Ok(events) = decide(&notification, 99, MINUTES, queue()) else {
            return Ok(());
        };
        for event in events {
            notification.apply(event);
        }

        let again = decide(&notification, 100, MINUTES, queue());

        let refused = matches!(again, Err(Refusal::NotQueueable { .. }));
        prop_assert!(refused, "queued twice: {:?}", again);
        let summary = summary(&notification);
        prop_assert!(summary.unanswered_failures.is_empty());
        let failed = summary.messages.iter().filter(|message| message.status == Status::Failed);
        prop_assert!(summary.messages.len() != 1 || failed.count() == 0, "waits, yet it failed");
    }

    #[test]
    fn whatever_is_stored_reads_as_it_was_written(stream in any_stream()) {
        for event in stream {
            let data = event.encode();
            let stored = StoredPayload {
                event_type: event.body.event_name(),
                schema_version: 1,
                data: &data,
            };

            let read = NotificationEvent::decode(event.event_id, event.occurred_at, stored).unwrap();

            // Nothing private belongs to these two.
            let open = matches!(event.body, Body::Adopted(_) | Body::Queued(_));
            let written = NotificationEvent { sealed: event.sealed.clone().filter(|_| !open), ..event };
            prop_assert_eq!(read, written);
        }
    }
}
