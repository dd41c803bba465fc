//! What may be asked of a notification, and when it is refused.

use std::sync::Arc;

use notification_ledger::domain::event::{
    Body, BounceType, Context, Fact, Interaction, Queued, Report,
};
use notification_ledger::domain::ids::{EventId, SubscriberId};
use notification_ledger::domain::notification::{Action, Refusal};
use notification_ledger::domain::sealing::Subject;
use notification_ledger::domain::state::Status;
use rstest::rstest;

use crate::given::{
    DELIVERED, NoteTaker, READ, SEEN, SENT, Story, adopting, at, attempt_failed, bounced, channel,
    email, event_id, failed, gave_up, interacted, nothing, queue, reported, request, request_for,
    requested, retract, said, sendgrid, sms, suppressed,
};

/// Why a queueing was refused, as far as a caller sees.
fn refused_as(story: &Story) -> Status {
    match story.when(50, queue()) {
        Err(Refusal::NotQueueable { current_status, .. }) => current_status,
        other => panic!("not refused: {other:?}"),
    }
}

fn answers(story: &mut Story, minute: i64) -> Vec<EventId> {
    let events = story.tell(minute, queue()).unwrap();
    match events.as_slice() {
        [event] => match &event.body {
            Body::Queued(queued) => queued.answers.clone(),
            other => panic!("queueing led to {other:?}"),
        },
        other => panic!("queueing led to {other:?}"),
    }
}

mod requesting {
    use super::*;

    #[test]
    fn begins_a_stream() {
        assert_eq!(
            nothing().when(0, request()).unwrap(),
            ["notification.requested"]
        );
        assert_eq!(requested().status(), Status::Requested);
    }

    #[test]
    fn the_same_notification_again_is_refused() {
        let again = requested().when(1, request());

        assert!(matches!(again, Err(Refusal::AlreadyExists)), "{again:?}");
    }

    #[rstest]
    #[case::queued(queue())]
    #[case::retracted(retract())]
    #[case::delivered(email(DELIVERED))]
    fn again_is_refused_whatever_happened_since(#[case] since: Action) {
        let again = requested().and(1, since).when(2, request());

        assert!(matches!(again, Err(Refusal::AlreadyExists)), "{again:?}");
    }

    #[test]
    fn an_adopted_notification_is_allowed_once() {
        let adopted = nothing().and(0, adopting(said(SENT, channel("email"))));

        assert_eq!(
            adopted.when(1, request()).unwrap(),
            ["notification.requested"]
        );
        let again = adopted.and(1, request()).when(2, request());
        assert!(matches!(again, Err(Refusal::AlreadyExists)), "{again:?}");
    }

    #[test]
    fn a_request_says_more_than_the_reports_of_an_adopted_stream() {
        let told = Report {
            context: Context {
                subscriber_id: Some(SubscriberId::new("66f0a1c4b7d2e90012ab0999").unwrap()),
                ..Context::default()
            },
            ..said(SENT, channel("email"))
        };
        let adopted = nothing().and(0, adopting(told));
        let named = |story: &Story| story.notification.subscriber_id().unwrap().to_string();

        assert_eq!(named(&adopted), "66f0a1c4b7d2e90012ab0999");
        assert_eq!(named(&adopted.and(1, request())), "cust-20417");
    }
}

mod queueing {
    use super::*;

    #[test]
    fn a_requested_notification_is_allowed() {
        let mut story = requested();

        let events = story.tell(1, queue()).unwrap();

        assert!(
            matches!(events.as_slice(), [event] if event.body == Body::Queued(Queued::default()))
        );
        assert_eq!(story.status(), Status::Queued);
        assert_eq!(story.summary().queued_at, Some(at(1)));
    }

    #[test]
    fn keeps_the_queue_and_when_it_becomes_available() {
        let action = Action::Queue {
            queue: Some("bulk".to_owned()),
            available_at: Some(at(30)),
        };

        let story = requested().and(1, action);

        let [queued] = story.notification.queued() else {
            panic!("queued more than once")
        };
        assert_eq!(queued.value.queue.as_deref(), Some("bulk"));
        assert_eq!(queued.value.available_at, Some(at(30)));
    }

