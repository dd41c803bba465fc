//! Rebuilding projections beside reading the same rows and throwing them away, in turn, in one run.
//!
//! The references read the columns that a rebuild needs of every event, in the order of the log, and
//! do nothing with them: one in a plain loop, one with as many readers as a rebuild has. And the stock
//! framework fills its one view again, from fewer events.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use notification_ledger::clock::Surroundings;
use notification_ledger::domain::event::{
    Category, Classification, Fact, MessageRef, Priority, Report, Requested,
};
use notification_ledger::domain::ids::{EventId, StreamId, SubscriberId, TenantId, WorkflowId};
use notification_ledger::domain::notification::{Action, Notification, NotificationCommand};
use notification_ledger::ledger::database::{Database, LedgerRow};
use notification_ledger::ledger::lane::QueueLimits;
use notification_ledger::ledger::record::{
    Actor, ActorKind, Partition, Provenance, Source, TenantPlace,
};
use notification_ledger::ledger::sealing::MasterKey;
use notification_ledger::ledger::{Beginning, Ledger, Options, Order};
use notification_ledger::projections::rebuild::State;
use notification_ledger::projections::{Projection, Projections};
use notification_ledger::tasks::Tasks;
use notification_ledger::telemetry::Metrics;
use sqlx::postgres::PgPool;

use crate::references::stock;

/// Partitions of the ledger that is made, each with one tenant.
const PARTITIONS: i16 = 8;
/// Readers at the same time: as many as a rebuild has.
const READERS: usize = 2;
/// Rows per read.
const PAGE: i64 = 8_000;
/// The stock framework replays one of so many events of the ledger: at its rate all of them would take
/// minutes.
const OF_STOCK: i64 = 50;
/// Callers at the same time while the ledger is made.
const CALLERS: usize = 256;

/// Measures rebuilds against reading the same rows.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A database of its own: `postgres://…`. If it has no ledger yet, one is made.
    #[arg(long)]
    pub database_url: String,
    /// Events on record; missing ones are appended first, four per notification.
    #[arg(long, default_value_t = 1_000_000)]
    pub events: i64,
    /// Rounds; medians are reported.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Another database of its own, empty, for the stock framework. Without, that is not measured.
    #[arg(long)]
    pub stock_database_url: Option<String>,
}

/// Events per second, of each round.
pub struct Figures {
    pub events: i64,
    pub read_by_one: Vec<f64>,
    pub read_by_two: Vec<f64>,
    pub notifications: Vec<f64>,
    pub all: Vec<f64>,
    /// The stock framework's one view.
    pub stock: Vec<f64>,
}

pub async fn run(arguments: Arguments) -> Result<()> {
    let mut figures = measure(&arguments).await?;
    let events = figures.events;
    let plain = median(&mut figures.read_by_one);
    let both = median(&mut figures.read_by_two);
    println!("| work | events per second | of a plain loop | of {READERS} readers |");
    println!("| --- | ---: | ---: | ---: |");
    let told = |work: &str, rate: f64| {
        println!(
            "| {work} | {rate:.0} | {:.2} | {:.2} |",
            rate / plain,
            rate / both
        );
    };
    told(&format!("read {events} events and throw them away"), plain);
    told(&format!("the same with {READERS} readers"), both);
    told(
        "rebuild `notifications`",
        median(&mut figures.notifications),
    );
    told("rebuild all four", median(&mut figures.all));
    if !figures.stock.is_empty() {
        told(
            "`postgres-es` replays into its view",
            median(&mut figures.stock),
        );
    }
    println!();
    println!("Resident memory at the highest: {} MB", peak_memory_mb()?);
    Ok(())
}

