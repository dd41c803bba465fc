//! What is reported goes on record, whatever the state, and once.

use std::sync::Arc;

use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use futures_util::FutureExt;
use notification_ledger::domain::event::{
    BounceType, Context, Fact, Interaction, MessageRef, Report,
};
use notification_ledger::domain::ids::{EventId, WorkflowId};
use notification_ledger::domain::integration::{Change, Integration, IntegrationCommand};
use notification_ledger::domain::notification::Refusal;
use notification_ledger::domain::sealing::Sealer;
use notification_ledger::domain::state::Status;
use rstest::rstest;

use crate::given::{
    DELIVERED, NoteTaker, READ, SENT, Story, adopting, at, attempt_failed, bounced, channel, email,
    event_id, every_kind_of_fact, failed, gave_up, interacted, nothing, novu, queue, reported,
    request, requested, retract, said, sendgrid, sms, suppressed,
};

fn untimed(report: Report) -> Report {
    Report {
        untimed: true,
        ..report
    }
}

fn delivery(id: &str, report: Report) -> Report {
    Report {
        delivery_id: Some(id.to_owned()),
        ..report
    }
}

#[rstest]
#[case::requested(requested())]
#[case::queued(requested().and(1, queue()))]
#[case::sent(requested().and(1, email(SENT)))]
#[case::delivered(requested().and(1, email(DELIVERED)))]
#[case::bounced(requested().and(1, email(bounced(BounceType::Hard))))]
#[case::failed(requested().and(1, email(gave_up())))]
#[case::suppressed(requested().and(1, email(suppressed())))]
#[case::retracted(requested().and(1, retract()))]
#[case::adopted(nothing().and(1, adopting(said(SENT, channel("email")))))]
#[case::requested_after_adoption(nothing().and(1, adopting(said(SENT, channel("sms")))).and(2, request()))]
#[case::queued_again(requested().and(1, email(failed(true, true))).and(2, queue()))]
fn no_state_refuses_a_fact(#[case] story: Story) {
    for fact in every_kind_of_fact() {
        let name = fact.event_name();

        assert_eq!(story.when(60, email(fact)).unwrap(), [name]);
    }
}

#[test]
fn a_fact_about_nothing_is_not_found_unless_it_may_be_adopted() {
    let refusal = nothing().when(0, email(SENT));

    assert!(matches!(refusal, Err(Refusal::NotFound)), "{refusal:?}");
}

mod adoption {
    use super::*;

    #[test]
    fn the_first_fact_of_an_unknown_notification_begins_its_stream() {
        let mut story = nothing();

        let events = story
            .tell(3, adopting(said(SENT, channel("email"))))
            .unwrap();

        let names: Vec<_> = events.iter().map(|event| event.body.event_name()).collect();
        assert_eq!(names, ["notification.adopted", "notification.sent"]);
        assert_eq!(events[0].event_id, event_id(0));
        assert_eq!((events[0].occurred_at, &events[0].sealed), (at(3), &None));
        let adoption = story.notification.adoption().unwrap();
        assert_eq!(
            adoption.value.transaction_id.as_deref(),
            Some("txn_66f0a1c4b7d2e90012ab0100")
        );
        assert_eq!(story.status(), Status::Sent);
    }

    #[rstest]
    #[case::requested(requested())]
    #[case::adopted(nothing().and(1, adopting(said(SENT, channel("sms")))))]
    fn happens_once(#[case] story: Story) {
        let fact = adopting(said(DELIVERED, channel("email")));

        assert_eq!(story.when(2, fact).unwrap(), ["notification.delivered"]);
    }

    #[test]
    fn the_same_first_fact_again_appends_nothing() {
        let fact = || adopting(said(SENT, channel("email")));

        assert_eq!(nothing().and(3, fact()).appends(3, fact()), 0);
    }

