//! The stock event store: `postgres-es` 0.5 as its documentation shows it, with or without a view.
//!
//! It brings its own sqlx, under another name here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cqrs_es::event_sink::EventSink;
use cqrs_es::persist::{GenericQuery, QueryReplay};
use cqrs_es::{Aggregate, DomainEvent, EventEnvelope, Query, View};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use postgres_es::{
    PostgresCqrs, PostgresEventRepository, PostgresViewRepository, default_postgress_pool,
    postgres_cqrs,
};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::request::{Message, Queued, Reported, Requested};
use crate::generator::{self, Measured, Plan, Repeated};
use crate::http::request_json;

/// As `postgres-es` has them in its `db/init.sql`.
const CREATE: [&str; 2] = [
    "CREATE TABLE events (
        aggregate_type text NOT NULL,
        aggregate_id text NOT NULL,
        sequence bigint CHECK (sequence >= 0) NOT NULL,
        event_type text NOT NULL,
        event_version text NOT NULL,
        payload json NOT NULL,
        metadata json NOT NULL,
        PRIMARY KEY (aggregate_type, aggregate_id, sequence)
    )",
    "CREATE TABLE notification_view (
        view_id text NOT NULL,
        version bigint CHECK (version >= 0) NOT NULL,
        payload json NOT NULL,
        PRIMARY KEY (view_id)
    )",
];

/// Its view's table.
const VIEW: &str = "notification_view";
/// Callers at the same time while lives are made.
const CALLERS: usize = 16;

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub enum Status {
    #[default]
    Unknown,
    Requested,
    Queued,
    Sent,
    Delivered,
}

#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Notification {
    status: Status,
}

#[derive(Debug)]
pub enum Command {
    Request(Requested),
    Queue(Queued),
    Sent(Reported),
    Delivered(Reported),
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum Event {
    Requested(Requested),
    Queued(Queued),
    Sent(Reported),
    Delivered(Reported),
}

/// The command doesn't fit the state.
#[derive(Debug)]
pub struct Refused;

/// What the view shows.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Shown {
    status: Status,
    workflow_id: String,
    external_id: String,
    subscriber_id: String,
    provider_message_id: Option<String>,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the command does not fit the state")
    }
}

impl std::error::Error for Refused {}

impl DomainEvent for Event {
    fn event_type(&self) -> String {
        let name = match self {
            Self::Requested(_) => "notification.requested",
            Self::Queued(_) => "notification.queued",
            Self::Sent(_) => "notification.sent",
            Self::Delivered(_) => "notification.delivered",
        };
        name.to_owned()
    }

    fn event_version(&self) -> String {
        "1".to_owned()
    }
}

impl Event {
    fn status(&self) -> Status {
        match self {
            Self::Requested(_) => Status::Requested,
            Self::Queued(_) => Status::Queued,
            Self::Sent(_) => Status::Sent,
            Self::Delivered(_) => Status::Delivered,
        }
    }
}

impl Aggregate for Notification {
    type Command = Command;
    type Error = Refused;
    type Event = Event;
    type Services = ();

    const TYPE: &'static str = "notification";

    async fn handle(
        &mut self,
        command: Command,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), Refused> {
        let is_new = self.status == Status::Unknown;
        let event = match command {
            Command::Request(requested) if is_new => Event::Requested(requested),
            Command::Request(_) => return Err(Refused),
            _ if is_new => return Err(Refused),
            Command::Queue(queued) => Event::Queued(queued),
            Command::Sent(reported) => Event::Sent(reported),
            Command::Delivered(reported) => Event::Delivered(reported),
        };
        sink.write(event, self).await;
        Ok(())
    }

    fn apply(&mut self, event: Event) {
        self.status = event.status();
    }
}

impl View<Notification> for Shown {
    fn update(&mut self, event: &EventEnvelope<Notification>) {
        self.status = event.payload.status();
        match &event.payload {
            Event::Requested(requested) => {
                self.workflow_id.clone_from(&requested.workflow_id);
                self.external_id.clone_from(&requested.external_id);
                self.subscriber_id.clone_from(&requested.subscriber.id);
            }
            Event::Queued(_) => {}
            Event::Sent(reported) | Event::Delivered(reported) => {
                let id = reported.message.provider_message_id.clone();
                self.provider_message_id = Some(id);
            }
        }
    }
}

/// The store, shared by whoever sends commands.
#[derive(Clone)]
pub struct Stock(Arc<PostgresCqrs<Notification>>);

