//! `verify`: whether the record is what was recorded.

use anyhow::bail;
use serde::Serialize;

use super::progress::{Progress, Unit};
use super::{Done, Given, WrongUse, output};
use crate::app::{self, StartError};
use crate::ledger::record::{Head, LedgerPosition, Partition, Position};
use crate::ledger::verify::{Broken, Fault, Intact, verify};

/// Recompute the chain; exit 1 and name the first bad position if it is broken
///
/// Checks every event's hash, that positions and sequences have no gaps, and that each partition
/// ends where its head says. Needs to read the database and nothing else: no master key, and no
/// server, though one may be running.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  notification-ledger verify
  notification-ledger verify --from 3-100000      one partition, from that position on")]
pub(super) struct Arguments {
    /// Only this partition
    #[arg(long, value_name = "N")]
    partition: Option<i16>,
    /// Only from here on, such as `3-1042`, or `1042` with --partition 3. The hash before it is
    /// taken as given
    #[arg(long, value_name = "POSITION")]
    from: Option<From>,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

/// Where to begin.
#[derive(Clone, Copy, Debug)]
enum From {
    Anywhere(Position),
    In(LedgerPosition),
}

impl std::str::FromStr for From {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.parse::<i64>().ok().filter(|number| *number >= 1);
        match (number, text.parse::<LedgerPosition>()) {
            (Some(number), _) => Ok(Self::Anywhere(Position(number))),
            (None, Ok(position)) => Ok(Self::In(position)),
            (None, Err(_)) => Err("must be a position such as `3-1042` or `1042`"),
        }
    }
}

/// What is to be checked.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    /// `None` for all.
    partition: Option<Partition>,
    from: Position,
}

/// The answer, for a program.
#[derive(Debug, Serialize)]
struct Answer {
    intact: bool,
    /// How many were checked in the partitions that hold.
    events: u64,
    partitions: Vec<Finding>,
}

/// What was found in one partition.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Finding {
    Intact {
        partition: i16,
        intact: bool,
        events: u64,
        head: i64,
    },
    Broken {
        partition: i16,
        intact: bool,
        /// The first bad one.
        position: LedgerPosition,
        fault: &'static str,
        detail: String,
    },
}

pub(super) async fn run(given: &Given, arguments: &Arguments) -> anyhow::Result<Done> {
    let span = Span::of(arguments)?;
    let database = app::connect(&given.config, false).await?;
    database
        .require_current_schema()
        .await
        .map_err(StartError::from)?;
    let row = database.ledger_row().await.map_err(StartError::from)?;
    let row = row.ok_or(StartError::NoLedger)?;
    let storage = database.storage();
    let heads = storage.heads().await?;

    let partitions = span.partitions(row.partitions)?;
    let chosen: Vec<_> = partitions
        .map(|partition| {
            (
                partition,
                heads.iter().find(|head| head.partition == partition),
            )
        })
        .collect();
    for head in chosen.iter().filter_map(|(_, head)| *head) {
        span.check_start(head)?;
    }
    let total = chosen
        .iter()
        .filter_map(|(_, head)| *head)
        .map(|head| span.events(head))
        .sum();
    let mut progress = Progress::new("checking", Unit::Events, Some(total));
    let mut findings = Vec::new();
    for (partition, head) in chosen {
        findings.push(match head {
            Some(head) => {
                let checked = verify(storage.as_ref(), head, span.from, |events| {
                    progress.add(events);
                });
                Finding::of(checked.await?)
            }
            None => Finding::without_head(partition),
        });
    }
    progress.finish();
    database.close().await;
    Answer::new(findings).show(arguments.json)
}

