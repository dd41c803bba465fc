//! `replay`: a projection over a tenant and a time, into a file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Map, Value};

use super::progress::{Progress, Unit};
use super::projections::{open, projection};
use super::{Done, Given, WrongUse};
use crate::clock::Surroundings;
use crate::domain::ids::TenantId;
use crate::domain::precedence::PrecedenceRule;
use crate::domain::time::Timestamp;
use crate::ledger::record::{LedgerPosition, Partition, TenantPlace};
use crate::projections::Projection;
use crate::projections::replay::{AsOf, Difference, Page, Replay, ReplayError};
use crate::projections::table::{Cell, Column, Kind, Table, Writing};

/// Run a projection over a tenant's events into CSV or NDJSON
///
/// Touches nothing that people read. Rows have the projection's columns. Needs the database and
/// nothing else: no master key, and no server, though some may be running.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  notification-ledger replay notification_logs --tenant acme --from 2026-03-01T00:00:00Z > logs.csv
  notification-ledger replay notifications --tenant acme --as-of 2026-03-14T09:30:00Z --format ndjson
  notification-ledger replay notifications --tenant acme --rule first-terminal-wins-v1 --diff")]
pub(super) struct Arguments {
    /// Which: `notifications`, `notification_logs`, `timeline` or `metrics`
    #[arg(value_parser = projection)]
    projection: Projection,
    /// Whose events
    #[arg(long, value_name = "ID")]
    tenant: TenantId,
    /// Rows from this time on, by `occurred_at`
    #[arg(long, value_name = "T", value_parser = time)]
    from: Option<Timestamp>,
    /// Rows before this time
    #[arg(long, value_name = "T", value_parser = time)]
    to: Option<Timestamp>,
    /// What was known then: a time (by `recorded_at`) or a position such as `3-1042`
    #[arg(long, value_name = "T", value_parser = moment)]
    as_of: Option<Moment>,
    /// Judge between contradicting reports by this rule
    #[arg(long, value_name = "NAME", value_parser = rule, default_value = PrecedenceRule::NAMES[0])]
    rule: PrecedenceRule,
    /// List what would change in the live rows, instead of the rows
    ///
    /// Compared are the rows that a replay prints, with the live ones that know the same events. Of
    /// `metrics` every resolution is compared: minutes, and the hours and days that lie between
    /// `--from` and `--to` as a whole; of a row that is added or removed each count is listed. Not
    /// compared are the latencies behind quantiles, and the index by which notifications are found
    /// by their metadata (the metadata itself is).
    #[arg(long)]
    diff: bool,
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
    /// Write here instead of to stdout
    ///
    /// A file appears, or takes the place of the old one, when it is complete; through a link, where
    /// the link points to. A pipe or a device is written to as rows come.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Csv,
    Ndjson,
}

#[derive(Clone, Copy, Debug)]
enum Moment {
    Time(Timestamp),
    Position(LedgerPosition),
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).map_err(|error| error.to_string())
}

fn moment(text: &str) -> Result<Moment, String> {
    if let Ok(position) = text.parse() {
        return Ok(Moment::Position(position));
    }
    let time = Timestamp::parse(text);
    time.map(Moment::Time).map_err(|_| {
        "must be a time such as `2026-03-14T09:30:00Z`, or a position such as `3-1042`".to_owned()
    })
}

fn rule(text: &str) -> Result<PrecedenceRule, String> {
    PrecedenceRule::from_name(text).ok_or_else(|| {
        let known = PrecedenceRule::NAMES.join(", ");
        format!("there is no such rule; there are: {known}")
    })
}

