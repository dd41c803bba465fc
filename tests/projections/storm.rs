//! Whatever is reported, about whichever message, in whatever order, and however the steps fall:
//! the tables are what follows from the whole streams.

use std::sync::Arc;

use std::collections::BTreeMap;

use notification_ledger::domain::event::{
    Adopted, Audience, BounceType, Category, Classification, Context, Fact, Interaction,
    MessageRef, Priority, Report, Requested, Severity,
};
use notification_ledger::domain::ids::{EventId, StreamId, SubscriberId, WorkflowId};
use notification_ledger::domain::integration::{Change, Integration, IntegrationCommand};
use notification_ledger::domain::notification::{
    Action, Adoption, Notification, NotificationCommand,
};
use notification_ledger::domain::time::Timestamp;
use notification_ledger::ledger::Beginning;
use notification_ledger::ledger::record::{Partition, Position, StreamEvent};
use notification_ledger::ledger::{CommandError, Options};
use notification_ledger::projections::Projection;
use notification_ledger::projections::changes::Changes;
use notification_ledger::projections::step::{Outcome, Wanted};
use notification_ledger::projections::stream::Stream;
use notification_ledger::projections::table::{Cell, Table, Writing};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use uuid::Uuid;

use crate::client::{Client, EVERYTHING};
use crate::process::Process;
use crate::support::{self, Place};
use crate::tables::{Tables, assert_expected};

/// Tenants, each with its partition: two share one.
const TENANTS: [(&str, i16); 3] = [("acme", 0), ("globex", 0), ("initech", 2)];
const STREAMS: u128 = 4;
const OBJECTS: u128 = 2;

/// One thing that is asked of the ledger, or of the projections.
#[derive(Clone, Debug)]
pub(crate) enum Turn {
    Deed {
        tenant: usize,
        stream: u128,
        /// When it is said to have happened, in seconds from now.
        seconds: i64,
        deed: Deed,
        is_private: bool,
    },
    /// A step in a partition, with so many events at most for each projection; none for 0.
    Step {
        partition: i16,
        events_max: [i64; 4],
    },
}