/// Reads and rebuilds in turn, several rounds.
pub async fn measure(arguments: &Arguments) -> Result<Figures> {
    let url = &arguments.database_url;
    let database = Database::postgres(url, 10, Duration::from_secs(5)).await?;
    database.migrate().await?;
    let surroundings = Surroundings::system();
    prepare(&database, &surroundings, arguments.events).await?;

    let metrics = Metrics::new()?;
    let projections = Projections::apart(&database, PARTITIONS, &surroundings, &metrics);
    projections.store().add_checkpoints().await?;
    let pool = PgPool::connect(url).await?;
    sqlx::query("VACUUM ANALYZE events").execute(&pool).await?;
    let events = count(&database).await?;
    let mut figures = Figures {
        events,
        read_by_one: Vec::new(),
        read_by_two: Vec::new(),
        notifications: Vec::new(),
        all: Vec::new(),
        stock: Vec::new(),
    };
    let lives = u64::try_from(events / OF_STOCK / 4)?.max(1);
    if let Some(stock) = &arguments.stock_database_url {
        stock::live(stock, lives).await?;
    }
    for round in 1..=arguments.rounds {
        eprintln!("round {round} of {}", arguments.rounds);
        figures
            .read_by_one
            .push(reading(&pool, &database, 1, events).await?);
        figures
            .read_by_two
            .push(reading(&pool, &database, READERS, events).await?);
        let wanted = [Projection::Notifications];
        let rate = rebuilding(&projections, "`notifications`", &wanted, events).await?;
        figures.notifications.push(rate);
        let rate = rebuilding(&projections, "all four", &Projection::ALL, events).await?;
        figures.all.push(rate);
        if let Some(stock) = &arguments.stock_database_url {
            let rate = stock::replay(stock, lives).await?;
            eprintln!("  postgres-es replayed its view: {rate:.0} events per second");
            figures.stock.push(rate);
        }
    }
    pool.close().await;
    Ok(figures)
}

async fn count(database: &Database) -> Result<i64> {
    let heads = database.storage().heads().await?;
    Ok(heads.iter().map(|head| head.position.0).sum())
}

async fn reading(pool: &PgPool, database: &Database, readers: usize, events: i64) -> Result<f64> {
    const READ: &str = "
        SELECT tenant_id, stream_id, position, sequence, event_id, event_type, schema_version,
            occurred_at, recorded_at, subscriber_id, data
        FROM events
        WHERE partition = $1 AND position > $2
        ORDER BY position
        LIMIT $3";
    let heads = database.storage().heads().await?;
    let begun = Instant::now();
    let rows: usize = stream::iter(heads)
        .map(|head| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let mut after = 0;
                let mut rows = 0;
                while after < head.position.0 {
                    let page = sqlx::query(READ)
                        .bind(head.partition.0)
                        .bind(after)
                        .bind(PAGE)
                        .fetch_all(&pool)
                        .await?;
                    rows += page.len();
                    after += PAGE;
                    drop(page);
                }
                Ok::<_, anyhow::Error>(rows)
            })
        })
        .buffer_unordered(readers)
        .map(|joined| joined?)
        .try_fold(0, |sum, rows| async move { Ok(sum + rows) })
        .await?;
    if i64::try_from(rows)? != events {
        bail!("read {rows} of {events} events");
    }
    Ok(told(
        &format!("read and thrown away by {readers}"),
        events,
        begun,
    ))
}

async fn rebuilding(
    projections: &Projections,
    name: &str,
    wanted: &[Projection],
    events: i64,
) -> Result<f64> {
    let begun = Instant::now();
    projections.rebuild(wanted, None).await?;
    projections.work().await?;
    for rebuild in projections.rebuilds().await? {
        if wanted.contains(&rebuild.projection) && rebuild.state != State::Done {
            bail!(
                "the rebuild of {name} ended as {:?}: {:?}",
                rebuild.state,
                rebuild.error
            );
        }
    }
    Ok(told(&format!("rebuilt {name}"), events, begun))
}

fn told(what: &str, events: i64, begun: Instant) -> f64 {
    let seconds = begun.elapsed().as_secs_f64();
    let rate = events as f64 / seconds;
    eprintln!("  {what}: {seconds:.2} s, {rate:.0} events per second");
    rate
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The highest resident memory of this process so far (`proc(5)`, `VmHWM`).
fn peak_memory_mb() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    Ok(kilobytes
        .context("the system does not say")?
        .parse::<u64>()?
        / 1024)
}

