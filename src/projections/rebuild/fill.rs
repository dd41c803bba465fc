//! Fills shadow tables from one partition of the record, stream by stream: each row is written
//! once, at its end state.
//!
//! A page of the record is read while the one before is folded and written. Memory holds a few
//! pages, however large the ledger is.

use tokio::sync::mpsc;

use super::super::changes::Sums;
use super::super::projection::Projection;
use super::super::store::{Packed, Place};
use super::super::stream::{Stream, Unreadable};
use super::super::table::{Rows, Writing};
use super::jobs::Part;
use super::worker::{Interrupted, Worker};
use crate::domain::ids::StreamId;
use crate::domain::precedence::PrecedenceRule;
use crate::ledger::record::{Partition, PlainEvent, StreamEvent};
use crate::ledger::storage::{StorageError, StreamQuery};

/// Events in a page: at about 1 KiB each, 5 MB. Two are held for each partition at work.
const PAGE_EVENTS: i64 = 5_000;
/// Bytes of data in a page, where events are larger than that; its last event may go beyond.
const PAGE_BYTES: i64 = 16 * 1024 * 1024;
/// The fewest events in a page, however large they are: more than one stream usually has.
const FITTING_MIN: i64 = 8;
/// Events written in one transaction: so many that what every transaction costs does not count. At
/// about 500 bytes each this takes 16 MB.
const LOAD_EVENTS: usize = 32_000;
/// The same where events are larger: bytes of data, of which rows take a part.
const LOAD_BYTES: usize = 64 * 1024 * 1024;
/// Streams folded before others on this thread get their turn.
const STREAMS_AT_ONCE: usize = 50;

/// One stream, whole up to the target.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) tenant_id: String,
    pub(crate) stream_id: StreamId,
    pub(crate) events: Vec<PlainEvent>,
}

/// Pages of whole streams, read ahead.
pub(crate) type Pages = mpsc::Receiver<Result<Vec<Whole>, StorageError>>;

/// Reads a partition's streams in order, a page ahead of whoever takes them. Ends after the last
/// page, after an error, or when nobody takes them any more.
pub(crate) fn read_ahead(
    storage: std::sync::Arc<dyn crate::ledger::storage::Storage>,
    mut query: StreamQuery,
    tasks: &mut tokio::task::JoinSet<()>,
) -> Pages {
    let (sender, pages) = mpsc::channel(1);
    (query.limit, query.bytes_max) = (PAGE_EVENTS, PAGE_BYTES);
    tasks.spawn(async move {
        // Where events are large, a page ends early; the next asks for no more than that many.
        let mut fitting = PAGE_EVENTS;
        loop {
            let page = storage.by_stream(&query).await;
            let (streams, is_last) = match page {
                Ok(page) => {
                    let read = i64::try_from(page.events.len()).unwrap_or(PAGE_EVENTS);
                    fitting = match read {
                        0 => fitting,
                        _ if page.is_cut && read < query.limit => read.max(FITTING_MIN),
                        _ => PAGE_EVENTS.min(2 * query.limit),
                    };
                    let mut streams = grouped(page.events);
                    // The last stream of a page that is cut may go on in the next.
                    if page.is_cut {
                        streams.pop();
                    }
                    (streams, !page.is_cut)
                }
                Err(error) => {
                    let _ = sender.send(Err(error)).await;
                    return;
                }
            };
            if let Some(last) = streams.last() {
                query.after = Some((last.tenant_id.clone(), last.stream_id));
                (query.limit, query.bytes_max) = (fitting, PAGE_BYTES);
            } else if !is_last {
                // One stream fills the page and more.
                query.limit = PAGE_EVENTS.max(query.limit) * 2;
                query.bytes_max *= 2;
                continue;
            }
            if sender.send(Ok(streams)).await.is_err() || is_last {
                return;
            }
        }
    });
    pages
}

fn grouped(events: Vec<StreamEvent>) -> Vec<Whole> {
    let mut streams: Vec<Whole> = Vec::new();
    for event in events {
        match streams.last_mut() {
            Some(last)
                if last.stream_id == event.stream_id && last.tenant_id == event.tenant_id =>
            {
                last.events.push(event.event);
            }
            _ => streams.push(Whole {
                tenant_id: event.tenant_id,
                stream_id: event.stream_id,
                events: vec![event.event],
            }),
        }
    }
    streams
}