    #[test]
    fn the_workflow_is_what_the_earliest_report_says() {
        let told = |workflow: &str| {
            let context = Context {
                workflow_id: Some(WorkflowId::new(workflow).unwrap()),
                ..Context::default()
            };
            adopting(Report {
                context,
                ..said(READ, channel("in_app"))
            })
        };
        let story = nothing()
            .and(1, adopting(said(SENT, channel("in_app"))))
            .and(3, told("late"));
        let named = |story: &Story| story.notification.workflow_id().unwrap().to_string();

        assert_eq!(named(&story), "late");
        assert_eq!(named(&story.clone().and(2, told("early"))), "early");
        assert_eq!(
            named(&story.and(2, told("early")).and(9, request())),
            "parcel-dispatched"
        );
    }
}

mod the_same_fact_twice {
    use super::*;

    #[test]
    fn in_full_appends_nothing() {
        for fact in every_kind_of_fact() {
            let story = requested().and(5, email(fact.clone()));

            assert_eq!(story.appends(5, email(fact.clone())), 0, "{fact:?}");
        }
    }

    #[test]
    fn appends_nothing_however_much_was_reported_meanwhile() {
        let story = requested()
            .and(5, reported(said(SENT, channel("email"))))
            .and(6, reported(said(SENT, sendgrid("sg-1"))))
            .and(7, reported(said(SENT, sendgrid("sg-2"))))
            .and(8, retract());

        assert_eq!(story.appends(5, email(SENT)), 0);
    }

    #[test]
    fn at_another_time_is_another_fact() {
        let story = requested().and(5, email(SENT));

        assert_eq!(story.appends(6, email(SENT)), 1);
    }

    #[test]
    fn of_another_message_is_another_fact() {
        let story = requested().and(5, reported(said(SENT, sendgrid("sg-1"))));

        assert_eq!(story.appends(5, sms(SENT)), 1);
        assert_eq!(story.appends(5, reported(said(SENT, sendgrid("sg-2")))), 1);
    }

    #[test]
    fn without_a_time_is_one_fact_for_ever() {
        for fact in every_kind_of_fact() {
            let report = || reported(untimed(said(fact.clone(), channel("email"))));
            let story = requested().and(5, report());

            assert_eq!(story.appends(6, report()), 0, "{fact:?}");
            assert_eq!(story.appends(1_000_000, report()), 0, "{fact:?}");
        }
    }

    #[test]
    fn with_and_without_a_time_are_two_facts() {
        let without = || reported(untimed(said(SENT, channel("email"))));

        assert_eq!(requested().and(5, without()).appends(5, email(SENT)), 1);
        assert_eq!(requested().and(5, email(SENT)).appends(5, without()), 1);
    }

    #[rstest]
    #[case::bounces(bounced(BounceType::Soft), bounced(BounceType::Hard))]
    #[case::interactions(interacted(Interaction::Clicked), interacted(Interaction::Opened))]
    #[case::attempts(attempt_failed(1), attempt_failed(2))]
    #[case::numbered(failed(true, false), attempt_failed(1))]
    fn differs_by_kind_or_attempt(#[case] one: Fact, #[case] other: Fact) {
        let timed = requested().and(5, email(one.clone()));
        assert_eq!(timed.appends(5, email(other.clone())), 1);

        let report = |fact| reported(untimed(said(fact, channel("email"))));
        assert_eq!(requested().and(5, report(one)).appends(5, report(other)), 1);
    }

    /// Dropping the second would leave the answer to whoever came first.
    #[rstest]
    #[case::whether_it_was_the_end(failed(true, false), failed(true, true))]
    #[case::whether_to_retry(failed(true, true), failed(false, true))]
    #[case::the_code(attempt_failed(1), Fact::Failed { code: Some("550".to_owned()), retryable: true, is_final: false, attempt: Some(1) })]
    fn contradicted_at_the_same_time_is_on_record_in_both_versions(
        #[case] one: Fact,
        #[case] other: Fact,
    ) {
        let there = requested()
            .and(5, email(one.clone()))
            .and(5, email(other.clone()));
        let back = requested().and(5, email(other)).and(5, email(one));

        assert_eq!(there.events.len(), 3);
        assert_eq!(there.status(), back.status());
        assert_eq!(there.message().attempts, 1);
        let code = |story: &Story| story.message().last_error.unwrap().code;
        assert_eq!(code(&there), code(&back));
    }