impl Turn {
    pub(crate) fn is_a_deed(&self) -> bool {
        matches!(self, Self::Deed { .. })
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Deed {
    Request(Arc<Requested>),
    Queue,
    Retract,
    Report {
        report: Arc<Report>,
        adopts: bool,
    },
    Change {
        object: u128,
        subscriber_id: Option<SubscriberId>,
        fact_key: u8,
    },
}

fn word(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    proptest::sample::select(of).prop_map(str::to_owned)
}

fn maybe(of: &'static [&'static str]) -> impl Strategy<Value = Option<String>> {
    proptest::option::of(word(of))
}

fn any_subscriber() -> impl Strategy<Value = SubscriberId> {
    word(&["ann", "bob"]).prop_map(|name| SubscriberId::new(&name).unwrap())
}

fn any_workflow() -> impl Strategy<Value = WorkflowId> {
    word(&["welcome", "dunning \u{1f4e8}"]).prop_map(|name| WorkflowId::new(&name).unwrap())
}

fn any_metadata() -> impl Strategy<Value = BTreeMap<String, String>> {
    let entry = (
        word(&["order", "lang", "é\"\\"]),
        word(&["1", "de", "", "a\u{1}b"]),
    );
    proptest::collection::btree_map(entry.0, entry.1, 0..3)
}

fn any_request() -> impl Strategy<Value = Deed> {
    let channels = proptest::sample::subsequence(vec!["email", "push", "sms"], 0..3);
    let classification = (
        maybe(&["E1", "E2"]),
        proptest::option::of(Just(Audience::Support)),
        proptest::option::of(Just(Severity::High)),
    );
    (
        (any_workflow(), any_subscriber(), maybe(&["v1", "v2"])),
        maybe(&["order-1", "order-2"]),
        channels,
        classification,
        any_metadata(),
        any::<bool>(),
    )
        .prop_map(
            |(names, external_id, channels, class, metadata, is_urgent)| {
                let (workflow_id, subscriber_id, workflow_version) = names;
                let (error_code, audience, severity) = class;
                Deed::Request(Arc::new(Requested {
                    workflow_id,
                    workflow_version,
                    subscriber_id,
                    external_id,
                    channels: channels.into_iter().map(str::to_owned).collect(),
                    category: if is_urgent {
                        Category::Escalation
                    } else {
                        Category::Marketing
                    },
                    priority: if is_urgent {
                        Priority::Critical
                    } else {
                        Priority::Low
                    },
                    classification: Classification {
                        error_code,
                        audience,
                        severity,
                    },
                    scheduled_at: is_urgent.then_some(Timestamp::MIN),
                    expires_at: is_urgent.then_some(Timestamp::MAX),
                    metadata,
                }))
            },
        )
}

fn any_fact() -> impl Strategy<Value = Fact> {
    let bounce_type = proptest::sample::select(vec![
        BounceType::Hard,
        BounceType::Soft,
        BounceType::Complaint,
    ]);
    let kind = proptest::sample::select(vec![Interaction::Unread, Interaction::Opened]);
    prop_oneof![
        3 => Just(Fact::Sent),
        3 => Just(Fact::Delivered),
        2 => (bounce_type, maybe(&["550", "421"]))
            .prop_map(|(bounce_type, code)| Fact::Bounced { bounce_type, code }),
        3 => (maybe(&["timeout"]), any::<bool>(), any::<bool>(), proptest::option::of(1..3_u32))
            .prop_map(|(code, retryable, is_final, attempt)| Fact::Failed {
                code,
                retryable,
                is_final,
                attempt,
            }),
        1 => Just(Fact::Seen),
        1 => Just(Fact::Read),
        1 => kind.prop_map(|kind| Fact::Interacted { kind }),
        1 => word(&["preference"]).prop_map(|reason| Fact::Suppressed { reason }),
    ]
}

/// Few, so that references meet: sometimes only a later one says that two are the same.
fn any_message() -> impl Strategy<Value = MessageRef> {
    (
        proptest::option::weighted(0.3, word(&["66f0", "66f1"])),
        proptest::option::weighted(0.4, word(&["sg-1", "sg-2"])),
        proptest::option::weighted(0.5, word(&["email", "sms"])),
        proptest::option::weighted(0.2, word(&["sendgrid", "ses"])),
        proptest::option::weighted(0.2, word(&["step-1"])),
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

fn any_report() -> impl Strategy<Value = Deed> {
    let context = (
        proptest::option::weighted(0.3, any_workflow()),
        proptest::option::weighted(0.3, any_subscriber()),
        proptest::option::weighted(0.2, word(&["tx-1", "tx-2"])),
    );
    let delivery_id = proptest::option::weighted(0.1, word(&["novu:msg_1"]));
    (
        any_fact(),
        any_message(),
        context,
        delivery_id,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(fact, message, context, delivery_id, untimed, adopts)| {
            let (workflow_id, subscriber_id, transaction_id) = context;
            let context = Context {
                workflow_id,
                subscriber_id,
                transaction_id,
            };
            let report = Report {
                fact,
                message,
                untimed,
                context,
                delivery_id,
            };
            Deed::Report {
                report: Arc::new(report),
                adopts,
            }
        })
}

fn any_deed() -> impl Strategy<Value = Deed> {
    let change = (0..OBJECTS, proptest::option::of(any_subscriber()), 0..4_u8).prop_map(
        |(object, subscriber_id, fact_key)| Deed::Change {
            object,
            subscriber_id,
            fact_key,
        },
    );
    prop_oneof![
        3 => any_request(),
        2 => Just(Deed::Queue),
        1 => Just(Deed::Retract),
        12 => any_report(),
        1 => change,
    ]
}

fn any_turn() -> impl Strategy<Value = Turn> {
    let seconds = prop_oneof![
        4 => 0..90_i64,
        1 => proptest::sample::select(vec![-90_000_i64, -3_700, -61, -1, 4_000, 90_000]),
    ];
    let deed = (
        0..TENANTS.len(),
        0..STREAMS,
        seconds,
        any_deed(),
        any::<bool>(),
    )
        .prop_map(|(tenant, stream, seconds, deed, is_private)| Turn::Deed {
            tenant,
            stream,
            seconds,
            deed,
            is_private,
        });
    let events_max = proptest::array::uniform4(0..6_i64);
    let step = (proptest::sample::select(vec![0_i16, 2]), events_max).prop_map(
        |(partition, events_max)| Turn::Step {
            partition,
            events_max,
        },
    );
    prop_oneof![5 => deed, 2 => step]
}

fn any_storm(turns: usize) -> impl Strategy<Value = Vec<Turn>> {
    proptest::collection::vec(any_turn(), turns / 2..turns)
}

/// The same storm for the same seed.
pub(crate) fn storm(turns: usize, seed: u64) -> Vec<Turn> {
    let config = Config {
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..Config::default()
    };
    let tree = any_storm(turns).new_tree(&mut TestRunner::new(config));
    tree.unwrap().current()
}

/// Callers on behalf of each tenant.
#[derive(Clone, Debug)]
pub(crate) struct Callers(Vec<Client>);

impl Callers {
    pub(crate) fn of(client: &Client) -> Self {
        let tenants = TENANTS.iter();
        Self(
            tenants
                .map(|(name, partition)| client.clone().for_tenant(name, *partition))
                .collect(),
        )
    }

    /// Asks the ledger for a deed. Says whether it was not refused.
    pub(crate) async fn act(&self, turn: &Turn) -> bool {
        let Turn::Deed {
            tenant,
            stream,
            seconds,
            deed,
            is_private,
        } = turn
        else {
            return false;
        };
        let client = &self.0[*tenant];
        let now = client.surroundings.now().as_micros();
        let occurred_at = Timestamp::from_micros(now + seconds * 1_000_000).unwrap();
        let event_id = EventId(client.surroundings.ids.time_ordered());
        let private = is_private.then(|| r#"{"raw":{"said":"so"}}"#.into());
        let action = match deed.clone() {
            Deed::Change {
                object,
                subscriber_id,
                fact_key,
            } => {
                let command = IntegrationCommand {
                    event_id,
                    occurred_at,
                    change: Change {
                        provider: "novu".to_owned(),
                        change: "preference.updated".to_owned(),
                        object_id: object.to_string(),
                        name: None,
                        subscriber_id,
                        delivery_id: None,
                        fact_key: fact_key.to_string(),
                    },
                    private,
                };
                let stream = StreamId(Uuid::from_u128(u128::MAX - 100 - object));
                let told = client
                    .ledger
                    .execute::<Integration>(&client.order, stream, Beginning::Unknown, command)
                    .await;
                told.unwrap();
                return true;
            }
            Deed::Request(requested) => Action::Request(requested),
            Deed::Queue => Action::Queue {
                queue: None,
                available_at: None,
            },
            Deed::Retract => Action::Retract,
            Deed::Report { report, adopts } => Action::Report {
                report,
                adoption: adopts.then(|| Adoption {
                    event_id: EventId(client.surroundings.ids.time_ordered()),
                    adopted: Adopted {
                        provider: "novu".to_owned(),
                        transaction_id: None,
                    },
                }),
            },
        };
        let command = NotificationCommand {
            event_id,
            occurred_at,
            private,
            action,
        };
        // The same ids for every tenant: neither may learn of the other.
        let stream = StreamId(Uuid::from_u128(u128::MAX - stream));
        let told = client
            .ledger
            .execute::<Notification>(&client.order, stream, Beginning::Unknown, command)
            .await;
        match told {
            Ok(_) => true,
            Err(CommandError::Refused(_)) => false,
            Err(error) => panic!("{error:?}"),
        }
    }
}

async fn step(process: &Process, partition: i16, events_max: [i64; 4]) {
    let wanted: Vec<_> = Projection::ALL
        .into_iter()
        .zip(events_max)
        .filter(|(_, events_max)| *events_max > 0)
        .map(|(projection, events_max)| Wanted {
            projection,
            events_max,
        })
        .collect();
    let steps = process
        .stepper()
        .step(Partition(partition), &wanted)
        .await
        .unwrap();
    for step in steps.expect("nobody else is at it") {
        assert!(
            matches!(
                step.outcome,
                Outcome::Moved { .. } | Outcome::UpToDate { .. }
            ),
            "{step:?}"
        );
    }
}

/// Goes through a storm; says what the tables are in the end.
async fn weather(place: &Place, turns: &[Turn]) -> Tables {
    let process = Process::idle(place);
    let store = process.projections.store().clone();
    store.add_checkpoints().await.unwrap();
    let callers = Callers::of(&process.client);
    for turn in turns {
        match turn {
            Turn::Deed { .. } => {
                callers.act(turn).await;
            }
            Turn::Step {
                partition,
                events_max,
            } => step(&process, *partition, *events_max).await,
        }
    }
    for partition in [0, 2] {
        for _ in 0..2 {
            step(&process, partition, [1000; 4]).await;
        }
    }
    let tables = assert_expected(&store, place.storage.as_ref()).await;
    drop(callers);
    process.stop().await;
    tables
}

fn weather_on_sqlite(turns: &[Turn]) -> Tables {
    let mut tables = Tables::default();
    block_on(support::on_sqlite(async |place: &Place| {
        tables = weather(place, turns).await;
    }));
    tables
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(future)
}

/// Rows by their keys, as a table would hold them.
type Model = BTreeMap<&'static str, BTreeMap<Vec<Cell<'static>>, Vec<Cell<'static>>>>;

fn write(model: &mut Model, changes: &Changes<'_>) {
    let table: &'static Table = changes.rows.table;
    let rows = model.entry(table.name).or_default();
    let owned = |row: &[Cell<'_>]| {
        row.iter()
            .cloned()
            .map(Cell::into_owned)
            .collect::<Vec<_>>()
    };
    for row in changes.gone.iter() {
        assert!(
            rows.remove(&owned(&row[..table.key])).is_some(),
            "not there: {row:?}"
        );
    }
    for row in changes.new.iter() {
        let (key, values) = (owned(&row[..table.key]), owned(&row[table.key..]));
        assert!(rows.insert(key, values).is_none(), "there already: {row:?}");
    }
    let mut written = std::collections::BTreeSet::new();
    for row in changes.rows.iter() {
        if table.writing == Writing::Replace {
            assert!(
                rows.contains_key(&owned(&row[..table.key])),
                "not there yet: {row:?}"
            );
        }
        let (key, values) = (owned(&row[..table.key]), owned(&row[table.key..]));
        assert!(
            written.insert(key.clone()),
            "written twice in one statement: {row:?}"
        );
        match (table.writing, rows.get_mut(&key)) {
            (Writing::Add, Some(known)) => {
                for (known, more) in known.iter_mut().zip(values) {
                    *known = Cell::Int(known.as_int().unwrap() + more.as_int().unwrap());
                }
                if known.iter().all(|value| *value == Cell::Int(0)) {
                    rows.remove(&key);
                }
            }
            _ => drop(rows.insert(key, values)),
        }
    }
}

/// Goes through a storm without a database: the deeds at once, then the steps.
async fn model(place: &Place, turns: &[Turn]) {
    let client = Client::on(place, place.process(Options::default()));
    let callers = Callers::of(&client);
    for turn in turns {
        callers.act(turn).await;
    }
    let mut sizes = turns.iter().filter_map(|turn| match turn {
        Turn::Step { events_max, .. } => usize::try_from(events_max[0] + 1).ok(),
        Turn::Deed { .. } => None,
    });
    let mut model = Model::new();
    for partition in [0, 2] {
        let log = place
            .storage
            .log(Partition(partition), Position(0), EVERYTHING)
            .await
            .unwrap();
        let mut streams: BTreeMap<(String, StreamId), Vec<_>> = BTreeMap::new();
        let mut events = log.into_iter().peekable();
        while events.peek().is_some() {
            let before = streams.clone();
            for event in events.by_ref().take(sizes.next().unwrap_or(3)) {
                let event: StreamEvent = event.into();
                let place = (event.tenant_id, event.stream_id);
                streams.entry(place).or_default().push(event.event);
            }
            let stream = |tenant_id, stream_id, events| {
                Stream::new(
                    Partition(partition),
                    tenant_id,
                    stream_id,
                    events,
                    default(),
                )
            };
            let pairs: Vec<_> = streams
                .iter()
                .filter(|(place, events)| before.get(*place) != Some(events))
                .map(|((tenant_id, id), events)| {
                    let before = before.get(&(tenant_id.clone(), *id));
                    let before = before.map(|events| stream(tenant_id, *id, events));
                    (before, stream(tenant_id, *id, events))
                })
                .collect();
            for projection in Projection::ALL {
                for changes in projection.changes(&pairs).unwrap() {
                    write(&mut model, &changes);
                }
            }
        }
    }
    let live = Tables::of(model.into_iter().map(|(name, rows)| {
        let rows = rows.into_iter().map(|(key, values)| [key, values].concat());
        (name, rows.collect())
    }));
    let expected = Tables::expected(place.storage.as_ref(), &Projection::ALL).await;
    assert_eq!(live.difference(&expected), "");
}

fn default<T: Default>() -> T {
    T::default()
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        // The same cases every time; one that failed gets a test with a name instead.
        rng_seed: RngSeed::Fixed(20_260_314),
        failure_persistence: None,
        max_shrink_iters: 300,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(120))]

    #[test]
    fn what_changes_step_by_step_adds_up(turns in any_storm(120)) {
        block_on(support::in_memory(async |place: &Place| model(place, &turns).await));
    }
}

proptest! {
    #![proptest_config(config(6))]

    #[test]
    fn after_any_storm_the_tables_are_as_expected(turns in any_storm(140)) {
        weather_on_sqlite(&turns);
    }

    #[test]
    #[ignore = "needs PostgreSQL"]
    fn after_any_storm_both_databases_have_the_same_tables(turns in any_storm(140)) {
        let mut tables = Tables::default();
        block_on(support::on_postgres(async |place: &Place| {
            tables = weather(place, &turns).await;
        }));
        let difference = tables.difference(&weather_on_sqlite(&turns));
        prop_assert_eq!(difference, "");
    }
}
