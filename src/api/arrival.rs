//! A request's body on its way in, as the outermost layer sees it.
//!
//! Two things are noted. Whether the service waits for the caller just now: then a request that
//! takes too long is the caller's doing. And what a handler leaves unread: a connection that is
//! closed on a caller who is still sending is reset, and with it goes the answer that said what
//! was wrong. So the rest is read and thrown away first, within bounds.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use bytes::Bytes;
use http::header;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

/// Most bytes that are read only to be thrown away. Twice the largest body there may be unless
/// configured otherwise.
const REST_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Longest time for it.
const REST_TIME_MAX: Duration = Duration::from_secs(5);

/// What is noted about a body.
#[derive(Debug)]
pub struct Arrival {
    notes: Arc<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    /// Somebody asked for more of the body, and there was none yet.
    waiting: AtomicBool,
    /// Somebody has begun to read.
    begun: AtomicBool,
    /// The caller sends nothing before somebody reads (RFC 9110 §10.1.1).
    on_demand: bool,
    /// What whoever read it has left of the body.
    rest: Mutex<Option<Body>>,
}

/// A body that takes notes.
struct Watched {
    /// Until it is read to its end, or left.
    body: Option<Body>,
    notes: Arc<Notes>,
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
        let watched = Watched {
            body: Some(body),
            notes: Arc::clone(&notes),
        };
        let request = Request::from_parts(parts, Body::new(watched));
        (request, Some(Self { notes }))
    }

    /// The handler waits for more of the body.
    pub fn is_waiting(&self) -> bool {
        self.notes.waiting.load(Ordering::Relaxed)
    }

    /// Reads what the handler has left, so that the answer reaches a caller who is still sending.
    pub async fn finish(self) {
        if self.notes.on_demand && !self.notes.begun.load(Ordering::Relaxed) {
            return;
        }
        // Read to its end, or still being read by a stream of answers: then there is nothing to do.
        let Some(rest) = self.notes.rest().take() else {
            return;
        };
        // Whether all of it came or not, the answer is sent now.
        let _ = tokio::time::timeout(REST_TIME_MAX, discard(rest)).await;
    }
}

impl Notes {
    fn rest(&self) -> MutexGuard<'_, Option<Body>> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn discard(mut body: Body) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > REST_BYTES_MAX {
            return;
        }
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.notes.begun.store(true, Ordering::Relaxed);
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(body).poll_frame(context);
        self.notes
            .waiting
            .store(polled.is_pending(), Ordering::Relaxed);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let ended = SizeHint::with_exact(0);
        self.body.as_ref().map_or(ended, HttpBody::size_hint)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let left = self.body.take().filter(|body| !body.is_end_stream());
        if left.is_some() {
            *self.notes.rest() = left;
        }
    }
}