impl Span {
    fn of(arguments: &Arguments) -> Result<Self, WrongUse> {
        let partition = arguments.partition.map(Partition);
        let first = Position(1);
        match (arguments.from, partition) {
            (None, partition) => Ok(Self {
                partition,
                from: first,
            }),
            (Some(From::Anywhere(_)), None) => Err(WrongUse(
                "--from with a bare number also needs --partition, or write it as `3-1042`"
                    .to_owned(),
            )),
            (Some(From::Anywhere(from)), partition) => Ok(Self { partition, from }),
            (Some(From::In(from)), Some(partition)) if partition != from.partition => Err(
                WrongUse(format!("--from {from} is not in partition {partition}")),
            ),
            (Some(From::In(from)), _) => Ok(Self {
                partition: Some(from.partition),
                from: from.position.max(first),
            }),
        }
    }

    fn partitions(self, count: i16) -> Result<impl Iterator<Item = Partition>, WrongUse> {
        let all = 0..count;
        let chosen = match self.partition {
            None => all,
            Some(Partition(one)) if all.contains(&one) => one..one + 1,
            Some(other) => {
                let last = count - 1;
                return Err(WrongUse(format!(
                    "there is no partition {other}: the ledger's run from 0 to {last}"
                )));
            }
        };
        Ok(chosen.map(Partition))
    }

    /// A place past the end may be a slip, or the sign that the end was cut off: no success.
    fn check_start(self, head: &Head) -> anyhow::Result<()> {
        if self.from.0 > head.position.0 + 1 {
            bail!(
                "there is nothing to check from {0}-{1} on: partition {0} ends at {0}-{2}. If it once \
                 had more, the ledger was cut or restored from a backup; else begin earlier",
                head.partition,
                self.from,
                head.position
            );
        }
        Ok(())
    }

    fn events(self, head: &Head) -> u64 {
        u64::try_from(head.position.0 - self.from.0 + 1).unwrap_or_default()
    }
}

impl Finding {
    fn of(result: Result<Intact, Broken>) -> Self {
        match result {
            Ok(intact) => Self::Intact {
                partition: intact.partition.0,
                intact: true,
                events: intact.events,
                head: intact.head.0,
            },
            Err(broken) => Self::Broken {
                partition: broken.position.partition.0,
                intact: false,
                position: broken.position,
                fault: fault_name(broken.fault),
                detail: broken.fault.to_string(),
            },
        }
    }

    /// Every partition has had one since the ledger was created.
    fn without_head(partition: Partition) -> Self {
        Self::Broken {
            partition: partition.0,
            intact: false,
            position: LedgerPosition {
                partition,
                position: Position(0),
            },
            fault: "no_head",
            detail: "the partition's head is missing".to_owned(),
        }
    }

    fn is_broken(&self) -> bool {
        matches!(self, Self::Broken { .. })
    }
}

fn fault_name(fault: Fault) -> &'static str {
    match fault {
        Fault::Missing => "missing",
        Fault::Altered => "altered",
        Fault::PastHead => "past_head",
        Fault::HeadHash => "head_hash",
        Fault::Sequence => "sequence",
    }
}

impl Answer {
    fn new(partitions: Vec<Finding>) -> Self {
        let mut answer = Self {
            intact: true,
            events: 0,
            partitions,
        };
        for finding in &answer.partitions {
            match finding {
                Finding::Intact { events, .. } => answer.events += events,
                Finding::Broken { .. } => answer.intact = false,
            }
        }
        answer
    }

    fn show(&self, json: bool) -> anyhow::Result<Done> {
        if json {
            output::json(self)?;
        } else {
            for finding in &self.partitions {
                if let Finding::Broken {
                    position, detail, ..
                } = finding
                {
                    output::line(format_args!("{position}: {detail}"))?;
                }
            }
            let count = self.partitions.len();
            let partitions = if count == 1 {
                "partition"
            } else {
                "partitions"
            };
            if self.intact {
                let events = indicatif::HumanCount(self.events);
                output::line(format_args!(
                    "{count} {partitions}, {events} events: intact"
                ))?;
            } else {
                let broken = self
                    .partitions
                    .iter()
                    .filter(|finding| finding.is_broken())
                    .count();
                eprintln!("{broken} of {count} {partitions} broken");
            }
        }
        Ok(if self.intact { Done::All } else { Done::No })
    }
}