/// Makes its tables.
pub async fn prepare(url: &str) -> Result<()> {
    let pool = PgPool::connect(url).await?;
    for statement in CREATE {
        sqlx::query(statement).execute(&pool).await?;
    }
    pool.close().await;
    Ok(())
}

impl Stock {
    pub async fn open(url: &str, with_view: bool) -> Self {
        let pool = default_postgress_pool(url).await;
        let mut queries: Vec<Box<dyn Query<Notification>>> = Vec::new();
        if with_view {
            let view = PostgresViewRepository::<Shown, _>::new(VIEW, pool.clone());
            let mut query = GenericQuery::new(Arc::new(view));
            query.use_error_handler(Box::new(|error| eprintln!("view: {error}")));
            queries.push(Box::new(query));
        }
        Self(Arc::new(postgres_cqrs(pool, queries, ())))
    }

    pub async fn execute(&self, id: Uuid, command: Command) -> Result<()> {
        self.0
            .execute(&id.to_string(), command)
            .await
            .context("postgres-es")
    }

    async fn live(&self, number: u64) -> Result<()> {
        let id = Uuid::now_v7();
        let requested: Requested = serde_json::from_str(&request_json(number))?;
        let queued = Queued {
            queue: "mail".to_owned(),
        };
        let reported = Reported {
            message: Message {
                channel: "email".to_owned(),
                provider_id: "northmail".to_owned(),
                provider_message_id: format!("nm-{number}"),
            },
        };
        for command in [
            Command::Request(requested),
            Command::Queue(queued),
            Command::Sent(reported.clone()),
            Command::Delivered(reported),
        ] {
            self.execute(id, command).await?;
        }
        Ok(())
    }

    /// Commands without a server in front, from so many tasks, each of whole lives.
    pub async fn run(&self, tasks: u64, plan: Plan) -> Result<Measured> {
        generator::repeat(tasks, plan, |worker| Caller {
            stock: self.clone(),
            number: (Uuid::new_v4().as_u64_pair().0 >> 20) + worker * 10_000_000,
        })
        .await
    }
}

/// Appends whole lives, four events each, in a database of their own.
///
/// # Errors
///
/// When a command was refused, or the database failed.
pub async fn live(url: &str, lives: u64) -> Result<()> {
    prepare(url).await?;
    let stock = Stock::open(url, false).await;
    let lives = (0..lives).map(|number| stock.live(number));
    stream::iter(lives)
        .buffer_unordered(CALLERS)
        .try_for_each(|()| async { Ok(()) })
        .await
}

/// Empties the view and replays all events into it, as `cqrs-es` does. Events per second.
///
/// # Errors
///
/// When the database failed, or the view is not complete afterwards.
pub async fn replay(url: &str, lives: u64) -> Result<f64> {
    let ours = PgPool::connect(url).await?;
    sqlx::query("TRUNCATE notification_view")
        .execute(&ours)
        .await?;
    let pool = default_postgress_pool(url).await;
    let view = PostgresViewRepository::<Shown, _>::new(VIEW, pool.clone());
    let mut query = GenericQuery::new(Arc::new(view));
    let has_failed = Arc::new(AtomicBool::new(false));
    let failed = Arc::clone(&has_failed);
    query.use_error_handler(Box::new(move |error| {
        eprintln!("view: {error}");
        failed.store(true, Ordering::Relaxed);
    }));
    let mut replay = QueryReplay::new(PostgresEventRepository::new(pool), query);
    let failed = Arc::clone(&has_failed);
    replay.use_error_handler(Box::new(move |error| {
        eprintln!("replay: {error}");
        failed.store(true, Ordering::Relaxed);
    }));
    let begun = Instant::now();
    replay.replay_all().await.context("postgres-es")?;
    let seconds = begun.elapsed().as_secs_f64();
    let shown: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM notification_view WHERE payload->>'status' = 'Delivered'",
    )
    .fetch_one(&ours)
    .await?;
    ours.close().await;
    ensure!(
        !has_failed.load(Ordering::Relaxed) && u64::try_from(shown)? == lives,
        "the stock view has {shown} of {lives} notifications"
    );
    Ok((lives * 4) as f64 / seconds)
}

struct Caller {
    stock: Stock,
    number: u64,
}

impl Repeated for Caller {
    async fn once(&mut self) -> Result<u64> {
        self.number += 1;
        let requested: Requested = serde_json::from_str(&request_json(self.number))?;
        self.stock
            .execute(Uuid::now_v7(), Command::Request(requested))
            .await?;
        Ok(1)
    }
}
