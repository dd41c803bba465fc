//! Connections that give up on callers who take nothing.
//!
//! What a caller does not read waits in the service: an open answer, what was read for it, a
//! connection. An answer that is not taken at all for a while is given up, and the connection with
//! it. When the service stops, that while is much shorter.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long a caller may take nothing while something waits for it.
const PATIENCE: Patience = Patience {
    usual: Duration::from_mins(1),
    // Short of what a shutdown waits for open answers.
    stopping: Duration::from_secs(2),
};

#[derive(Clone, Copy, Debug)]
struct Patience {
    usual: Duration,
    /// Once the service stops.
    stopping: Duration,
}

/// Listens for connections that give up in the end.
#[derive(Debug)]
pub(crate) struct Connections {
    pub(crate) listener: TcpListener,
    pub(crate) stopping: CancellationToken,
}

/// A connection that gives up once the other end has taken nothing for too long.
pub(crate) struct Impatient<S> {
    stream: S,
    patience: Patience,
    stopping: CancellationToken,
    /// Runs while something waits to be taken.
    stalled: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Listener for Connections {
    type Io = Impatient<tokio::net::TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // Commits are small and their answers too: waiting to fill a packet only delays them.
        let _ = stream.set_nodelay(true);
        (
            Impatient::new(stream, PATIENCE, self.stopping.clone()),
            address,
        )
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

impl<S> Impatient<S> {
    fn new(stream: S, patience: Patience, stopping: CancellationToken) -> Self {
        Self {
            stream,
            patience,
            stopping,
            stalled: None,
        }
    }

    /// What came of an attempt to write, unless there have been too many in vain.
    fn unless_stalled<T>(
        &mut self,
        context: &mut Context<'_>,
        attempt: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if attempt.is_ready() {
            self.stalled = None;
            return attempt;
        }
        let (patience, stopping) = (self.patience, &self.stopping);
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(too_long(patience, stopping.clone())));
        ready!(stalled.as_mut().poll(context));
        tracing::info!("a connection is given up: the caller takes nothing");
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

async fn too_long(patience: Patience, stopping: CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(patience.usual) => {}
        () = async {
            stopping.cancelled().await;
            tokio::time::sleep(patience.stopping).await;
        } => {}
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.unless_stalled(context, attempt)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.unless_stalled(context, attempt)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// What fits on the way.
    const ROOM: usize = 16;
    const SHORT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_hours(1);

    fn connection(
        usual: Duration,
        stopping: &CancellationToken,
    ) -> (Impatient<DuplexStream>, DuplexStream) {
        let (here, there) = duplex(ROOM);
        let patience = Patience {
            usual,
            stopping: SHORT,
        };
        (Impatient::new(here, patience, stopping.clone()), there)
    }

    #[tokio::test]
    async fn a_caller_who_takes_nothing_is_given_up() {
        let (mut connection, _there) = connection(SHORT, &CancellationToken::new());
        let begun = Instant::now();

        let error = connection.write_all(&[0; ROOM + 1]).await.unwrap_err();

        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= SHORT);
    }

    #[tokio::test]
    async fn a_caller_who_takes_a_little_now_and_then_is_not_given_up() {
        let (mut connection, mut there) = connection(SHORT, &CancellationToken::new());
        let taking = async {
            for _ in 0..ROOM {
                tokio::time::sleep(SHORT / 5).await;
                there.read_u8().await.unwrap();
            }
        };

        let (written, ()) = tokio::join!(connection.write_all(&[0; 2 * ROOM]), taking);

        written.unwrap();
    }

    #[tokio::test]
    async fn a_service_that_stops_has_less_patience() {
        let stopping = CancellationToken::new();
        let (mut connection, _there) = connection(LONG, &stopping);
        let begun = Instant::now();
        let stop = async {
            tokio::time::sleep(SHORT).await;
            stopping.cancel();
        };

        let (written, ()) = tokio::join!(connection.write_all(&[0; ROOM + 1]), stop);

        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= 2 * SHORT);
    }
}
