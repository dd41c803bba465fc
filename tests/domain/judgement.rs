//! What follows from the facts: status, times, contradictions.

use notification_ledger::domain::event::{BounceType, Fact, Interaction};
use notification_ledger::domain::ids::EventId;
use notification_ledger::domain::precedence::PrecedenceRule;
use notification_ledger::domain::state::{Status, Times};
use notification_ledger::domain::time::Timestamp;
use rstest::rstest;

use crate::given::{
    DELIVERED, READ, SEEN, SENT, Story, adopting, at, attempt_failed, bounced, channel, email,
    failed, gave_up, interacted, nothing, queue, reported, request, requested, retract, said,
    sendgrid, sms, suppressed,
};

/// Told of the e-mail, by the minute.
fn told(facts: &[(i64, Fact)]) -> Story {
    facts.iter().fold(requested(), |story, (minute, fact)| {
        story.and(*minute, email(fact.clone()))
    })
}

fn hard() -> Fact {
    bounced(BounceType::Hard)
}

fn soft() -> Fact {
    bounced(BounceType::Soft)
}

#[test]
fn the_rule_has_a_name_and_a_version() {
    assert_eq!(PrecedenceRule::default().name(), "provider-truth-v1");
}

mod where_the_first_end_wins {
    use super::*;

    const RULE: PrecedenceRule = PrecedenceRule::FirstTerminalWinsV1;

    fn status(facts: &[(i64, Fact)]) -> Status {
        told(facts).message_under(RULE).status
    }

    #[rstest]
    #[case(DELIVERED, hard(), Status::Delivered, Status::Bounced)]
    #[case(hard(), DELIVERED, Status::Bounced, Status::Delivered)]
    #[case(gave_up(), DELIVERED, Status::Failed, Status::Delivered)]
    #[case(hard(), gave_up(), Status::Bounced, Status::Failed)]
    fn the_earlier_end_decides_where_else_the_later_does(
        #[case] earlier: Fact,
        #[case] later: Fact,
        #[case] first: Status,
        #[case] last: Status,
    ) {
        for facts in [
            [(1, earlier.clone()), (2, later.clone())],
            [(2, later), (1, earlier)],
        ] {
            assert_eq!(status(&facts), first);
            assert_eq!(told(&facts).status(), last);
        }
    }

    #[rstest]
    #[case(DELIVERED, gave_up(), Status::Failed)]
    #[case(DELIVERED, hard(), Status::Bounced)]
    #[case(gave_up(), hard(), Status::Bounced)]
    fn a_tie_goes_to_the_worse_end(
        #[case] better: Fact,
        #[case] worse: Fact,
        #[case] expected: Status,
    ) {
        assert_eq!(status(&[(1, better.clone()), (1, worse.clone())]), expected);
        assert_eq!(status(&[(1, worse), (1, better)]), expected);
    }

    #[test]
    fn stages_and_what_is_no_end_count_as_ever() {
        assert_eq!(status(&[(1, SENT), (2, DELIVERED)]), Status::Delivered);
        assert_eq!(status(&[(1, soft()), (2, DELIVERED)]), Status::Delivered);
        assert_eq!(status(&[(1, SENT), (2, soft())]), Status::Sent);
        assert_eq!(status(&[(1, suppressed())]), Status::Suppressed);
    }

    #[test]
    fn the_time_of_an_end_is_that_of_its_first_report() {
        let story = told(&[(1, SENT), (3, DELIVERED), (5, DELIVERED), (7, hard())]);

        let first = story.message_under(RULE);
        assert_eq!(first.status, Status::Delivered);
        assert_eq!(first.times.delivered_at, Some(at(3)));
        assert_eq!(story.message().times.delivered_at, Some(at(5)));
        assert_eq!(first.times.bounced_at, Some(at(7)));
    }

    #[test]
    fn a_failure_that_was_answered_is_no_end() {
        let story = requested()
            .and(1, email(failed(true, true)))
            .and(2, queue())
            .and(3, email(SENT))
            .and(4, email(DELIVERED));

        assert_eq!(story.message_under(RULE).status, Status::Delivered);
    }