/// Views of whole streams under a rule.
pub(crate) fn views(
    partition: Partition,
    streams: &[Whole],
    rule: PrecedenceRule,
) -> Vec<Stream<'_>> {
    streams
        .iter()
        .map(|whole| {
            let Whole {
                tenant_id,
                stream_id,
                events,
            } = whole;
            Stream::new(partition, tenant_id, *stream_id, events, rule)
        })
        .collect()
}

/// Fills one partition's share, from where it was left.
///
/// # Errors
///
/// [`Interrupted`] saying whether it may go on later.
pub(super) async fn fill(worker: &Worker, part: &mut Part) -> Result<(), Interrupted> {
    let mut tasks = tokio::task::JoinSet::new();
    let query = StreamQuery {
        partition: part.partition,
        tenant_id: None,
        after: part.after.clone(),
        until: part.target,
        limit: PAGE_EVENTS,
        bytes_max: PAGE_BYTES,
    };
    let mut pages = read_ahead(worker.storage(), query, &mut tasks);
    let mut load = Load::new(worker);
    while let Some(page) = pages.recv().await {
        load.add(part.partition, &page?).await?;
        if load.events >= LOAD_EVENTS || load.bytes >= LOAD_BYTES {
            write(worker, part, &mut load).await?;
        }
    }
    part.is_filled = true;
    part.position = part.target;
    write(worker, part, &mut load).await
}

/// Writes a load, and how far that brings the part, in one transaction.
async fn write(worker: &Worker, part: &mut Part, load: &mut Load) -> Result<(), Interrupted> {
    part.done += i64::try_from(load.events).unwrap_or_default();
    if part.is_filled {
        // Gaps in the record would show here, but a rebuild is not what looks for them.
        part.done = part.target.0;
    }
    part.after = load.last.take().or(part.after.take());
    let mut transaction = worker.begin().await?;
    for sheet in &mut load.sheets {
        match sheet {
            Sheet::Rows(packed) => transaction.unpack(Place::Shadow, packed).await?,
            Sheet::Sums(projection, sums) => {
                let mut rows = sums.take_rows();
                projection.settle(&mut rows);
                transaction.add(Place::Shadow, &rows).await?;
            }
        }
    }
    worker.save(&mut transaction, part).await?;
    transaction.commit().await?;
    (load.events, load.bytes) = (0, 0);
    Ok(())
}

/// What several pages of streams contribute, on its way into the database.
#[derive(Debug)]
struct Load {
    /// As many as the projections have tables, in their order.
    sheets: Vec<Sheet>,
    projections: Vec<Projection>,
    events: usize,
    /// Of their data.
    bytes: usize,
    last: Option<(String, StreamId)>,
}

/// What goes into one table.
#[derive(Debug)]
enum Sheet {
    Rows(Packed),
    Sums(Projection, Sums),
}

impl Load {
    fn new(worker: &Worker) -> Self {
        let projections: Vec<Projection> = worker.projections().collect();
        let sheets = projections
            .iter()
            .flat_map(|projection| {
                projection
                    .tables()
                    .iter()
                    .map(|table| (*projection, *table))
            })
            .map(|(projection, table)| match table.writing {
                Writing::Replace => Sheet::Rows(worker.store().pack(table)),
                Writing::Add => Sheet::Sums(projection, Sums::new(table)),
            })
            .collect();
        Self {
            sheets,
            projections,
            events: 0,
            bytes: 0,
            last: None,
        }
    }

    async fn add(&mut self, partition: Partition, page: &[Whole]) -> Result<(), Unreadable> {
        let streams = views(partition, page, PrecedenceRule::default());
        for streams in streams.chunks(STREAMS_AT_ONCE) {
            let mut sheets = self.sheets.iter_mut();
            for projection in &self.projections {
                let mut tables = empty(*projection);
                for stream in streams {
                    projection.write(stream, &mut tables)?;
                }
                for (rows, sheet) in tables.iter().zip(&mut sheets) {
                    match sheet {
                        Sheet::Rows(packed) => packed.add(rows),
                        Sheet::Sums(_, sums) => sums.add(rows, 1),
                    }
                }
            }
            tokio::task::yield_now().await;
        }
        for stream in page {
            self.events += stream.events.len();
            self.bytes += stream
                .events
                .iter()
                .map(|event| event.content.bytes())
                .sum::<usize>();
        }
        if let Some(last) = page.last() {
            self.last = Some((last.tenant_id.clone(), last.stream_id));
        }
        Ok(())
    }
}

/// A list per table of a projection.
fn empty<'a>(projection: Projection) -> Vec<Rows<'a>> {
    let tables = projection.tables().iter();
    tables.map(|table| Rows::new(table)).collect()
}
