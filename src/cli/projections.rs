//! `projections`: how far each has come, and rebuilding one.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::output::{self, or_dash};
use super::progress::{Progress, Unit};
use super::{Done, Given, WrongUse};
use crate::api::rebuilds::RebuildView;
use crate::app::{self, StartError};
use crate::clock::Surroundings;
use crate::ledger::database::Database;
use crate::ledger::record::Partition;
use crate::projections::rebuild::{Rebuild, State};
use crate::projections::{Projection, Projections};
use crate::telemetry::ErrorChain;

/// How often it is looked how far a rebuild has come.
const LOOK: Duration = Duration::from_millis(200);

/// Show projections and rebuild them
///
/// Projections are the tables behind lists, logs, timelines and metrics. They follow from the
/// events, so they can be thrown away and made anew. Needs the database and nothing else: no master
/// key, and no server, though some may be running.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Arguments {
    /// How far each has come, and why one stopped
    List {
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a projection's tables anew, while everybody reads the old ones
    ///
    /// The new tables take the place of the old when they are complete. Interrupted, it goes on
    /// where it was: by itself in a server that is running, or when this is called again. One that is
    /// running already is not begun again: it is followed to its end, beside those that begin.
    #[command(after_help = "\
Examples:
  notification-ledger projections rebuild notifications
  notification-ledger projections rebuild all            sharing one read of the record
  notification-ledger projections rebuild metrics --cancel")]
    Rebuild {
        /// Which: `notifications`, `notification_logs`, `timeline`, `metrics`, or `all`
        #[arg(required = true, value_name = "NAME", value_parser = names)]
        names: Vec<Names>,
        /// Only this partition
        #[arg(long, value_name = "N", conflicts_with = "cancel")]
        partition: Option<i16>,
        /// Drop what a running rebuild has made, and keep the old tables
        #[arg(long)]
        cancel: bool,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
}

/// One or all of them.
type Names = Vec<Projection>;

fn names(text: &str) -> Result<Names, String> {
    if text == "all" {
        return Ok(Projection::ALL.to_vec());
    }
    projection(text).map(|projection| vec![projection])
}

/// A projection's name, as an argument.
pub(super) fn projection(text: &str) -> Result<Projection, String> {
    Projection::from_name(text).ok_or_else(|| {
        let known: Vec<_> = Projection::ALL.into_iter().map(Projection::name).collect();
        format!(
            "there is no such projection; there are: {}",
            known.join(", ")
        )
    })
}

pub(super) async fn run(given: &Given, arguments: Arguments) -> anyhow::Result<Done> {
    let (database, projections, partitions) = open(given).await?;
    let done = match arguments {
        Arguments::List { json } => list(&projections, json).await?,
        Arguments::Rebuild {
            names,
            partition,
            cancel,
            json,
        } => {
            let mut wanted: Vec<Projection> = names.into_iter().flatten().collect();
            wanted.sort_unstable();
            wanted.dedup();
            let partition = partition
                .map(|number| checked(number, partitions))
                .transpose()?;
            if cancel {
                for projection in &wanted {
                    projections.cancel_rebuild(*projection).await?;
                }
                let standing = projections.rebuilds().await?.into_iter();
                let of_wanted = |rebuild: &Rebuild| wanted.contains(&rebuild.projection);
                cancelled(&standing.filter(of_wanted).collect::<Vec<_>>(), json)?
            } else {
                ended(&rebuild(&projections, &wanted, partition).await?, json)?
            }
        }
    };
    projections.store().close().await;
    database.close().await;
    Ok(done)
}

/// The read tables of the ledger that is there, and how many partitions it has.
pub(super) async fn open(given: &Given) -> anyhow::Result<(Database, Projections, i16)> {
    let database = app::connect(&given.config, false).await?;
    let current = database.require_current_schema().await;
    current.map_err(StartError::from)?;
    let row = database.ledger_row().await.map_err(StartError::from)?;
    let row = row.ok_or(StartError::NoLedger)?;
    let projections = Projections::apart(
        &database,
        row.partitions,
        &Surroundings::system(),
        &given.metrics,
    );
    projections.store().add_checkpoints().await?;
    Ok((database, projections, row.partitions))
}

fn checked(number: i16, partitions: i16) -> Result<Partition, WrongUse> {
    if (0..partitions).contains(&number) {
        return Ok(Partition(number));
    }
    let last = partitions - 1;
    Err(WrongUse(format!(
        "there is no partition {number}: the ledger's run from 0 to {last}"
    )))
}

/// A projection's place in one partition, for a program.
#[derive(Debug, Serialize)]
struct PlaceView {
    projection: &'static str,
    partition: i16,
    version: i32,
    position: i64,
    head: i64,
    lag_events: i64,
    state: &'static str,
    last_error: Option<String>,
}

async fn list(projections: &Projections, json: bool) -> anyhow::Result<Done> {
    let places: Vec<PlaceView> = projections
        .progress()
        .await?
        .into_iter()
        .map(|progress| {
            let at = progress.checkpoint;
            PlaceView {
                projection: at.projection.name(),
                partition: at.partition.0,
                version: at.version,
                position: at.position.0,
                head: at.head.0,
                lag_events: (at.head.0 - at.position.0).max(0),
                state: at.state().name(),
                last_error: at.last_error(),
            }
        })
        .collect();
    if json {
        output::json(&places)?;
        return Ok(Done::All);
    }
    let rows: Vec<_> = places
        .iter()
        .map(|place| {
            [
                place.projection.to_owned(),
                place.partition.to_string(),
                place.position.to_string(),
                place.lag_events.to_string(),
                place.state.to_owned(),
                or_dash(place.last_error.as_deref()),
            ]
        })
        .collect();
    output::table(
        [
            "PROJECTION",
            "PARTITION",
            "POSITION",
            "BEHIND",
            "STATE",
            "ERROR",
        ],
        &rows,
    )?;
    Ok(Done::All)
}

/// Begins what is not running, and watches all until the end.
async fn rebuild(
    projections: &Projections,
    wanted: &[Projection],
    partition: Option<Partition>,
) -> anyhow::Result<Vec<Followed>> {
    let requested = projections.rebuild(wanted, partition).await?;
    for running in &requested.running {
        eprintln!(
            "A rebuild of {} is running since {}: it is followed to its end.",
            name(running),
            output::time(Some(running.started_at)),
        );
    }
    let mut followed: Vec<Followed> = requested.all().cloned().map(Followed::new).collect();
    followed.sort_by_key(|followed| followed.rebuild.projection.name());
    let working = async {
        loop {
            // Whatever nobody works on; what a process that is gone has left, once that is sure.
            if let Err(error) = projections.work().await {
                tracing::debug!(error = %ErrorChain(&error), "no rebuild was looked for");
            }
            tokio::time::sleep(LOOK * 5).await;
        }
    };
    tokio::select! {
        watched = watch(projections, &mut followed) => watched?,
        () = working => {}
    }
    Ok(followed)
}

/// One rebuild, by its id, on its way to its end.
#[derive(Clone, Debug)]
struct Followed {
    /// As last seen.
    rebuild: Rebuild,
    /// Another has taken its place on record before its end was seen.
    is_lost: bool,
}

impl Followed {
    fn new(rebuild: Rebuild) -> Self {
        Self {
            rebuild,
            is_lost: false,
        }
    }

    fn runs(&self) -> bool {
        self.rebuild.state == State::Running && !self.is_lost
    }

    /// A rebuild that has ended stays so, whatever is on record afterwards.
    fn look(&mut self, standing: &[Rebuild]) {
        if !self.runs() {
            return;
        }
        let rebuild_id = self.rebuild.rebuild_id;
        let found = standing.iter().find(|standing| {
            standing.projection == self.rebuild.projection && standing.rebuild_id == rebuild_id
        });
        match found {
            Some(found) => self.rebuild = found.clone(),
            None => self.is_lost = true,
        }
    }
}

async fn watch(projections: &Projections, followed: &mut [Followed]) -> anyhow::Result<()> {
    let mut progress: Option<Progress> = None;
    let mut shown: BTreeMap<Projection, &'static str> = BTreeMap::new();
    loop {
        let standing = projections.rebuilds().await?;
        for followed in followed.iter_mut() {
            followed.look(&standing);
        }
        let rebuilds = || followed.iter().map(|followed| &followed.rebuild);
        let total = rebuilds().map(|rebuild| rebuild.total).sum::<i64>();
        let done = rebuilds().map(|rebuild| rebuild.done).sum::<i64>();
        let progress = progress.get_or_insert_with(|| {
            Progress::new("rebuilding", Unit::Events, u64::try_from(total).ok())
        });
        progress.reach(
            u64::try_from(done).unwrap_or_default(),
            u64::try_from(total).unwrap_or_default(),
        );
        for Followed { rebuild, .. } in followed.iter().filter(|followed| followed.runs()) {
            let phase = rebuild.phase.name();
            if shown.insert(rebuild.projection, phase) != Some(phase) && phase != "filling" {
                let phase = phase.replace('_', " ");
                progress.say(&format!("{}: {phase}", rebuild.projection.name()));
            }
        }
        if !followed.iter().any(Followed::runs) {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    if let Some(progress) = progress {
        progress.finish();
    }
    Ok(())
}

/// What became of rebuilds that were followed.
fn ended(followed: &[Followed], json: bool) -> anyhow::Result<Done> {
    if json {
        let views = followed
            .iter()
            .map(|followed| RebuildView::from(&followed.rebuild));
        output::json(&views.collect::<Vec<_>>())?;
    } else {
        for Followed { rebuild, is_lost } in followed {
            if *is_lost {
                output::line(format_args!(
                    "{}: nobody knows how it ended: another rebuild has begun since",
                    name(rebuild)
                ))?;
            } else {
                output::line(sentence(rebuild))?;
            }
        }
    }
    let is_done = |followed: &Followed| followed.rebuild.state == State::Done;
    Ok(if followed.iter().all(is_done) {
        Done::All
    } else {
        Done::No
    })
}

/// The last rebuild of each, after those that ran were cancelled.
fn cancelled(rebuilds: &[Rebuild], json: bool) -> anyhow::Result<Done> {
    if json {
        output::json(&rebuilds.iter().map(RebuildView::from).collect::<Vec<_>>())?;
    } else {
        for rebuild in rebuilds {
            output::line(sentence(rebuild))?;
        }
        if rebuilds.is_empty() {
            output::line("No rebuild was running.")?;
        }
    }
    Ok(Done::All)
}

/// The projection, and the partition if it is only one.
fn name(rebuild: &Rebuild) -> String {
    let name = rebuild.projection.name();
    match rebuild.partition {
        None => name.to_owned(),
        Some(partition) => format!("{name}, partition {partition}"),
    }
}

fn sentence(rebuild: &Rebuild) -> String {
    let name = name(rebuild);
    match rebuild.state {
        State::Running => format!("{name}: running"),
        State::Cancelled => format!("{name}: cancelled; the tables are as they were"),
        State::Failed => {
            let error = rebuild.error.as_deref().unwrap_or("nobody noted why");
            format!("{name}: failed: {error}")
        }
        State::Done => {
            let micros = rebuild.updated_at.as_micros() - rebuild.started_at.as_micros();
            let compared = match rebuild.checksum_equal {
                Some(true) => "equal to the tables it replaced",
                Some(false) => "DIFFERENT from the tables it replaced",
                None => "not compared: the old tables were of another version, or had stopped",
            };
            format!(
                "{name}: rebuilt from {} events in {}.{} s ({} per second); {compared}",
                rebuild.done,
                micros / 1_000_000,
                micros % 1_000_000 / 100_000,
                rebuild.events_per_second(),
            )
        }
    }
}
