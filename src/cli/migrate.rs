//! `migrate`: the schema, ahead of the first process that needs it.

use serde::Serialize;
use uuid::Uuid;

use super::{Done, Given, output};
use crate::app::{self, StartError};
use crate::clock::Surroundings;

/// Bring the database up to date, then exit
///
/// Creates the ledger if there is none. `serve` does the same when it starts; a deployment that
/// wants it done beforehand, or by another database user, runs this. Safe to repeat, and to run
/// from several places at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  notification-ledger migrate
  notification-ledger migrate --restored     after a backup was restored, before serving again")]
pub(super) struct Arguments {
    /// Says that the database was restored from a backup: begins a new epoch
    ///
    /// A restored ledger has forgotten its newest events and will give their positions out again.
    /// Whoever read them (projections, other systems that follow the log) can't tell that from
    /// the positions; the new epoch tells them. Stop every process on this database first.
    /// Nothing recorded is changed.
    #[arg(long)]
    restored: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

/// What is there now.
#[derive(Debug, Serialize)]
struct Answer {
    ledger_id: Uuid,
    backend: &'static str,
    partitions: i16,
    created: bool,
    /// The new one, if one was begun.
    epoch: Option<Uuid>,
}

pub(super) async fn run(given: &Given, arguments: &Arguments) -> anyhow::Result<Done> {
    let surroundings = Surroundings::system();
    let config = &given.config;
    if arguments.restored {
        // What was restored is there. A slip in the address must not create an empty ledger.
        let database = app::connect(config, false).await?;
        database.migrate().await?;
        let row = database.ledger_row().await?;
        database.close().await;
        row.ok_or(StartError::NoLedger)?;
    }
    let opened = app::open_or_create(config, &surroundings).await?;
    let epoch = if arguments.restored {
        let epoch = surroundings.ids.random();
        opened.database.begin_epoch(epoch).await?;
        Some(epoch)
    } else {
        None
    };
    let answer = Answer {
        ledger_id: opened.row.ledger_id,
        backend: opened.database.backend(),
        partitions: opened.row.partitions,
        created: opened.created,
        epoch,
    };
    opened.database.close().await;
    if arguments.json {
        output::json(&answer)?;
    } else {
        output::line(answer.sentence())?;
    }
    Ok(Done::All)
}

impl Answer {
    fn sentence(&self) -> String {
        let what = if self.created {
            "Created"
        } else {
            "Up to date:"
        };
        let epoch = self
            .epoch
            .map_or_else(String::new, |epoch| format!(" Began epoch {epoch}."));
        format!(
            "{what} ledger {} ({}, {} partitions).{epoch}",
            self.ledger_id, self.backend, self.partitions
        )
    }
}
