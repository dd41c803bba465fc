//! Whatever callers ask for, in whatever order, again and again: the record stays a record.

use std::collections::{HashMap, HashSet};

use futures_util::future::join_all;
use notification_ledger::domain::event::Fact;
use notification_ledger::domain::ids::{Sequence, StreamId};
use notification_ledger::domain::notification::{Action, Notification, Refusal};
use notification_ledger::ledger::{CommandError, Done, LedgerError, Until};
use proptest::prelude::*;
use uuid::Uuid;

use crate::client::{Client, Told, checked_record, queue, request, said};
use crate::support::{self, Place};

const PROCESSES: usize = 2;
/// Few, so that callers meet.
const STREAMS: u128 = 3;
const FACTS: u8 = 3;
const KEYS: u8 = 4;

/// What somebody asks of a stream. Equal ones are the same request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Request {
    stream: u128,
    expected: Option<i64>,
    deed: Deed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Deed {
    Request,
    Queue,
    Retract,
    Sent(u8),
    Delivered(u8),
    Failed(u8),
}

#[derive(Clone, Debug)]
struct Step {
    process: usize,
    key: Option<u8>,
    request: Request,
}

fn any_deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        3 => Just(Deed::Request),
        2 => Just(Deed::Queue),
        1 => Just(Deed::Retract),
        2 => (0..FACTS).prop_map(Deed::Sent),
        1 => (0..FACTS).prop_map(Deed::Delivered),
        2 => (0..FACTS).prop_map(Deed::Failed),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let expected = proptest::option::weighted(0.2, 0_i64..5);
    let key = proptest::option::of(0..KEYS);
    (0..PROCESSES, key, 0..STREAMS, expected, any_deed()).prop_map(
        |(process, key, stream, expected, deed)| Step {
            process,
            key,
            request: Request {
                stream,
                expected,
                deed,
            },
        },
    )
}

/// Steps of one round are taken at once.
fn any_rounds() -> impl Strategy<Value = Vec<Vec<Step>>> {
    proptest::collection::vec(proptest::collection::vec(any_step(), 1..6), 1..16)
}

impl Deed {
    fn action(&self) -> Action {
        let about = |fact, number: u8| said(fact, &format!("sg-{number}"), None);
        match *self {
            Self::Request => request(),
            Self::Queue => queue(),
            Self::Retract => Action::Retract,
            Self::Sent(number) => about(Fact::Sent, number),
            Self::Delivered(number) => about(Fact::Delivered, number),
            Self::Failed(number) => {
                let failed = Fact::Failed {
                    code: None,
                    retryable: true,
                    is_final: false,
                    attempt: None,
                };
                about(failed, number)
            }
        }
    }
}

impl Request {
    fn stream_id(&self) -> StreamId {
        StreamId(Uuid::from_u128(u128::MAX - self.stream))
    }

    /// Another one for every other request.
    fn fingerprint(&self) -> u8 {
        let deed = match self.deed {
            Deed::Request => 0,
            Deed::Queue => 1,
            Deed::Retract => 2,
            Deed::Sent(number) => 3 + number,
            Deed::Delivered(number) => 3 + FACTS + number,
            Deed::Failed(number) => 3 + 2 * FACTS + number,
        };
        let expected = self
            .expected
            .map_or(0, |version| 1 + version.unsigned_abs());
        let place = u8::try_from(self.stream * 6 + u128::from(expected)).unwrap();
        place * (3 + 3 * FACTS) + deed
    }
}

/// What the processes answered, step by step.
type Answers = Vec<(Step, Told)>;

async fn answers(clients: &[Client], rounds: &[Vec<Step>]) -> Answers {
    let mut answers = Vec::new();
    for round in rounds {
        let due = match round.as_slice() {
            [alone] if alone.key.is_none() => Some(due(&clients[0], &alone.request).await),
            _ => None,
        };
        let told = join_all(round.iter().map(|step| told(&clients[step.process], step))).await;
        if let Some(due) = due {
            let appended = told[0]
                .as_ref()
                .map(|done| done.appended)
                .map_err(is_refusal);
            assert_eq!(appended, due, "{round:?}");
        }
        answers.extend(round.iter().cloned().zip(told));
    }
    answers
}

