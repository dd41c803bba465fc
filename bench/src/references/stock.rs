//! The stock event store: `postgres-es` 0.5 as its documentation shows it, with or without a view.
//!
//! It brings its own sqlx, under another name here.

use std::sync::Arc;

use anyhow::{Context, Result};
use cqrs_es::event_sink::EventSink;
use cqrs_es::persist::GenericQuery;
use cqrs_es::{Aggregate, DomainEvent, EventEnvelope, Query, View};
use postgres_es::{PostgresCqrs, PostgresViewRepository, default_postgress_pool, postgres_cqrs};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::request::{Queued, Reported, Requested};
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
            let repository =
                PostgresViewRepository::<Shown, _>::new("notification_view", pool.clone());
            let mut query = GenericQuery::new(Arc::new(repository));
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

    /// Commands without a server in front, from so many tasks, each of whole lives.
    pub async fn run(&self, tasks: u64, plan: Plan) -> Result<Measured> {
        generator::repeat(tasks, plan, |worker| Caller {
            stock: self.clone(),
            number: (Uuid::new_v4().as_u64_pair().0 >> 20) + worker * 10_000_000,
        })
        .await
    }
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
