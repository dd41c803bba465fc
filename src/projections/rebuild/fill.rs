//! Fills shadow tables from one partition of the record, stream by stream: each row is written
//! once, at its end state.
//!
//! A page of the record is read while the one before is folded and written. Memory holds a few
//! pages, however large the ledger is.

use tokio::sync::mpsc;

use super::super::changes::Sums;
use super::super::projection::Projection;
use super::super::store::Place;
use super::super::stream::Stream;
use super::super::table::{Rows, Writing};
use super::jobs::Part;
use super::worker::{Interrupted, Worker};
use crate::domain::ids::StreamId;
use crate::domain::precedence::PrecedenceRule;
use crate::ledger::record::{Partition, PlainEvent, StreamEvent};
use crate::ledger::storage::{StorageError, StreamQuery};

/// Events in a page. At about 1 KiB each, with one page being read and one being written, this
/// keeps memory well below 100 MB.
const PAGE_EVENTS: i64 = 8_000;
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
    query.limit = PAGE_EVENTS;
    tasks.spawn(async move {
        loop {
            let page = storage.by_stream(&query).await;
            let (streams, is_last) = match page {
                Ok(events) => {
                    let is_last = i64::try_from(events.len()).unwrap_or(i64::MAX) < query.limit;
                    let mut streams = grouped(events);
                    // The last stream of a full page may go on in the next.
                    if !is_last {
                        streams.pop();
                    }
                    (streams, is_last)
                }
                Err(error) => {
                    let _ = sender.send(Err(error)).await;
                    return;
                }
            };
            if let Some(last) = streams.last() {
                query.after = Some((last.tenant_id.clone(), last.stream_id));
                query.limit = PAGE_EVENTS;
            } else if !is_last {
                // One stream fills the page and more.
                query.limit *= 2;
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
    };
    let mut pages = read_ahead(worker.storage(), query, &mut tasks);
    while let Some(page) = pages.recv().await {
        write(worker, part, &page?).await?;
    }
    part.is_filled = true;
    part.position = part.target;
    // Gaps in the record would show here, but a rebuild is not what looks for them.
    part.done = part.target.0;
    let mut transaction = worker.begin().await?;
    worker.save(&mut transaction, part).await?;
    transaction.commit().await?;
    Ok(())
}

/// Writes what a page of streams contributes, and how far that brings the part, in one transaction.
async fn write(worker: &Worker, part: &mut Part, page: &[Whole]) -> Result<(), Interrupted> {
    let Some(last) = page.last() else {
        return Ok(());
    };
    let streams = views(part.partition, page, PrecedenceRule::default());
    let mut tables = Vec::new();
    for projection in worker.projections() {
        tables.push((projection, rows(projection, &streams).await?));
    }
    part.after = Some((last.tenant_id.clone(), last.stream_id));
    let events: usize = page.iter().map(|stream| stream.events.len()).sum();
    part.done += i64::try_from(events).unwrap_or_default();
    let mut transaction = worker.begin().await?;
    for (_, tables) in &tables {
        for rows in tables {
            match rows.table.writing {
                Writing::Replace => transaction.copy(Place::Shadow, rows).await?,
                Writing::Add => transaction.add(Place::Shadow, rows).await?,
            }
        }
    }
    worker.save(&mut transaction, part).await?;
    transaction.commit().await?;
    Ok(())
}

/// What many streams contribute to a projection's tables: finished rows, or sums.
pub(crate) async fn rows<'a>(
    projection: Projection,
    streams: &'a [Stream<'a>],
) -> Result<Vec<Rows<'a>>, super::super::stream::Unreadable> {
    let tables = projection.tables();
    let mut kept: Vec<Rows<'a>> = tables.iter().map(|table| Rows::new(table)).collect();
    let mut sums: Vec<Option<Sums<'a>>> = tables
        .iter()
        .map(|table| (table.writing == Writing::Add).then(|| Sums::new(table)))
        .collect();
    for streams in streams.chunks(STREAMS_AT_ONCE) {
        for stream in streams {
            projection.write(stream, &mut kept)?;
        }
        for (rows, sums) in kept.iter_mut().zip(&mut sums) {
            if let Some(sums) = sums {
                sums.add(rows, 1);
                rows.clear();
            }
        }
        tokio::task::yield_now().await;
    }
    for (rows, sums) in kept.iter_mut().zip(sums) {
        if let Some(sums) = sums {
            *rows = sums.into_rows();
            projection.settle(rows);
        }
    }
    Ok(kept)
}
