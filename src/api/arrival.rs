//! A request's body on its way in, as the outermost layer sees it.
//!
//! Two things are noted. Whether the service waits for the caller just now: then a request that
//! takes too long is the caller's doing. And what a handler leaves unread: a connection that is
//! closed on a caller who is still sending is reset, and with it goes the answer that said what
//! was wrong. So the rest is read and thrown away first, within bounds.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody};
use axum::extract::Request;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header;
use tokio::sync::oneshot;

/// Most bytes that are read only to be thrown away. Twice the largest body there may be unless
/// configured otherwise.
const REST_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Longest time for it.
const REST_TIME_MAX: Duration = Duration::from_secs(5);

/// What is noted about a body.
#[derive(Debug)]
pub struct Arrival {
    notes: Arc<Notes>,
    rest: oneshot::Receiver<BodyDataStream>,
}

#[derive(Debug, Default)]
struct Notes {
    /// Somebody asked for more of the body, and there was none yet.
    waiting: AtomicBool,
    /// Somebody has begun to read.
    begun: AtomicBool,
    /// The caller sends nothing before somebody reads (RFC 9110 §10.1.1).
    on_demand: bool,
}

/// A body that takes notes.
struct Watched {
    /// Until it is read to its end, or left.
    body: Option<BodyDataStream>,
    notes: Arc<Notes>,
    leave: Option<oneshot::Sender<BodyDataStream>>,
}

impl Arrival {
    /// Watches the request's body. A request without one is left as it is.
    pub fn watch(request: Request) -> (Request, Option<Self>) {
        if request.body().is_end_stream() {
            return (request, None);
        }
        let (parts, body) = request.into_parts();
        let notes = Arc::new(Notes {
            on_demand: parts.headers.contains_key(header::EXPECT),
            ..Notes::default()
        });
        let (leave, rest) = oneshot::channel();
        let watched = Watched {
            body: Some(body.into_data_stream()),
            notes: Arc::clone(&notes),
            leave: Some(leave),
        };
        let request = Request::from_parts(parts, Body::from_stream(watched));
        (request, Some(Self { notes, rest }))
    }

    /// The handler waits for more of the body.
    pub fn is_waiting(&self) -> bool {
        self.notes.waiting.load(Ordering::Relaxed)
    }

    /// Reads what the handler has left, so that the answer reaches a caller who is still sending.
    pub async fn finish(mut self) {
        if self.notes.on_demand && !self.notes.begun.load(Ordering::Relaxed) {
            return;
        }
        // Read to its end, or still being read by a stream of answers: then there is nothing to do.
        let Ok(rest) = self.rest.try_recv() else {
            return;
        };
        // Whether all of it came or not, the answer is sent now.
        let _ = tokio::time::timeout(REST_TIME_MAX, discard(rest)).await;
    }
}

async fn discard(mut body: BodyDataStream) {
    let mut bytes = 0;
    while let Some(Ok(data)) = body.next().await {
        bytes += data.len();
        if bytes > REST_BYTES_MAX {
            return;
        }
    }
}

impl Stream for Watched {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.notes.begun.store(true, Ordering::Relaxed);
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let polled = body.poll_next_unpin(context);
        self.notes
            .waiting
            .store(polled.is_pending(), Ordering::Relaxed);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        polled
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let left = self.body.take().filter(|body| !body.is_end_stream());
        if let (Some(left), Some(leave)) = (left, self.leave.take()) {
            // The other end may be gone: then nobody waits for the answer.
            let _ = leave.send(left);
        }
    }
}