    #[test]
    fn what_may_be_tried_again_stays_what_commands_go_by() {
        // The default rule shows it as failed, this one as delivered.
        let story = told(&[(1, DELIVERED), (2, failed(true, true))]);

        assert_eq!(story.message_under(RULE).status, Status::Delivered);
        assert_eq!(
            story.summary_under(RULE).unanswered_failures,
            story.summary().unanswered_failures
        );
        assert_eq!(story.appends(3, queue()), 1);
    }
}

mod one_message {
    use super::*;

    #[rstest]
    #[case::sent(SENT, Status::Sent)]
    #[case::delivered(DELIVERED, Status::Delivered)]
    #[case::bounced(hard(), Status::Bounced)]
    #[case::complained_about(bounced(BounceType::Complaint), Status::Bounced)]
    #[case::bounced_somehow(bounced(BounceType::Unknown), Status::Bounced)]
    #[case::failed(gave_up(), Status::Failed)]
    #[case::failed_for_good_but_retryable(failed(true, true), Status::Failed)]
    #[case::suppressed(suppressed(), Status::Suppressed)]
    #[case::bounced_softly(soft(), Status::Requested)]
    #[case::failed_for_now(failed(true, false), Status::Requested)]
    #[case::seen(SEEN, Status::Requested)]
    #[case::read(READ, Status::Requested)]
    #[case::clicked(interacted(Interaction::Clicked), Status::Requested)]
    fn stands_where_its_only_fact_puts_it(#[case] fact: Fact, #[case] status: Status) {
        let story = told(&[(1, fact)]);

        assert_eq!(story.message().status, status);
        assert_eq!(story.status(), status);
    }

    #[rstest]
    #[case::delivered(DELIVERED, Status::Delivered)]
    #[case::bounced(hard(), Status::Bounced)]
    #[case::failed(gave_up(), Status::Failed)]
    fn an_end_beats_a_later_stage(#[case] end: Fact, #[case] status: Status) {
        assert_eq!(told(&[(1, end.clone()), (2, SENT)]).status(), status);
        assert_eq!(told(&[(1, end), (2, suppressed())]).status(), status);
    }

    #[rstest]
    #[case::bounced_softly(soft())]
    #[case::failed_for_now(failed(true, false))]
    #[case::failed_for_now_without_a_retry(failed(false, false))]
    fn what_is_no_end_leaves_it_where_it_was(#[case] fact: Fact) {
        assert_eq!(told(&[(1, SENT), (2, fact.clone())]).status(), Status::Sent);
        assert_eq!(
            told(&[(1, DELIVERED), (2, fact.clone())]).status(),
            Status::Delivered
        );
        let queued = requested().and(1, queue()).and(2, email(fact));
        assert_eq!(queued.status(), Status::Queued);
    }

    #[rstest]
    #[case(DELIVERED, hard(), Status::Bounced)]
    #[case(DELIVERED, gave_up(), Status::Failed)]
    #[case(hard(), gave_up(), Status::Failed)]
    #[case(hard(), DELIVERED, Status::Delivered)]
    #[case(gave_up(), DELIVERED, Status::Delivered)]
    #[case(gave_up(), hard(), Status::Bounced)]
    fn the_later_end_decides_whichever_is_told_first(
        #[case] earlier: Fact,
        #[case] later: Fact,
        #[case] status: Status,
    ) {
        let facts = [(1, earlier.clone()), (2, later.clone())];
        assert_eq!(told(&facts).status(), status);

        let facts = [(2, later), (1, earlier)];
        assert_eq!(told(&facts).status(), status);
    }

    #[rstest]
    #[case(DELIVERED, gave_up(), Status::Failed)]
    #[case(DELIVERED, hard(), Status::Bounced)]
    #[case(gave_up(), hard(), Status::Bounced)]
    fn a_tie_goes_to_the_worse_end(
        #[case] better: Fact,
        #[case] worse: Fact,
        #[case] status: Status,
    ) {
        let facts = [(1, better.clone()), (1, worse.clone())];
        assert_eq!(told(&facts).status(), status);

        let facts = [(1, worse), (1, better)];
        assert_eq!(told(&facts).status(), status);
    }