    #[test]
    fn in_the_same_delivery_appends_nothing() {
        let story = requested().and(
            5,
            reported(delivery("novu:msg_1", said(SENT, sendgrid("sg-1")))),
        );

        // The envelope's time is all the reporter gave, and it has a new one now.
        let again = reported(delivery("novu:msg_1", said(SENT, sendgrid("sg-1"))));
        assert_eq!(story.appends(6, again), 0);
        let other = reported(delivery("novu:msg_2", said(SENT, sendgrid("sg-1"))));
        assert_eq!(story.appends(6, other), 1);
    }

    #[test]
    fn in_a_new_envelope_appends_nothing() {
        let told = |id| reported(delivery(id, said(SENT, novu("66f0", "sg-1"))));
        let story = requested().and(5, told("novu:msg_1"));

        assert_eq!(story.appends(5, told("novu:msg_2")), 0);
        assert_eq!(
            story.appends(5, reported(said(SENT, novu("66f0", "sg-1")))),
            0
        );
    }

    #[test]
    fn by_a_worker_who_knows_less_appends_nothing() {
        let story = requested().and(5, reported(said(DELIVERED, novu("66f0", "sg-1"))));

        assert_eq!(
            story.appends(5, reported(said(DELIVERED, sendgrid("sg-1")))),
            0
        );
    }

    /// Novu's later reports may name the message by its own id alone.
    #[test]
    fn by_a_provider_who_knows_more_is_kept_and_counts_once() {
        let story = requested()
            .and(5, reported(said(DELIVERED, sendgrid("sg-1"))))
            .and(5, reported(said(DELIVERED, novu("66f0", "sg-1"))));
        let mut by_its_own_id = said(READ, novu("66f0", "sg-1"));
        by_its_own_id.message.provider_message_id = None;

        let story = story.and(6, reported(by_its_own_id));

        assert_eq!(story.message_keys(), ["sg-1"]);
        assert_eq!(story.message().attempts, 1);
        assert_eq!(story.message().identity.message_id.as_deref(), Some("66f0"));
        assert_eq!(story.message().times.read_at, Some(at(6)));
    }

    /// The provider's webhooks find the notification by that id.
    #[test]
    fn with_the_providers_id_learnt_since_is_kept() {
        let story = requested()
            .and(5, reported(untimed(said(SENT, channel("email")))))
            .and(6, reported(untimed(said(SENT, sendgrid("sg-1")))));

        assert_eq!(story.message_keys(), ["sg-1"]);
        assert_eq!(story.message().times.sent_at, Some(at(5)));
    }

    #[test]
    fn with_more_about_the_notification_is_kept() {
        let mut told = said(SENT, channel("email"));
        told.context.transaction_id = Some("txn_1".to_owned());
        let story = requested().and(5, email(SENT));

        assert_eq!(story.appends(5, reported(told.clone())), 1);
        assert_eq!(story.and(5, reported(told)).appends(5, email(SENT)), 0);
    }
}

mod which_message {
    use super::*;

    #[test]
    fn two_reporters_of_one_provider_id_tell_of_one_message() {
        let story = requested()
            .and(1, reported(said(SENT, sendgrid("sg-1"))))
            .and(2, reported(said(DELIVERED, novu("66f0", "sg-1"))));

        let message = story.message();
        assert_eq!(message.identity.key, "sg-1");
        assert_eq!(message.identity.step_id.as_deref(), Some("send-email"));
        assert_eq!(message.times.sent_at, Some(at(1)));
        assert_eq!(message.times.delivered_at, Some(at(2)));
    }

