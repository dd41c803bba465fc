//! A tenant's log as it grows: server-sent events (WHATWG HTML §9.2).
//!
//! The client takes, and only then is more read: a stream holds at most one page of events. A page
//! covers a bounded stretch of the ledger, so that a filter that finds little costs the database no
//! more at once than one that finds much. Between pages the stream waits to be told that the ledger
//! has grown ([`crate::ledger::appended`]); it asks the database nothing by itself.
//!
//! Who takes nothing for a minute is given up. Over HTTP/1 the connection notices
//! (`crate::connections`); over HTTP/2 it may be well while the stream's window is closed, so the
//! stream notices by itself.
//!
//! Every event has its position as its id. Whoever comes back with the last one it saw gets what
//! follows, without loss or repeat: positions have no gaps and become visible in their order.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;

use super::accept::prefers;
use super::content::JSON;
use super::freshness::caught_up;
use super::request::{Caller, credentials};
use super::state::ApiState;
use super::view;
use crate::domain::time::Timestamp;
use crate::ledger::record::{Position, RecordedEvent, TenantPlace};
use crate::ledger::registry::Scope;
use crate::ledger::storage::LogQuery;
use crate::ledger::{Ledger, LedgerError};
use crate::problem::{Problem, internal};
use crate::tasks::Tasks;
use crate::telemetry::{ErrorChain, LiveStream};

pub const EVENT_STREAM: &str = "text/event-stream";
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Says to proxies that answers must pass as they come.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// How soon a client whose connection broke is asked to come back.
const RETRY: &str = "retry: 1000\n\n";
const HEARTBEAT: &str = ": heartbeat\n\n";

/// Most events of a page.
const PAGE_EVENTS_MAX: i64 = 64;
/// About how many bytes of event data a page has at most; its last event may go beyond.
const PAGE_BYTES_MAX: i64 = 1024 * 1024;
/// How much is handed over at once. Small, because a client is waited for until it has taken so
/// much: one that is merely slow is not given up.
const PIECE_BYTES: usize = 16 * 1024;
/// Most positions that one statement looks through.
const STRETCH_MAX: i64 = 5_000;
/// Between two attempts to read from a database that is gone.
const REST_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Everything that live streams share.
#[derive(Debug)]
pub struct Live {
    room: Arc<Semaphore>,
    tasks: Tasks,
    pace: Pace,
}

/// How often a stream does what it does by itself.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Longest silence. Shorter than proxies usually allow.
    pub heartbeat: Duration,
    /// Between two looks whether the caller may still read. Together with the time that a key is
    /// remembered, this is how long a revoked key may go on.
    pub recheck: Duration,
    /// How long a client may take nothing while something waits for it.
    pub patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(15),
            recheck: Duration::from_secs(5),
            patience: Duration::from_mins(1),
        }
    }
}

impl Live {
    /// Room for so many streams at once. All of them end when the tasks are to stop.
    pub fn new(streams_max: usize, tasks: Tasks, pace: Pace) -> Self {
        Self {
            room: Arc::new(Semaphore::new(streams_max.min(Semaphore::MAX_PERMITS))),
            tasks,
            pace,
        }
    }
}

/// Whether the caller wants the log as it grows.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    prefers(headers, EVENT_STREAM, JSON)
}

/// Where a stream begins, and who said so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) pointer: &'static str,
    pub(super) after: Position,
}

/// Begins a stream of the events that `query` lets through: after `start`, or from now on. Its own
/// `after`, `until` and `limit` say nothing.
pub(super) async fn follow(
    state: &ApiState,
    tenant: &TenantPlace,
    query: LogQuery,
    start: Option<Start>,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let room = Arc::clone(&state.live.room)
        .try_acquire_owned()
        .map_err(|_| Problem::Overloaded("as many live streams are open as there may be"))?;
    caught_up(state, tenant, headers).await?;
    // Read before the answer begins: what is acknowledged later has a later position.
    let head = head(&state.ledger, tenant).await?;
    let after = match start {
        None => head,
        Some(start) if start.after <= head => start.after,
        Some(start) => {
            return Err(Problem::invalid(
                start.pointer,
                "lies beyond the end of the ledger",
            ));
        }
    };
    let now = Instant::now();
    let reader = Reader {
        tenant: tenant.clone(),
        credentials: credentials(headers),
        appended: state.ledger.appended().subscribe(tenant.partition),
        query: LogQuery {
            after,
            limit: PAGE_EVENTS_MAX,
            bytes_max: PAGE_BYTES_MAX,
            ..query
        },
        page: VecDeque::new(),
        begun: false,
        spoke_at: now,
        checked_at: now,
        state: state.clone(),
    };
    let open = state.metrics.live_stream();
    let seat = Seat(Arc::new(Mutex::new(Some((room, open)))));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    Ok((headers, reader.start(seat).into_body()).into_response())
}

/// How far the tenant's partition has come, as the database says.
async fn head(ledger: &Ledger, tenant: &TenantPlace) -> Result<Position, LedgerError> {
    let heads = ledger.heads().await?;
    let head = heads
        .iter()
        .find(|head| head.partition == tenant.partition)
        .map_or(Position(0), |head| head.position);
    ledger.appended().advance(tenant.partition, head);
    Ok(head)
}