    #[test]
    fn nothing_is_not_found() {
        let refusal = nothing().when(0, queue());

        assert!(matches!(refusal, Err(Refusal::NotFound)), "{refusal:?}");
    }

    #[test]
    fn a_queued_notification_is_refused() {
        assert_eq!(refused_as(&requested().and(1, queue())), Status::Queued);
    }

    #[rstest]
    #[case::for_good(true)]
    #[case::for_now(false)]
    fn a_retryable_failure_is_allowed_and_answered(#[case] is_final: bool) {
        let mut story = requested()
            .and(1, queue())
            .and(2, email(failed(true, is_final)));
        let failure = story.events[2].event_id;

        assert_eq!(answers(&mut story, 3), [failure]);
        assert_eq!(story.status(), Status::Queued);
        assert_eq!(refused_as(&story), Status::Queued);
    }

    #[rstest]
    #[case::for_good(true)]
    #[case::for_now(false)]
    fn a_retryable_failure_is_allowed_without_ever_having_been_queued(#[case] is_final: bool) {
        let mut story = requested().and(1, email(failed(true, is_final)));
        let failure = story.events[1].event_id;

        assert_eq!(answers(&mut story, 2), [failure]);
        assert_eq!(refused_as(&story), Status::Queued);
    }

    #[rstest]
    #[case::for_good(true, Status::Failed)]
    #[case::for_now(false, Status::Queued)]
    fn a_failure_that_is_not_retryable_is_refused(#[case] is_final: bool, #[case] status: Status) {
        let story = requested()
            .and(1, queue())
            .and(2, email(failed(false, is_final)));

        assert_eq!(refused_as(&story), status);
    }

    #[test]
    fn each_new_retryable_failure_is_allowed_once() {
        let mut story = requested().and(1, queue());
        for attempt in 1..=3 {
            let minute = i64::from(attempt) * 10;
            story = story.and(minute, email(attempt_failed(attempt)));
            let failure = story.events.last().unwrap().event_id;

            assert_eq!(answers(&mut story, minute + 1), [failure]);
            assert_eq!(refused_as(&story), Status::Queued);
        }
    }

    /// Two attempts within one tick of a coarse clock.
    #[test]
    fn a_new_failure_at_the_same_moment_is_allowed() {
        let mut story = requested()
            .and(1, email(attempt_failed(1)))
            .and(1, queue())
            .and(1, email(attempt_failed(2)));
        let second = story.events[3].event_id;

        assert_eq!(answers(&mut story, 1), [second]);
    }

    #[test]
    fn several_messages_answers_all_their_failures_at_once() {
        let mut story = requested()
            .and(1, email(failed(true, true)))
            .and(1, sms(failed(true, false)))
            .and(2, sms(attempt_failed(1)));
        let failures: Vec<_> = story.events[1..]
            .iter()
            .map(|event| event.event_id)
            .collect();

        assert_eq!(answers(&mut story, 3), failures);
        assert_eq!(refused_as(&story), Status::Queued);
    }

    #[test]
    fn a_failed_message_is_allowed_though_another_was_delivered() {
        let story = requested()
            .and(1, sms(DELIVERED))
            .and(2, email(failed(true, true)));

        assert_eq!(story.when(3, queue()).unwrap(), ["notification.queued"]);
    }

    #[test]
    fn a_sent_notification_is_refused() {
        assert_eq!(refused_as(&requested().and(1, email(SENT))), Status::Sent);
    }

    #[test]
    fn a_failure_before_the_message_was_sent_is_refused() {
        let story = requested()
            .and(1, email(failed(true, false)))
            .and(2, email(SENT));

        assert_eq!(refused_as(&story), Status::Sent);
    }

    #[test]
    fn a_failure_after_the_message_was_sent_is_allowed() {
        let story = requested()
            .and(1, email(SENT))
            .and(2, email(failed(true, false)));

        assert_eq!(story.status(), Status::Sent);
        assert_eq!(story.when(3, queue()).unwrap(), ["notification.queued"]);
    }

    #[test]
    fn a_failure_at_the_moment_of_sending_is_allowed() {
        let story = requested()
            .and(1, email(failed(true, false)))
            .and(1, email(SENT));

        assert_eq!(story.when(2, queue()).unwrap(), ["notification.queued"]);
    }