    #[test]
    fn a_report_without_a_message_is_about_the_only_one() {
        let story = requested()
            .and(1, reported(said(SENT, sendgrid("sg-1"))))
            .and(2, reported(said(DELIVERED, MessageRef::default())));

        assert_eq!(story.message_keys(), ["sg-1"]);
        assert_eq!(story.status(), Status::Delivered);
    }

    #[test]
    fn a_channel_is_enough_when_it_names_one_message() {
        let story = requested()
            .and(1, reported(said(SENT, sendgrid("sg-1"))))
            .and(1, sms(SENT))
            .and(2, sms(DELIVERED));

        assert_eq!(story.message_keys(), ["sg-1", "sms/-/-"]);
        let statuses: Vec<_> = story
            .summary()
            .messages
            .iter()
            .map(|found| found.status)
            .collect();
        assert_eq!(statuses, [Status::Sent, Status::Delivered]);
    }
}

mod integrations {
    use super::*;

    #[derive(Default)]
    struct Changes(Integration, usize);

    impl Changes {
        /// The ids of the events that follow.
        fn tell(&mut self, minute: i64, change: Change) -> Vec<EventId> {
            self.1 += 1;
            let command = IntegrationCommand {
                event_id: event_id(self.1),
                occurred_at: at(minute),
                change,
                private: Some("{}".into()),
            };
            let services: Arc<dyn Sealer> = Arc::new(NoteTaker::default());
            let sink = EventSink::default();
            self.0
                .handle(command, &services, &sink)
                .now_or_never()
                .unwrap()
                .unwrap();
            let events = sink.collect().now_or_never().unwrap();
            events.into_iter().map(|event| event.event_id).collect()
        }
    }

    fn change(change: &str, delivery_id: &str, fact_key: &str) -> Change {
        Change {
            provider: "novu".to_owned(),
            change: change.to_owned(),
            object_id: "66f0a1c4b7d2e90012ab0777".to_owned(),
            name: None,
            subscriber_id: None,
            delivery_id: Some(delivery_id.to_owned()),
            fact_key: fact_key.to_owned(),
        }
    }

    #[test]
    fn a_change_is_recorded_once_whatever_envelope_it_comes_in() {
        let mut changes = Changes::default();

        assert_eq!(
            changes.tell(1, change("workflow.updated", "d1", "a")).len(),
            1
        );
        assert_eq!(
            changes.tell(2, change("workflow.updated", "d1", "b")).len(),
            0
        );
        assert_eq!(
            changes.tell(2, change("workflow.updated", "d2", "a")).len(),
            0
        );
        assert_eq!(
            changes.tell(2, change("workflow.updated", "d3", "b")).len(),
            1
        );
        assert_eq!(
            changes.tell(3, change("workflow.updated", "d4", "a")).len(),
            0
        );
    }

    #[test]
    fn a_preference_may_be_set_back() {
        let mut changes = Changes::default();
        let mut set = |minute, delivery: &str, value: &str| {
            changes
                .tell(minute, change("preference.updated", delivery, value))
                .len()
        };

        assert_eq!(set(1, "d1", "on"), 1);
        assert_eq!(set(2, "d2", "on"), 0);
        assert_eq!(set(3, "d3", "off"), 1);
        assert_eq!(set(4, "d4", "on"), 1);
    }

    #[test]
    fn an_old_preference_told_again_appends_nothing() {
        let mut changes = Changes::default();
        let mut set = |minute, delivery: &str, value: &str| {
            changes
                .tell(minute, change("preference.updated", delivery, value))
                .len()
        };

        assert_eq!(set(1, "d1", "on"), 1);
        assert_eq!(set(3, "d3", "off"), 1);
        assert_eq!(set(1, "d4", "on"), 0);
    }
}