/// One open stream.
struct Reader {
    state: ApiState,
    tenant: TenantPlace,
    /// With which the caller was let in.
    credentials: HeaderMap,
    appended: watch::Receiver<Position>,
    /// Everything up to `after` was sent, waits in the page, or is not wanted.
    query: LogQuery,
    page: VecDeque<RecordedEvent>,
    begun: bool,
    spoke_at: Instant,
    checked_at: Instant,
}

/// Why a stream ends.
enum End {
    /// There is nothing more to come, or for this caller.
    Quiet,
    /// Something is wrong with the record or the service. The connection is cut off, so that the
    /// client doesn't take it for the end.
    Broken,
}

/// A place among the streams that may be open. Given back by whoever ends first: the reader, or the
/// client that hangs up.
#[derive(Clone)]
struct Seat(Arc<Mutex<Option<(OwnedSemaphorePermit, LiveStream)>>>);

impl Seat {
    fn leave(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// What is on its way from a reader to its client.
struct Pieces {
    taken: mpsc::Receiver<Bytes>,
    /// The reader has come to a good end.
    is_whole: Arc<AtomicBool>,
    seat: Seat,
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.seat.leave();
    }
}

impl Pieces {
    /// As the client takes them. What does not come to a good end is cut off, so that the client
    /// doesn't take it for one.
    fn into_body(self) -> Body {
        Body::from_stream(stream::unfold(Some(self), |pieces| async move {
            let mut pieces = pieces?;
            match pieces.taken.recv().await {
                Some(piece) => Some((Ok(piece), Some(pieces))),
                None if pieces.is_whole.load(Ordering::Acquire) => None,
                None => Some((Err(io::Error::other("the stream broke off")), None)),
            }
        }))
    }
}

impl Reader {
    /// Begins to read. Nobody asks for pieces while a client takes nothing, and over HTTP/2 its
    /// connection may be well: so the reader has a task of its own, which gives up by itself.
    fn start(self, seat: Seat) -> Pieces {
        let (sender, taken) = mpsc::channel(1);
        let is_whole = Arc::new(AtomicBool::new(false));
        let pieces = Pieces {
            taken,
            is_whole: Arc::clone(&is_whole),
            seat: seat.clone(),
        };
        let tasks = self.state.live.tasks.clone();
        tasks.spawn(async move {
            let ended = tokio::select! {
                biased;
                () = sender.closed() => End::Quiet,
                ended = self.run(&sender) => ended,
            };
            is_whole.store(matches!(ended, End::Quiet), Ordering::Release);
            seat.leave();
        });
        pieces
    }

    /// Reads what there is room for, until there is a reason to end.
    async fn run(mut self, sender: &mpsc::Sender<Bytes>) -> End {
        let stopping = self.state.live.tasks.stopping().clone();
        let mut piece = Bytes::new();
        loop {
            let room = tokio::select! {
                biased;
                () = stopping.cancelled() => {
                    return if piece.is_empty() { End::Quiet } else { End::Broken };
                }
                room = tokio::time::timeout(self.pace().patience, sender.reserve()) => room,
            };
            let room = match room {
                Ok(Ok(room)) => room,
                Ok(Err(_)) => return End::Quiet,
                Err(_) => return self.given_up(),
            };
            if piece.is_empty() {
                let next = tokio::select! {
                    biased;
                    () = stopping.cancelled() => return End::Quiet,
                    next = self.next() => next,
                };
                piece = match next {
                    Ok(piece) => piece,
                    Err(end) => return end,
                };
                self.spoke_at = Instant::now();
            }
            // Only what has a large message comes to more than twice as much: no other is split, so
            // that a service that stops ends its streams between two messages.
            let part = if piece.len() > 2 * PIECE_BYTES {
                PIECE_BYTES
            } else {
                piece.len()
            };
            room.send(piece.split_to(part));
        }
    }

    fn given_up(&self) -> End {
        tracing::info!(
            tenant.id = %self.tenant.tenant_id,
            "a live stream is given up: the caller takes nothing"
        );
        End::Broken
    }

    async fn next(&mut self) -> Result<Bytes, End> {
        if !self.begun {
            self.begun = true;
            return Ok(Bytes::from_static(RETRY.as_bytes()));
        }
        loop {
            self.check().await?;
            if let Some(piece) = self.piece().await? {
                return Ok(piece);
            }
            if self.spoke_at.elapsed() >= self.pace().heartbeat {
                return Ok(Bytes::from_static(HEARTBEAT.as_bytes()));
            }
            // Else the page has an event that can't be shown just now.
            if self.page.is_empty() {
                let head = *self.appended.borrow_and_update();
                if self.query.after < head {
                    self.read(head).await?;
                } else {
                    self.wait().await?;
                }
            }
        }
    }

    fn pace(&self) -> Pace {
        self.state.live.pace
    }