    #[test]
    fn what_was_sent_before_the_failure_waits_again() {
        let story = requested()
            .and(1, email(SENT))
            .and(2, email(failed(true, true)))
            .and(3, queue());

        assert_eq!(story.status(), Status::Queued);
        assert_eq!(refused_as(&story), Status::Queued);
        assert_eq!(story.message().times.sent_at, Some(at(1)));
        assert_eq!(story.and(4, email(SENT)).status(), Status::Sent);
    }

    #[rstest]
    #[case::delivered(DELIVERED, Status::Delivered)]
    #[case::bounced(bounced(BounceType::Hard), Status::Bounced)]
    #[case::complained_about(bounced(BounceType::Complaint), Status::Bounced)]
    #[case::given_up(gave_up(), Status::Failed)]
    #[case::suppressed(suppressed(), Status::Suppressed)]
    fn a_message_that_ended_after_its_failure_is_refused(
        #[case] end: Fact,
        #[case] status: Status,
    ) {
        let story = requested()
            .and(1, email(failed(true, false)))
            .and(2, email(end));

        assert_eq!(refused_as(&story), status);
    }

    #[test]
    fn a_retryable_failure_after_the_message_was_given_up_answers_both() {
        let mut story = requested()
            .and(1, email(gave_up()))
            .and(2, email(failed(true, true)));
        let retryable = story.events[2].event_id;

        assert_eq!(answers(&mut story, 3), [retryable]);
        assert_eq!(story.status(), Status::Queued);
    }

    #[test]
    fn the_same_failure_told_in_other_words_stays_answered() {
        let story = requested()
            .and(1, email(failed(true, true)))
            .and(2, queue())
            .and(1, reported(said(failed(true, true), sendgrid("sg-1"))));

        assert_eq!(story.message_keys(), ["sg-1"]);
        assert_eq!(refused_as(&story), Status::Queued);
    }

    #[test]
    fn a_retracted_notification_is_refused() {
        let story = requested().and(1, retract());

        assert_eq!(refused_as(&story), Status::Retracted);
        let failed_since = story.and(2, email(failed(true, true)));
        assert_eq!(refused_as(&failed_since), Status::Retracted);
    }

    #[test]
    fn an_adopted_notification_that_only_went_out_is_refused() {
        let story = nothing().and(0, adopting(said(SENT, channel("email"))));

        assert_eq!(refused_as(&story), Status::Sent);
    }
}

mod retracting {
    use super::*;