async fn told(client: &Client, step: &Step) -> Told {
    let mut client = client.clone();
    client.order.expected_version = step.request.expected.map(Sequence);
    if let Some(key) = step.key {
        client = client.with_key(&format!("k-{key}"), step.request.fingerprint());
    }
    client
        .tell(step.request.stream_id(), step.request.deed.action())
        .await
}

/// By the rules, and not for a version or a key. Anything else should not happen here.
fn is_refusal(error: &CommandError<Refusal>) -> bool {
    match error {
        CommandError::Refused(_) => true,
        CommandError::Ledger(
            LedgerError::VersionMismatch { .. } | LedgerError::IdempotencyKeyReused,
        ) => false,
        CommandError::Ledger(error) => panic!("{error:?}"),
    }
}

/// How many events a request should append, going by the record alone.
async fn due(client: &Client, request: &Request) -> Result<usize, bool> {
    let stream = client.key(request.stream_id());
    let loaded = client
        .ledger
        .load::<Notification>(&stream, Until::Now)
        .await
        .unwrap();
    let (notification, version) = loaded.map_or_else(Default::default, |loaded| {
        (loaded.aggregate, loaded.tip.sequence.0)
    });
    if request.expected.is_some_and(|expected| expected != version) {
        return Err(false);
    }
    let decided = notification.decide(client.command(request.deed.action(), None));
    decided.map(|events| events.len()).map_err(|_| true)
}

/// Every answer is what the record says now about then.
async fn check_against_record(client: &Client, answers: &Answers) {
    for (step, done) in answers
        .iter()
        .filter_map(|(step, told)| Some((step, told.as_ref().ok()?)))
    {
        let until = Until::Version(done.tip.sequence);
        let loaded = client
            .ledger
            .load::<Notification>(&done.stream, until)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(loaded.aggregate, *done.aggregate, "{step:?}");
        assert_eq!(loaded.tip, done.tip);
    }
}

/// Each key did something at most once, and gave the same answer ever after.
fn check_keys(answers: &Answers) {
    let mut first: HashMap<u8, (&Request, &Done<Notification>)> = HashMap::new();
    let done = answers
        .iter()
        .filter_map(|(step, told)| Some((step, told.as_ref().ok()?)));
    for (step, done) in done {
        let Some(key) = step.key else {
            assert!(!done.replayed);
            continue;
        };
        let (request, known) = first.entry(key).or_insert((&step.request, done));
        assert_eq!(**request, step.request, "a key is used for one request");
        assert_eq!(
            (&known.stream, known.tip, known.appended),
            (&done.stream, done.tip, done.appended)
        );
        assert_eq!(known.aggregate, done.aggregate);
    }
    let originals = answers.iter().filter_map(|(step, told)| {
        let done = told.as_ref().ok()?;
        step.key.filter(|_| !done.replayed)
    });
    let mut seen = HashSet::new();
    assert!(
        { originals }.all(|key| seen.insert(key)),
        "a key counts once"
    );
    assert_eq!(seen.len(), first.len(), "a replay has an original");
}

async fn the_record_stays_a_record(rounds: Vec<Vec<Step>>) {
    support::in_memory(async |place: &Place| {
        let clients: Vec<_> = (0..PROCESSES).map(|_| Client::of(place)).collect();
        let answers = answers(&clients, &rounds).await;

        let record = checked_record(place).await;
        let originals = answers.iter().filter_map(|(_, told)| told.as_ref().ok());
        let appended = originals
            .filter(|done| !done.replayed)
            .map(|done| done.appended);
        assert_eq!(
            appended.sum::<usize>(),
            record.len(),
            "nothing is lost or doubled"
        );
        for error in answers.iter().filter_map(|(_, told)| told.as_ref().err()) {
            is_refusal(error);
        }
        check_keys(&answers);
        check_against_record(&Client::of(place), &answers).await;
    })
    .await;
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        // The same cases every time; one that failed gets a test with a name instead.
        rng_seed: proptest::test_runner::RngSeed::Fixed(20_260_314),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_crowd_leaves_a_sound_record(rounds in any_rounds()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(the_record_stays_a_record(rounds));
    }
}