pub(super) async fn run(given: &Given, arguments: &Arguments) -> anyhow::Result<Done> {
    if let (Some(from), Some(to)) = (arguments.from, arguments.to)
        && from > to
    {
        return Err(WrongUse("--from is later than --to".to_owned()).into());
    }
    let (database, projections, _) = open(given).await?;
    let tenant = tenant(projections.store(), &arguments.tenant).await?;
    let replay = Replay {
        projection: arguments.projection,
        as_of: as_of(arguments.as_of, &tenant)?,
        tenant,
        from: arguments.from,
        to: arguments.to,
        rule: arguments.rule,
    };
    // Before the moment is chosen: a pipe is waited for until somebody reads.
    let mut output = Output::open(arguments.out.as_deref())?;
    let moment = projections.moment(&replay, arguments.diff).await?;
    let (total, behind) = (u64::try_from(moment.until.0), moment.behind);
    let mut progress = Progress::new("replaying", Unit::Events, total.ok());
    let table = replay.projection.tables()[0];
    let headings = if arguments.diff {
        difference_columns(table)
    } else {
        table.columns.to_vec()
    };
    let writer = RowWriter::new(arguments.format, &headings);
    let mut differences = 0;
    let written = async {
        writer.head(&mut output.to).map_err(ReplayError::Output)?;
        let replayed = projections.replay(&replay, moment, |page| {
            if arguments.diff {
                differences += write_differences(&writer, table, &page, &mut output.to)?;
            } else {
                for row in page.rows.iter() {
                    writer.row(row, &mut output.to)?;
                }
            }
            progress.add(page.events as u64);
            Ok(())
        });
        replayed.await?;
        output.to.flush().map_err(ReplayError::Output)
    };
    let written = written.await;
    progress.finish();
    if arguments.out.is_none() && has_no_reader(&written) {
        return Ok(Done::CutShort);
    }
    written?;
    output.finish()?;
    if arguments.diff {
        eprintln!("{differences} differences between the live rows and the replay.");
        if behind > 0 {
            eprintln!(
                "The live rows lack the last {behind} events of this part of the ledger; so does \
                 the replay."
            );
        }
    }
    projections.store().close().await;
    database.close().await;
    Ok(Done::All)
}

fn has_no_reader(written: &Result<(), ReplayError>) -> bool {
    match written {
        Err(ReplayError::Output(error)) => error.kind() == io::ErrorKind::BrokenPipe,
        Err(ReplayError::Storage(_) | ReplayError::Unreadable(_)) | Ok(()) => false,
    }
}

async fn tenant(
    store: &crate::projections::store::Store,
    tenant_id: &TenantId,
) -> anyhow::Result<TenantPlace> {
    const PLACE: &[Column] = &[Column {
        name: "partition",
        kind: Kind::Int,
    }];
    let sql = "SELECT CAST(partition AS bigint) FROM tenants WHERE tenant_id = $1";
    let found = store
        .select(sql, &[tenant_id.as_str().into()], PLACE)
        .await?;
    let number = found.first().and_then(|row| row[0].as_int());
    let Some(partition) = number.and_then(|number| i16::try_from(number).ok()) else {
        bail!("there is no tenant `{tenant_id}`; `notification-ledger tenants list` shows them");
    };
    Ok(TenantPlace {
        tenant_id: tenant_id.clone(),
        partition: Partition(partition),
    })
}

fn as_of(moment: Option<Moment>, tenant: &TenantPlace) -> Result<AsOf, WrongUse> {
    match moment {
        None => Ok(AsOf::Now),
        Some(Moment::Time(time)) if time > Surroundings::system().now() => {
            Err(WrongUse("--as-of lies in the future".to_owned()))
        }
        Some(Moment::Time(time)) => Ok(AsOf::Time(time)),
        Some(Moment::Position(position)) if position.partition != tenant.partition => {
            Err(WrongUse(format!(
                "--as-of {position} is a position of another part of the ledger: `{}` is in {}",
                tenant.tenant_id, tenant.partition
            )))
        }
        Some(Moment::Position(position)) => Ok(AsOf::Position(position.position)),
    }
}

/// Where rows go. A file gets its name when it is complete: nobody takes half of it for all.
struct Output {
    to: Box<dyn Write + Send>,
    file: Option<Aside>,
}

/// A file that is not complete yet. Gone when dropped.
struct Aside {
    written: PathBuf,
    wanted: PathBuf,
}

