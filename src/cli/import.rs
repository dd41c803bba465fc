//! `import`: a file of commands, carried out the way `POST /v1/commands` carries out its lines.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use axum::body::Body;
use futures_util::StreamExt;
use indicatif::HumanCount;
use serde::Serialize;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

use super::progress::{Progress, Unit};
use super::serve::StopSignals;
use super::{Done, Given, output};
use crate::api::ApiState;
use crate::api::bulk::{Bulk, Finished, Outcome, Patience};
use crate::domain::ids::TenantId;
use crate::ledger::record::{Actor, ActorKind, LedgerPosition, Provenance, Source, TenantPlace};
use crate::problem::Problem;

/// Read from the file at once: enough lines for a good group commit.
const PIECE_BYTES: usize = 1024 * 1024;
/// Finished windows of lines that may wait to be counted.
const RESULTS_WAITING: usize = 2;
/// How long the ledger may take to end when all is done.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Carry out the commands of a file, one JSON object a line
///
/// The lines are those of `POST /v1/commands`, as application/x-ndjson, and are treated the same.
/// They are carried out in order wherever they are about the same notification, so a line may
/// refer to a `request` before it. A bad line is reported with its number and does not keep the
/// others from being carried out; the exit status is 1 if there were any.
///
/// Importing a file again repeats nothing for lines with an `idempotency_key` of their own: they
/// have the same effect once, however often they come. Reports (`sent`, `delivered` and so on) are
/// recognised by what they say as well. But a `request` with neither an `idempotency_key` nor an
/// `id` makes another notification each time: give every line a key if an import may be
/// interrupted.
///
/// When the database is away for a moment, the import waits for it, half a minute at most.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  notification-ledger import history.ndjson --tenant acme
  zcat history.ndjson.gz | notification-ledger import - --tenant acme 2> refused.txt

A line:
  {\"type\": \"request\", \"id\": \"019353f0-5f5c-7000-8000-5d4f2b7a9c11\", \"workflow_id\": \"welcome\",
   \"subscriber\": {\"id\": \"ada\"}, \"idempotency_key\": \"line-1\"}      (without the line break)")]
pub(super) struct Arguments {
    /// The file; `-` reads standard input
    #[arg(value_name = "FILE.ndjson")]
    file: PathBuf,
    /// Whose notifications they are
    #[arg(long, value_name = "ID")]
    tenant: TenantId,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

/// What became of the lines.
#[derive(Debug, Default, Serialize)]
struct Summary {
    /// That were not empty.
    lines: u64,
    appended: u64,
    /// On record already: nothing was appended.
    repeated: u64,
    refused: u64,
    /// A read that waits for this position sees everything that was imported.
    position: Option<LedgerPosition>,
    /// Why the import ended before the file did.
    interrupted: Option<String>,
    #[serde(skip)]
    last_line: usize,
}

pub(super) async fn run(given: &Given, arguments: &Arguments) -> anyhow::Result<Done> {
    let stop = StopSignals::new()?;
    let (input, bytes) = open(&arguments.file).await?;
    let opened = given.open().await?;
    let rooms = opened.start(&given.config, &given.metrics)?;
    let place = rooms.registry.place(&arguments.tenant).await?;
    let Some(tenant) = place else {
        let id = &arguments.tenant;
        bail!("there is no tenant `{id}`. Create it: notification-ledger tenants create {id}");
    };
    let state = opened.api_state(&given.config, &rooms, String::new());
    let tasks = rooms.tasks.clone();
    drop(rooms);
    let summary = carry_out(bulk(state, tenant), input, bytes, stop).await;
    // What is still queued was never waited for; the lanes finish with it all the same.
    tasks.stop(STOP_PATIENCE).await;
    opened.database.close().await;
    summary.show(arguments.json)
}

type Input = Box<dyn AsyncRead + Send + Unpin>;

/// The file, and how large it is if that is known.
async fn open(path: &Path) -> anyhow::Result<(Input, Option<u64>)> {
    if path.as_os_str() == "-" {
        return Ok((Box::new(tokio::io::stdin()), None));
    }
    let failed = || format!("`{}` can't be read", path.display());
    let file = tokio::fs::File::open(path).await.with_context(failed)?;
    let about = file.metadata().await.with_context(failed)?;
    if about.is_dir() {
        bail!("`{}` is a folder, not a file", path.display());
    }
    Ok((Box::new(file), about.is_file().then_some(about.len())))
}

fn bulk(state: ApiState, tenant: TenantPlace) -> Bulk {
    Bulk {
        request_id: state.surroundings.ids.time_ordered().to_string().into(),
        state,
        provenance: Provenance {
            actor: Actor {
                kind: ActorKind::Operator,
                id: "cli".into(),
            },
            source: Source::Import,
            correlation_id: None,
            causation_id: None,
            traceparent: None,
        },
        tenant,
        key: None,
        patience: Patience::Retry,
    }
}

/// Reads, carries out and counts, until the input ends, the database stays away, or somebody
/// says stop.
async fn carry_out(bulk: Bulk, input: Input, bytes: Option<u64>, mut stop: StopSignals) -> Summary {
    let read = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&read);
    let pieces = ReaderStream::with_capacity(input, PIECE_BYTES).inspect(move |piece| {
        let length = piece.as_ref().map_or(0, |piece| piece.len() as u64);
        counted.fetch_add(length, Ordering::Relaxed);
    });
    let (results, mut finished) = mpsc::channel(RESULTS_WAITING);
    let progress = Progress::new("importing", Unit::Bytes, bytes);
    let mut summary = Summary::default();
    let counting = async {
        let mut progress = progress;
        let mut shown = 0;
        while let Some(window) = finished.recv().await {
            let goes_on = summary.count(&window, &progress);
            let now = read.load(Ordering::Relaxed);
            progress.add(now - std::mem::replace(&mut shown, now));
            if !goes_on {
                break;
            }
        }
        // No further line is begun.
        finished.close();
        progress.finish();
    };
    let working = bulk.work_off(Body::from_stream(pieces), results);
    let interrupted = tokio::select! {
        // Both end together: one when the input does, the other when it has heard so.
        _ = async { tokio::join!(working, counting) } => false,
        () = stop.next() => true,
    };
    drop(bulk);
    if interrupted {
        summary.interrupted = Some(format!(
            "stopped by a signal after line {}; of the next few lines, some may have been carried \
             out",
            summary.last_line
        ));
    }
    summary
}