    fn settled_as(story: &Story) -> Status {
        match story.when(50, retract()) {
            Err(Refusal::Settled { current_status }) => current_status,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[rstest]
    #[case::requested(requested())]
    #[case::queued(requested().and(1, queue()))]
    #[case::sent(requested().and(1, email(SENT)))]
    #[case::failed_for_now(requested().and(1, email(failed(true, false))))]
    #[case::bounced_softly(requested().and(1, email(bounced(BounceType::Soft))))]
    #[case::queued_again(requested().and(1, email(failed(true, true))).and(2, queue()))]
    #[case::adopted(nothing().and(0, adopting(said(SENT, channel("email")))))]
    fn what_has_not_ended_is_allowed(#[case] story: Story) {
        let story = story.and(50, retract());

        assert_eq!(story.status(), Status::Retracted);
        assert_eq!(story.notification.retraction().unwrap().occurred_at, at(50));
    }

    #[test]
    fn nothing_is_not_found() {
        let refusal = nothing().when(0, retract());

        assert!(matches!(refusal, Err(Refusal::NotFound)), "{refusal:?}");
    }

    #[test]
    fn again_appends_nothing() {
        let story = requested().and(1, retract());

        assert_eq!(story.appends(2, retract()), 0);
    }

    #[test]
    fn again_appends_nothing_even_when_everything_has_ended_since() {
        let story = requested().and(1, retract()).and(2, email(DELIVERED));

        assert_eq!(story.appends(3, retract()), 0);
    }

    #[rstest]
    #[case::delivered(DELIVERED, Status::Delivered)]
    #[case::bounced(bounced(BounceType::Unknown), Status::Bounced)]
    #[case::failed(gave_up(), Status::Failed)]
    #[case::suppressed(suppressed(), Status::Suppressed)]
    fn what_has_ended_is_refused(#[case] end: Fact, #[case] status: Status) {
        assert_eq!(settled_as(&requested().and(1, email(end))), status);
    }

    #[test]
    fn is_refused_once_every_message_has_ended() {
        let story = requested()
            .and(1, email(DELIVERED))
            .and(1, sms(bounced(BounceType::Hard)));

        assert_eq!(settled_as(&story), Status::Delivered);
    }

    #[test]
    fn is_allowed_while_one_message_is_open() {
        let story = requested().and(1, email(DELIVERED)).and(1, sms(SENT));

        assert_eq!(
            story.when(2, retract()).unwrap(),
            ["notification.retracted"]
        );
    }
}

mod sealing {
    use super::*;

    fn subscriber(id: &str) -> Subject {
        Subject::Subscriber(SubscriberId::new(id).unwrap())
    }

    fn told_about(id: &str) -> Report {
        Report {
            context: Context {
                subscriber_id: Some(SubscriberId::new(id).unwrap()),
                ..Context::default()
            },
            ..said(DELIVERED, channel("email"))
        }
    }

    /// Under whose key `action` is sealed.
    fn subject(mut story: Story, action: Action) -> Subject {
        let notes = Arc::new(NoteTaker::default());
        let events = story.tell_with(9, action, Some("{}"), &notes).unwrap();
        let event = events.last().unwrap();
        assert_eq!(event.sealed.as_ref().unwrap().0.as_ref(), "1.Zm9v.YmFy");
        let sealed = notes.sealed.lock().unwrap();
        let [(subject, event_id, text)] = sealed.as_slice() else {
            panic!("sealed {sealed:?}")
        };
        assert_eq!((*event_id, text.as_str()), (event.event_id, "{}"));
        subject.clone()
    }

    #[test]
    fn a_request_is_sealed_under_its_subscriber() {
        assert_eq!(subject(nothing(), request_for("ann")), subscriber("ann"));
    }

    #[test]
    fn what_follows_a_request_is_sealed_under_its_subscriber() {
        let requested = nothing().and(0, request_for("ann"));

        assert_eq!(subject(requested.clone(), retract()), subscriber("ann"));
        assert_eq!(
            subject(requested, reported(told_about("bob"))),
            subscriber("ann")
        );
    }

    #[test]
    fn a_report_without_a_request_is_sealed_under_whom_it_names() {
        assert_eq!(
            subject(nothing(), adopting(told_about("bob"))),
            subscriber("bob")
        );
    }

    #[test]
    fn a_report_about_nobody_is_sealed_under_the_stream() {
        let about_nobody = adopting(said(SENT, channel("email")));

        assert_eq!(subject(nothing(), about_nobody), Subject::Stream);
    }

    /// Or its address would outlive the erasure of its subscriber.
    #[test]
    fn a_request_on_an_adopted_stream_is_sealed_under_its_own_subscriber() {
        let adopted = nothing().and(0, adopting(told_about("bob")));

        assert_eq!(subject(adopted, request_for("ann")), subscriber("ann"));
    }

    #[test]
    fn nothing_is_sealed_when_nothing_is_private() {
        let notes = Arc::new(NoteTaker::default());

        nothing().tell_with(0, request(), None, &notes).unwrap();

        assert!(notes.sealed.lock().unwrap().is_empty());
    }

    #[test]
    fn nothing_happened_when_the_key_is_not_to_be_had() {
        let notes = Arc::new(NoteTaker {
            out_of_keys: true,
            ..NoteTaker::default()
        });
        let mut story = nothing();

        let refusal = story.tell_with(0, request(), Some("{}"), &notes);

        assert!(matches!(refusal, Err(Refusal::Sealing(_))), "{refusal:?}");
        assert_eq!(story.notification, nothing().notification);
    }
}

#[test]
fn deciding_changes_nothing() {
    let story = requested()
        .and(1, email(SENT))
        .and(2, email(interacted(Interaction::Opened)));
    let before = story.notification.clone();

    for action in [queue(), retract(), email(SEEN), email(READ), request()] {
        // Whether it is refused is another test's business.
        let _ = story.when(3, action);
    }

    assert_eq!(story.notification, before);
    assert_eq!(story.events[0].event_id, event_id(1));
}