impl Output {
    fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else {
            return Ok(Self::to(io::stdout(), None));
        };
        Self::at(path).with_context(|| format!("`{}` can't be written", path.display()))
    }

    fn at(path: &Path) -> io::Result<Self> {
        let standing = match std::fs::metadata(path) {
            Ok(standing) => Some(standing),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        // A pipe, a device: nothing that a file may take the place of.
        if standing
            .as_ref()
            .is_some_and(|standing| !standing.is_file())
        {
            let there = File::options().write(true).open(path)?;
            return Ok(Self::to(there, None));
        }
        let wanted = followed(path)?;
        // Not a name that somebody else may be using.
        let name = format!(".replay-{}.part", Surroundings::system().ids.random());
        let written = wanted.with_file_name(name);
        let file = File::create_new(&written)?;
        let aside = Aside { written, wanted };
        if let Some(standing) = standing {
            // Whoever may not read the old one may not read the new one either.
            file.set_permissions(standing.permissions())?;
        }
        Ok(Self::to(file, Some(aside)))
    }

    fn to(to: impl Write + Send + 'static, file: Option<Aside>) -> Self {
        Self {
            to: Box::new(BufWriter::new(to)),
            file,
        }
    }

    /// Everything is written.
    fn finish(self) -> anyhow::Result<()> {
        drop(self.to);
        if let Some(Aside { written, wanted }) = &self.file {
            std::fs::rename(written, wanted)
                .with_context(|| format!("`{}` can't be written", wanted.display()))?;
        }
        Ok(())
    }
}

/// Where a path leads to through links, whether or not anything is there yet.
fn followed(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        match std::fs::read_link(&path) {
            // Relative to the folder of the link; an absolute one replaces it.
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            // No link, or nothing there.
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::from(io::ErrorKind::InvalidInput))
}

/// Links that lead to links, as many as Linux follows (`path_resolution(7)`).
const LINKS_MAX: usize = 40;

impl Drop for Aside {
    fn drop(&mut self) {
        // Once it has its name there is nothing left to remove.
        let _ = std::fs::remove_file(&self.written);
    }
}

/// Writes rows as CSV (RFC 4180) or as a JSON object a line.
struct RowWriter {
    format: Format,
    columns: Vec<Column>,
}

impl RowWriter {
    fn new(format: Format, columns: &[Column]) -> Self {
        Self {
            format,
            columns: columns.to_vec(),
        }
    }

    fn head(&self, to: &mut dyn Write) -> io::Result<()> {
        match self.format {
            Format::Csv => {
                let names: Vec<_> = self.columns.iter().map(|column| column.name).collect();
                writeln!(to, "{}", names.join(","))
            }
            Format::Ndjson => Ok(()),
        }
    }