impl Summary {
    /// Adds what became of some lines. Says whether there is any sense in going on.
    fn count(&mut self, window: &Finished, progress: &Progress) -> bool {
        for (line, outcome) in window.lines.iter().zip(&window.outcomes) {
            self.lines += 1;
            self.last_line = *line;
            self.add(*line, outcome, progress);
        }
        self.interrupted.is_none()
    }

    fn add(&mut self, line: usize, outcome: &Outcome, progress: &Progress) {
        match &outcome.result {
            Ok(success) => {
                let done = &success.done;
                if done.replayed || done.appended == 0 {
                    self.repeated += 1;
                } else {
                    self.appended += 1;
                }
                let position = done.stream.partition_position(done.tip);
                self.position = self.position.max(Some(position));
            }
            Err(problem) => {
                self.refused += 1;
                progress.say(&format!(
                    "line {line}: {}: {}",
                    problem.code(),
                    reason(problem)
                ));
                if matches!(problem, Problem::Unavailable(_) | Problem::Overloaded(_)) {
                    self.interrupted = Some(format!(
                        "ended after line {line}, because the database does not answer; the lines \
                         reported as unavailable may have been carried out or not"
                    ));
                }
            }
        }
    }

    fn show(&self, json: bool) -> anyhow::Result<Done> {
        if let Some(reason) = &self.interrupted {
            eprintln!("{reason}");
        }
        if json {
            output::json(self)?;
        } else {
            output::line(format_args!(
                "{} {}: {} appended, {} repeated, {} refused",
                HumanCount(self.lines),
                if self.lines == 1 { "line" } else { "lines" },
                HumanCount(self.appended),
                HumanCount(self.repeated),
                HumanCount(self.refused),
            ))?;
        }
        Ok(if self.refused == 0 && self.interrupted.is_none() {
            Done::All
        } else {
            Done::No
        })
    }
}

/// Everything that is wrong with a line, on one line.
fn reason(problem: &Problem) -> String {
    let Problem::Invalid(faults) = problem else {
        return problem.to_string();
    };
    let faults: Vec<_> = faults
        .iter()
        .map(|fault| {
            format!("{} {}", fault.pointer, fault.message)
                .trim_start()
                .to_owned()
        })
        .collect();
    faults.join("; ")
}