    #[test]
    fn keeps_the_time_of_every_stage() {
        let story = told(&[
            (2, SENT),
            (1, SENT),
            (3, suppressed()),
            (4, failed(true, false)),
            (5, soft()),
            (6, DELIVERED),
            (8, SEEN),
            (7, SEEN),
            (9, READ),
        ]);

        assert_eq!(
            story.message().times,
            Times {
                sent_at: Some(at(1)),
                delivered_at: Some(at(6)),
                bounced_at: None,
                failed_at: None,
                suppressed_at: Some(at(3)),
                seen_at: Some(at(7)),
                read_at: Some(at(9)),
            }
        );
    }

    #[test]
    fn counts_every_attempt_it_was_told_of() {
        assert_eq!(told(&[(1, SEEN)]).message().attempts, 0);
        assert_eq!(
            told(&[(1, SENT), (2, DELIVERED), (3, SENT)])
                .message()
                .attempts,
            1
        );
        let twice_in_vain = [(1, attempt_failed(1)), (2, attempt_failed(2))];
        assert_eq!(told(&twice_in_vain).message().attempts, 2);
        let third_time = [(1, attempt_failed(1)), (2, attempt_failed(2)), (3, SENT)];
        assert_eq!(told(&third_time).message().attempts, 3);
        assert_eq!(told(&[(1, attempt_failed(7))]).message().attempts, 7);
    }

    #[test]
    fn the_last_error_is_the_latest_failure_or_bounce() {
        let story = told(&[
            (2, attempt_failed(2)),
            (1, attempt_failed(1)),
            (3, DELIVERED),
        ]);
        let error = story.message().last_error.unwrap();

        assert_eq!(
            (error.code.as_deref(), error.occurred_at),
            (Some("422"), at(2))
        );
        assert_eq!(error.event_id, story.events[1].event_id);
        assert!(told(&[(1, SENT)]).message().last_error.is_none());
    }

    #[test]
    fn bounce_type_and_suppression_are_those_told_last() {
        let story = told(&[(2, hard()), (1, soft())]);
        assert_eq!(story.message().bounce_type, Some(BounceType::Hard));

        let expired = Fact::Suppressed {
            reason: "expired".to_owned(),
        };
        let story = told(&[(2, expired), (1, suppressed())]);
        assert_eq!(
            story.message().suppressed_reason.as_deref(),
            Some("expired")
        );
    }

    #[test]
    fn each_interaction_keeps_its_latest_time() {
        let story = told(&[
            (3, interacted(Interaction::Clicked)),
            (2, interacted(Interaction::Clicked)),
            (1, interacted(Interaction::Archived)),
        ]);

        let interactions: Vec<_> = story.message().interactions.into_iter().collect();
        assert_eq!(
            interactions,
            [
                (Interaction::Clicked, at(3)),
                (Interaction::Archived, at(1))
            ]
        );
    }
}

mod pointing_back {
    use std::sync::Arc;

    use super::*;
    use crate::given::NoteTaker;

    /// The fact told as the so-many-th, after the request.
    fn event(story: &Story, place: usize) -> EventId {
        story.events[place].event_id
    }

    #[rstest]
    #[case::the_end_and_not_what_led_there(&[(1, SENT), (2, DELIVERED)], 2, 2)]
    #[case::the_end_and_not_what_came_later(&[(1, hard()), (2, SENT)], 1, 1)]
    #[case::the_later_of_two_ends(&[(2, DELIVERED), (1, hard())], 1, 2)]
    #[case::the_worse_of_two_at_once(&[(1, DELIVERED), (1, hard())], 2, 1)]
    #[case::the_earlier_sending(&[(2, SENT), (1, SENT)], 2, 1)]
    #[case::the_sending_and_no_suppression(&[(1, suppressed()), (2, SENT)], 2, 2)]
    #[case::the_earlier_suppression(&[(1, suppressed()), (2, suppressed())], 1, 1)]
    fn the_status_is_that_of(
        #[case] facts: &[(i64, Fact)],
        #[case] place: usize,
        #[case] minute: i64,
    ) {
        let story = told(facts);

        assert_eq!(story.message().decided_by, Some(event(&story, place)));
        assert_eq!(story.message().status_at, Some(at(minute)));
    }