/// Makes the ledger, or the rest of it: each notification is requested, queued, sent and delivered.
async fn prepare(database: &Database, surroundings: &Surroundings, events: i64) -> Result<()> {
    let row = LedgerRow {
        ledger_id: surroundings.ids.random(),
        partitions: PARTITIONS,
        key_check: "a benchmark's".to_owned(),
        created_at: surroundings.now(),
    };
    database
        .create_ledger(&row, surroundings.ids.random())
        .await?;
    let missing = events - count(database).await?;
    if missing <= 0 {
        return Ok(());
    }
    eprintln!("appending {missing} events");
    let master = Arc::new(MasterKey::new(&[7; 32]).ok().context("a master key")?);
    let tasks = Tasks::new();
    let options = Options {
        lanes: 2,
        queue: QueueLimits {
            commands: 8192,
            bytes: 64 * 1024 * 1024,
        },
        ..Options::default()
    };
    let ledger = Ledger::start(
        database.storage(),
        master,
        options,
        surroundings.clone(),
        &Metrics::new()?,
        &tasks,
    )?;
    stream::iter(0..missing / 4)
        .map(|number| {
            let (ledger, surroundings) = (ledger.clone(), surroundings.clone());
            tokio::spawn(async move { lifecycle(&ledger, &surroundings, number).await })
        })
        .buffer_unordered(CALLERS)
        .map(|joined| joined?)
        .try_for_each(|()| async { Ok(()) })
        .await?;
    drop(ledger);
    tasks.stop(Duration::from_secs(5)).await;
    Ok(())
}

async fn lifecycle(ledger: &Ledger, surroundings: &Surroundings, number: i64) -> Result<()> {
    let partition = i16::try_from(number % i64::from(PARTITIONS))?;
    let provenance = Provenance {
        actor: Actor {
            kind: ActorKind::Key,
            id: "018f0000-0000-7000-8000-000000000000".into(),
        },
        source: Source::Api,
        correlation_id: None,
        causation_id: None,
        traceparent: None,
    };
    let order = Order {
        tenant: TenantPlace {
            tenant_id: TenantId::new(&format!("tenant-{partition}"))?,
            partition: Partition(partition),
        },
        provenance: Arc::new(provenance),
        idempotency: None,
        expected_version: None,
    };
    let requested = Requested {
        workflow_id: WorkflowId::new(
            ["order-shipped", "welcome", "invoice"][(number % 3) as usize],
        )?,
        workflow_version: None,
        subscriber_id: SubscriberId::new(&format!("user-{}", number % 5_000))?,
        external_id: Some(format!("order-{number}")),
        channels: vec!["email".to_owned()],
        category: Category::Transactional,
        priority: Priority::Normal,
        classification: Classification::default(),
        scheduled_at: None,
        expires_at: None,
        metadata: [("region".to_owned(), "eu".to_owned())].into(),
    };
    let payload = format!(
        r#"{{"subscriber":{{"email":"user-{number}@example.com"}},"payload":{{"order":"{number}","items":["{}"]}}}}"#,
        "x".repeat(200)
    );
    let report = |fact| Action::Report {
        report: Arc::new(Report {
            fact,
            message: MessageRef {
                channel: Some("email".to_owned()),
                provider_id: Some("sendgrid".to_owned()),
                provider_message_id: Some(format!("sg-{number}")),
                ..MessageRef::default()
            },
            untimed: false,
            context: Default::default(),
            delivery_id: None,
        }),
        adoption: None,
    };
    let stream_id = StreamId(surroundings.ids.time_ordered());
    let actions = [
        (Action::Request(Arc::new(requested)), Some(payload)),
        (
            Action::Queue {
                queue: Some("default".to_owned()),
                available_at: None,
            },
            None,
        ),
        (report(Fact::Sent), None),
        (
            if number % 20 == 0 {
                report(Fact::Bounced {
                    bounce_type: notification_ledger::domain::event::BounceType::Hard,
                    code: Some("550".to_owned()),
                })
            } else {
                report(Fact::Delivered)
            },
            None,
        ),
    ];
    let mut beginning = Beginning::JustMade;
    for (action, private) in actions {
        let command = NotificationCommand {
            event_id: EventId(surroundings.ids.time_ordered()),
            occurred_at: surroundings.now(),
            private: private.map(Into::into),
            action,
        };
        ledger
            .execute::<Notification>(&order, stream_id, beginning, command)
            .await?;
        beginning = Beginning::Unknown;
    }
    Ok(())
}