    fn row(&self, row: &[Cell<'_>], to: &mut dyn Write) -> io::Result<()> {
        match self.format {
            Format::Csv => {
                for (index, (cell, column)) in row.iter().zip(&self.columns).enumerate() {
                    if index > 0 {
                        to.write_all(b",")?;
                    }
                    to.write_all(csv(&text(cell, column.kind)).as_bytes())?;
                }
                to.write_all(b"\n")
            }
            Format::Ndjson => {
                let object: Map<String, Value> = row
                    .iter()
                    .zip(&self.columns)
                    .map(|(cell, column)| (column.name.to_owned(), value(cell, column.kind)))
                    .collect();
                serde_json::to_writer(&mut *to, &object)?;
                to.write_all(b"\n")
            }
        }
    }
}

/// A cell as text; nothing for NULL.
fn text(cell: &Cell<'_>, kind: Kind) -> String {
    match (cell, kind) {
        (Cell::Null, _) => String::new(),
        (Cell::Int(micros), Kind::Time) => Timestamp::from_micros_clamped(*micros).to_string(),
        (Cell::Int(value), _) => value.to_string(),
        (Cell::Bool(value), _) => value.to_string(),
        (Cell::Uuid(value), _) => value.to_string(),
        (Cell::Text(value), _) => value.to_string(),
    }
}

fn value(cell: &Cell<'_>, kind: Kind) -> Value {
    match (cell, kind) {
        (Cell::Null, _) => Value::Null,
        (Cell::Int(value), Kind::Int | Kind::Small) => (*value).into(),
        (Cell::Bool(value), _) => (*value).into(),
        (Cell::Text(json), Kind::Json) => serde_json::from_str(json).unwrap_or_default(),
        (Cell::Int(_) | Cell::Uuid(_) | Cell::Text(_), _) => text(cell, kind).into(),
    }
}

/// Quoted where it has to be, and where a spreadsheet would take it for a formula.
fn csv(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@']) && text.parse::<f64>().is_err();
    let text = if formula {
        format!("'{text}")
    } else {
        text.to_owned()
    };
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

/// The key, which column, and what it was and would be.
fn difference_columns(table: &Table) -> Vec<Column> {
    let text = |name| Column {
        name,
        kind: Kind::Text,
    };
    let mut columns = vec![text("change")];
    columns.extend(table.key_columns());
    columns.extend([text("column"), text("live"), text("replayed")]);
    columns
}

fn write_differences(
    writer: &RowWriter,
    table: &Table,
    page: &Page<'_>,
    to: &mut dyn Write,
) -> io::Result<usize> {
    let differences = page.differences();
    for difference in &differences {
        let (word, row, changes) = match difference {
            Difference::Added(row) => ("added", row, counts(table, row, Side::Replayed)),
            Difference::Removed(row) => ("removed", row, counts(table, row, Side::Live)),
            Difference::Changed(live, replayed) => {
                let values = (table.key..table.columns.len()).filter(|i| live[*i] != replayed[*i]);
                let changes = values.map(|index| Change {
                    column: table.columns[index],
                    live: &live[index],
                    replayed: &replayed[index],
                });
                ("changed", replayed, changes.collect())
            }
        };
        let mut cells: Vec<Cell<'_>> = vec![word.into()];
        cells.extend_from_slice(&row[..table.key]);
        if changes.is_empty() {
            cells.extend([Cell::Null, Cell::Null, Cell::Null]);
            writer.row(&cells, to)?;
            continue;
        }
        for change in changes {
            cells.truncate(1 + table.key);
            cells.extend(change.cells());
            writer.row(&cells, to)?;
        }
    }
    Ok(differences.len())
}

/// One value of a row, before and after.
struct Change<'a> {
    column: Column,
    live: &'a Cell<'a>,
    replayed: &'a Cell<'a>,
}

impl Change<'_> {
    fn cells(&self) -> [Cell<'static>; 3] {
        let shown = |cell: &Cell<'_>| match cell {
            Cell::Null => Cell::Null,
            cell => Cell::from(text(cell, self.column.kind)),
        };
        [
            self.column.name.into(),
            shown(self.live),
            shown(self.replayed),
        ]
    }
}

/// Which of both has a row that the other has not.
#[derive(Clone, Copy)]
enum Side {
    Live,
    Replayed,
}

/// What a row of counts says that only one side has; of other tables the key says which row it is.
fn counts<'a>(table: &Table, row: &'a [Cell<'a>], side: Side) -> Vec<Change<'a>> {
    let counted = |index: &usize| row[*index].as_int().is_some_and(|count| count != 0);
    match table.writing {
        Writing::Replace => Vec::new(),
        Writing::Add => (table.key..table.columns.len())
            .filter(counted)
            .map(|index| {
                let (live, replayed) = match side {
                    Side::Live => (&row[index], &Cell::Null),
                    Side::Replayed => (&Cell::Null, &row[index]),
                };
                Change {
                    column: table.columns[index],
                    live,
                    replayed,
                }
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_where_they_must_be() {
        assert_eq!(csv("plain"), "plain");
        assert_eq!(csv("a,b"), "\"a,b\"");
        assert_eq!(csv("say \"hi\""), "\"say \"\"hi\"\"\"");
        assert_eq!(csv("=1+2"), "'=1+2");
        assert_eq!(csv("-5"), "-5");
    }
}