    #[test]
    fn the_first_end_gives_the_status_where_it_wins() {
        let story = told(&[(1, DELIVERED), (2, hard())]);
        let message = story.message_under(PrecedenceRule::FirstTerminalWinsV1);

        assert_eq!(message.decided_by, Some(event(&story, 1)));
        assert_eq!(message.status_at, Some(at(1)));
    }

    #[test]
    fn nobody_gave_the_status_of_a_message_that_waits() {
        for story in [
            told(&[(1, soft()), (2, SEEN)]),
            requested().and(1, queue()).and(2, email(SEEN)),
        ] {
            assert_eq!(story.message().decided_by, None);
            assert_eq!(story.message().status_at, None);
        }
    }

    #[test]
    fn after_a_retry_it_is_the_sending_since() {
        let story = requested()
            .and(1, email(SENT))
            .and(2, email(failed(true, true)))
            .and(3, queue())
            .and(4, email(SENT));

        let message = story.message();
        assert_eq!(message.status, Status::Sent);
        assert_eq!(message.decided_by, Some(event(&story, 4)));
        assert_eq!(message.status_at, Some(at(4)));
        assert_eq!(message.times.sent_at, Some(at(1)));
    }

    #[test]
    fn of_two_that_say_the_same_the_smaller_id_stands_for_both() {
        // In whichever order their content sorts.
        for (first, second) in [("sg-1", "sg-2"), ("sg-2", "sg-1")] {
            let named = |id: &str| {
                let mut message = sendgrid(id);
                message.message_id = Some("66f0".to_owned());
                reported(said(DELIVERED, message))
            };
            let story = requested().and(1, named(first)).and(1, named(second));

            assert_eq!(story.message().decided_by, Some(event(&story, 1)));
        }
    }

    #[test]
    fn reports_are_told_by_time() {
        let story = told(&[(3, DELIVERED), (1, SENT), (2, SEEN)]).and(4, sms(SENT));
        assert_eq!(
            story.summary().messages[0].reports,
            [2, 3, 1].map(|place| event(&story, place))
        );
    }

    /// Each fact with or without private words, by the minute.
    fn in_private(facts: &[(Fact, bool)]) -> Story {
        let mut story = requested();
        for (minute, (fact, private)) in (1..).zip(facts) {
            let private = private.then_some(r#"{"text":"…"}"#);
            let sealer = Arc::new(NoteTaker::default());
            story
                .tell_with(minute, email(fact.clone()), private, &sealer)
                .unwrap();
        }
        story
    }

    #[rstest]
    #[case::the_one_that_decided(&[(SENT, true), (DELIVERED, true), (SEEN, true)], Some(2))]
    #[case::the_last_with_private_words(&[(SENT, true), (SEEN, true), (DELIVERED, false)], Some(2))]
    #[case::none(&[(SENT, false), (DELIVERED, false)], None)]
    fn the_report_shown_is(#[case] facts: &[(Fact, bool)], #[case] place: Option<usize>) {
        let story = in_private(facts);
        let expected = place.map(|place| event(&story, place));

        assert_eq!(story.message().report_shown, expected);
    }

    #[test]
    fn it_began_when_it_was_requested_else_with_the_first_report() {
        assert_eq!(nothing().summary().occurred_at, None);
        assert_eq!(requested().summary().occurred_at, Some(at(0)));
        let adopted = nothing()
            .and(5, adopting(said(DELIVERED, sendgrid("sg-1"))))
            .and(3, reported(said(SENT, sendgrid("sg-1"))));
        assert_eq!(adopted.summary().occurred_at, Some(at(3)));
        assert_eq!(adopted.and(9, request()).summary().occurred_at, Some(at(9)));
    }

    #[test]
    fn the_transaction_is_the_adoptions_else_the_earliest_reports() {
        let within = |transaction: &str| {
            let mut report = said(SENT, sendgrid(transaction));
            report.context.transaction_id = Some(transaction.to_owned());
            report
        };
        let story = requested()
            .and(2, reported(within("txn-2")))
            .and(1, reported(within("txn-1")));
        assert_eq!(story.notification.transaction_id(), Some("txn-1"));
        assert_eq!(requested().notification.transaction_id(), None);

        let adopted = nothing().and(1, adopting(within("txn-1")));
        assert_eq!(
            adopted.notification.transaction_id(),
            Some("txn_66f0a1c4b7d2e90012ab0100")
        );
    }
}

mod reading {
    use super::*;