    /// Now and then, whether the caller may still read, and whether the ledger still has what was
    /// sent.
    async fn check(&mut self) -> Result<(), End> {
        if self.checked_at.elapsed() < self.pace().recheck {
            return Ok(());
        }
        self.checked_at = Instant::now();
        let state = &self.state;
        match Caller::of(state, &self.credentials).await {
            Ok(caller) => match caller.tenant(state, Scope::Read) {
                Ok(tenant) if *tenant == self.tenant => {}
                Ok(_) | Err(_) => return Err(self.not_allowed()),
            },
            Err(problem) if may_pass(&problem) => {
                rest(&problem).await;
                return Ok(());
            }
            Err(_) => return Err(self.not_allowed()),
        }
        match head(&state.ledger, &self.tenant).await {
            Ok(head) if head < self.query.after => {
                tracing::warn!(
                    tenant.id = %self.tenant.tenant_id,
                    "a live stream ends: the ledger is shorter than it was, so it was restored"
                );
                Err(End::Broken)
            }
            Ok(_) => Ok(()),
            Err(error) => self.failed(error.into()).await,
        }
    }

    fn not_allowed(&self) -> End {
        tracing::info!(
            tenant.id = %self.tenant.tenant_id,
            "a live stream ends: its caller may not read any more"
        );
        End::Quiet
    }

    /// What waits in the page, written out; `None` if nothing does.
    async fn piece(&mut self) -> Result<Option<Bytes>, End> {
        let mut text = Vec::new();
        while let Some(event) = self.page.front() {
            match message(&self.state, &self.tenant, event).await {
                Ok(message) => text.extend_from_slice(&message),
                // What was written so far goes out first.
                Err(_) if !text.is_empty() => break,
                Err(problem) => {
                    self.failed(problem).await?;
                    break;
                }
            }
            self.page.pop_front();
            if text.len() >= PIECE_BYTES {
                break;
            }
        }
        Ok((!text.is_empty()).then(|| text.into()))
    }

    /// Reads the next page, or finds out that there is nothing wanted in the next stretch.
    async fn read(&mut self, head: Position) -> Result<(), End> {
        self.query.until = Position(head.0.min(self.query.after.0.saturating_add(STRETCH_MAX)));
        let page = match self.state.ledger.tenant_log(&self.query).await {
            Ok(page) => page,
            Err(error) => return self.failed(error.into()).await,
        };
        self.query.after = match page.events.last() {
            Some(last) if page.is_cut => last.position,
            _ => self.query.until,
        };
        self.page = page.events.into();
        Ok(())
    }

    /// Until there is something to do.
    async fn wait(&mut self) -> Result<(), End> {
        let now = self.state.surroundings.now();
        if now >= self.query.to {
            return match head(&self.state.ledger, &self.tenant).await {
                // What is recorded from now on is too late for this stream.
                Ok(head) if head <= self.query.after => Err(End::Quiet),
                Ok(_) => Ok(()),
                Err(error) => self.failed(error.into()).await,
            };
        }
        let heartbeat = self.spoke_at + self.pace().heartbeat;
        let check = self.checked_at + self.pace().recheck;
        let deadline = heartbeat.min(check);
        let deadline = match Instant::now().checked_add(until(now, self.query.to)) {
            Some(end) => deadline.min(end),
            None => deadline,
        };
        tokio::select! {
            // An error would say that nobody can append any more, and then nobody does.
            _ = self.appended.changed() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
        Ok(())
    }

    /// Waits for what may pass; ends what will not.
    async fn failed(&self, problem: Problem) -> Result<(), End> {
        if may_pass(&problem) {
            rest(&problem).await;
            return Ok(());
        }
        tracing::error!(
            tenant.id = %self.tenant.tenant_id,
            error = %ErrorChain(&problem),
            "a live stream broke off"
        );
        Err(End::Broken)
    }
}

/// Everybody else who needs the database says loudly that it is gone.
async fn rest(problem: &Problem) {
    tracing::debug!(error = %ErrorChain(problem), "a live stream waits for the database");
    tokio::time::sleep(REST_AFTER_FAILURE).await;
}

/// The database is gone or busy. Everything else stays as it is.
fn may_pass(problem: &Problem) -> bool {
    matches!(problem, Problem::Unavailable(_) | Problem::Overloaded(_))
}

fn until(now: Timestamp, then: Timestamp) -> Duration {
    let micros = then.as_micros().saturating_sub(now.as_micros());
    Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}

/// An event as a message.
async fn message(
    state: &ApiState,
    tenant: &TenantPlace,
    event: &RecordedEvent,
) -> Result<Vec<u8>, Problem> {
    let stream = tenant.stream(event.stream_id);
    let view = view::event(state, &stream, event).await?;
    let (id, name) = (view.position, &view.event_type);
    let mut text = format!("id: {id}\nevent: {name}\ndata: ").into_bytes();
    let begin = text.len();
    serde_json::to_writer(&mut text, &view).map_err(|error| internal(&error))?;
    // Callers' JSON is kept as it came, and a line break would end the line. In JSON it can stand
    // between words only, where a space says the same.
    for byte in &mut text[begin..] {
        if matches!(*byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    text.extend_from_slice(b"\n\n");
    Ok(text)
}
