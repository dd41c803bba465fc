//! Lines in, lines out, at the same time.
//!
//! Many callers send all they have before they read anything. So results wait, up to a bound, and
//! the work goes on in a task of its own: a response that nobody reads is not asked for more.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::items::Bulk;
use super::{Finished, NDJSON};

/// Finished windows that may wait to be written out.
const WINDOWS_WAITING: usize = 4;
/// Most bytes of results that wait for a caller who does not read yet: those of about 100,000
/// lines.
const WAITING_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// How long such a caller may take to read on, when no more may wait.
const READ_PAUSE_MAX: Duration = Duration::from_mins(1);

/// What waits to be read.
enum Piece {
    Text(Bytes, OwnedSemaphorePermit),
    /// All is done. If this does not come, the answer is cut off, and the caller sees that it is.
    End,
}

/// One command a line, as many as there are; results in the same order, as they come.
#[expect(
    clippy::disallowed_methods,
    reason = "it ends with the response, for which shutdown waits"
)]
pub(super) fn answer(bulk: Bulk, body: Body) -> Response {
    let (pieces, waiting) = mpsc::unbounded_channel();
    tokio::spawn(work_off(bulk, body, pieces));
    let output = stream::unfold(Some(waiting), |waiting| async move {
        let mut waiting = waiting?;
        match waiting.recv().await {
            Some(Piece::Text(text, _room)) => Some((Ok(text), Some(waiting))),
            Some(Piece::End) => None,
            None => Some((Err(io::Error::other("the results end too early")), None)),
        }
    });
    (
        [(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON))],
        Body::from_stream(output),
    )
        .into_response()
}

async fn work_off(bulk: Bulk, body: Body, pieces: mpsc::UnboundedSender<Piece>) {
    let (results, finished) = mpsc::channel(WINDOWS_WAITING);
    let work = async {
        bulk.work_off(body, results).await;
        // Until everything is written out.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = work => {}
        () = write_out(finished, &bulk.request_id, pieces) => {}
    }
}

/// Writes results out until there are no more, or the caller is gone.
async fn write_out(
    mut finished: mpsc::Receiver<Finished>,
    request_id: &str,
    pieces: mpsc::UnboundedSender<Piece>,
) {
    let room = Arc::new(Semaphore::new(WAITING_BYTES_MAX as usize));
    while let Some(window) = finished.recv().await {
        let text = window.shown(request_id);
        // One window alone always has room.
        let bytes = u32::try_from(text.len())
            .unwrap_or(u32::MAX)
            .min(WAITING_BYTES_MAX);
        let taking = Arc::clone(&room).acquire_many_owned(bytes);
        let Ok(Ok(taken)) = tokio::time::timeout(READ_PAUSE_MAX, taking).await else {
            tracing::info!("a caller does not read the results of its commands");
            return;
        };
        if pieces.send(Piece::Text(text, taken)).is_err() {
            return;
        }
    }
    let _ = pieces.send(Piece::End);
}