    fn read_at(facts: &[(i64, Fact)]) -> Option<Timestamp> {
        told(facts).message().times.read_at
    }

    fn unread() -> Fact {
        interacted(Interaction::Unread)
    }

    #[test]
    fn is_undone_by_a_later_unread() {
        assert_eq!(read_at(&[(1, READ), (2, unread())]), None);
        assert_eq!(read_at(&[(2, unread()), (1, READ)]), None);
    }

    #[test]
    fn outlives_an_earlier_unread() {
        assert_eq!(read_at(&[(1, unread()), (2, READ)]), Some(at(2)));
        assert_eq!(read_at(&[(2, READ), (1, unread())]), Some(at(2)));
    }

    #[test]
    fn outlives_an_unread_at_the_same_moment() {
        assert_eq!(read_at(&[(1, READ), (1, unread())]), Some(at(1)));
    }

    #[test]
    fn again_counts_from_the_first_time_since() {
        let facts = [(1, READ), (2, unread()), (4, READ), (3, READ)];

        assert_eq!(read_at(&facts), Some(at(3)));
    }

    #[test]
    fn one_message_says_nothing_about_another() {
        let story = requested()
            .and(1, sms(READ))
            .and(1, email(READ))
            .and(2, sms(unread()));

        assert_eq!(story.summary().times.read_at, Some(at(1)));
    }
}

mod several_messages {
    use super::*;

    /// From best to worst.
    fn ladder() -> [(Fact, Status); 6] {
        [
            (DELIVERED, Status::Delivered),
            (SENT, Status::Sent),
            (SEEN, Status::Requested),
            (gave_up(), Status::Failed),
            (hard(), Status::Bounced),
            (suppressed(), Status::Suppressed),
        ]
    }

    #[test]
    fn the_best_one_says_where_the_notification_stands() {
        for (place, (better, status)) in ladder().into_iter().enumerate() {
            for (worse, _) in &ladder()[place..] {
                let there = requested()
                    .and(1, email(better.clone()))
                    .and(2, sms(worse.clone()));
                let back = requested()
                    .and(1, email(worse.clone()))
                    .and(2, sms(better.clone()));

                assert_eq!(there.status(), status, "{better:?} and {worse:?}");
                assert_eq!(back.status(), status, "{worse:?} and {better:?}");
            }
        }
    }

    #[test]
    fn good_stages_count_from_the_first_message_and_bad_ends_from_the_last() {
        let third = || channel("push");
        let story = requested()
            .and(1, email(SENT))
            .and(2, sms(SENT))
            .and(3, email(hard()))
            .and(4, sms(hard()))
            .and(6, reported(said(DELIVERED, third())))
            .and(7, reported(said(SEEN, third())));

        let times = story.summary().times;

        assert_eq!(times.sent_at, Some(at(1)));
        assert_eq!(times.bounced_at, Some(at(4)));
        assert_eq!(times.delivered_at, Some(at(6)));
        assert_eq!(times.seen_at, Some(at(7)));
    }

    #[test]
    fn without_any_the_requests_stage_counts() {
        assert_eq!(requested().status(), Status::Requested);
        assert_eq!(requested().and(1, queue()).status(), Status::Queued);
        assert_eq!(requested().and(1, retract()).status(), Status::Retracted);
        assert_eq!(requested().summary().messages, []);
    }

    #[test]
    fn queued_at_is_the_last_time_it_was_queued() {
        let story = requested()
            .and(1, queue())
            .and(2, email(failed(true, false)))
            .and(3, queue());

        assert_eq!(story.summary().queued_at, Some(at(3)));
    }
}

mod after_a_retraction {
    use super::*;

    fn retracted() -> Story {
        requested().and(1, email(SENT)).and(5, retract())
    }

    #[test]
    fn a_delivery_is_shown_as_delivered_and_flagged() {
        let story = retracted().and(6, email(DELIVERED));

        assert_eq!(story.status(), Status::Delivered);
        assert_eq!(story.anomalies(), ["retraction_too_late"]);
        assert_eq!(story.notification.retraction().unwrap().occurred_at, at(5));
    }

    #[test]
    fn a_delivery_told_late_is_flagged_too() {
        let story = retracted().and(4, email(DELIVERED));

        assert_eq!(story.status(), Status::Delivered);
        assert_eq!(story.anomalies(), ["retraction_too_late"]);
    }

    #[rstest]
    #[case::bounced(hard())]
    #[case::failed(gave_up())]
    #[case::suppressed(suppressed())]
    fn a_bad_end_leaves_it_retracted(#[case] end: Fact) {
        assert_eq!(retracted().and(6, email(end)).status(), Status::Retracted);
    }

    #[test]
    fn sending_is_flagged_and_leaves_it_retracted() {
        let story = requested().and(5, retract()).and(6, email(SENT));

        assert_eq!(story.status(), Status::Retracted);
        assert_eq!(story.anomalies(), ["sent_after_retraction"]);
    }

    #[test]
    fn sending_once_more_is_flagged() {
        assert_eq!(retracted().anomalies(), [""; 0]);
        assert_eq!(
            retracted().and(6, email(SENT)).anomalies(),
            ["sent_after_retraction"]
        );
    }

    #[test]
    fn sending_before_it_or_just_then_is_nothing_special() {
        assert_eq!(retracted().and(5, email(SENT)).anomalies(), [""; 0]);
        assert_eq!(retracted().and(4, email(SENT)).anomalies(), [""; 0]);
    }
}

mod contradictions {
    use super::*;

    #[rstest]
    #[case::nothing_odd(&[(1, SENT), (2, DELIVERED), (3, SEEN), (4, READ)], &[])]
    #[case::soft_bounce_first(&[(1, SENT), (2, soft()), (3, DELIVERED)], &[])]
    #[case::attempts_first(&[(1, attempt_failed(1)), (2, SENT), (3, DELIVERED)], &[])]
    #[case(&[(1, SENT), (2, DELIVERED), (3, hard())], &["delivered_and_bounced"])]
    #[case(&[(1, SENT), (2, hard()), (3, DELIVERED)], &["delivered_and_bounced"])]
    #[case(&[(1, SENT), (2, DELIVERED), (3, gave_up())], &["delivered_and_failed"])]
    #[case(&[(1, DELIVERED)], &["delivered_never_sent"])]
    #[case(&[(1, suppressed()), (2, SENT)], &["sent_despite_suppression"])]
    #[case(
        &[(1, DELIVERED), (2, hard()), (3, gave_up()), (4, suppressed())],
        &["delivered_and_bounced", "delivered_and_failed", "delivered_never_sent", "sent_despite_suppression"]
    )]
    fn are_listed(#[case] facts: &[(i64, Fact)], #[case] anomalies: &[&str]) {
        assert_eq!(told(facts).anomalies(), anomalies);

        let backwards: Vec<_> = facts.iter().rev().cloned().collect();
        assert_eq!(told(&backwards).anomalies(), anomalies);
    }

    #[test]
    fn between_two_messages_are_none() {
        let story = requested()
            .and(1, email(SENT))
            .and(2, email(DELIVERED))
            .and(1, sms(SENT))
            .and(2, sms(hard()));

        assert_eq!(story.anomalies(), [""; 0]);
    }

    #[test]
    fn name_their_message() {
        let story = nothing().and(1, adopting(said(DELIVERED, sendgrid("sg-1"))));

        let [anomaly] = &story.summary().anomalies[..] else {
            panic!("more than one")
        };
        assert_eq!(anomaly.code, "delivered_never_sent");
        assert!(anomaly.detail.contains("sg-1"), "{}", anomaly.detail);
    }

    #[test]
    fn a_retry_that_succeeds_is_none() {
        let story = requested()
            .and(1, email(SENT))
            .and(2, email(failed(true, true)))
            .and(3, queue())
            .and(4, email(SENT))
            .and(5, email(DELIVERED));

        assert_eq!(story.status(), Status::Delivered);
        assert_eq!(story.anomalies(), [""; 0]);
        assert_eq!(story.message().times.failed_at, None);
    }
}
