//! Background tasks that shutdown can wait for.

use std::future::Future;
use std::sync::mpsc;
use std::time::Duration;
use std::{io, thread};

use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Starts background tasks, tells them to stop, and waits until they have.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `task` in the background. It must end soon after [`Self::stopping`] is cancelled, or
    /// when whatever it listens to is dropped.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(task);
    }

    /// Runs `task` in the background on a thread of its own, so that it need not wait until others,
    /// however many are ready, had their turn. It must end like those of [`Self::spawn`].
    ///
    /// # Errors
    ///
    /// When the operating system has no thread to give, or nothing to wait for its sockets with.
    pub fn spawn_apart<F>(&self, name: String, task: F) -> io::Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let token = self.tracker.token();
        let (started, starting) = mpsc::sync_channel(1);
        thread::Builder::new().name(name).spawn(move || {
            // Made here, because a runtime must not be dropped where others wait.
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            let _ = started.send(Ok(()));
            runtime.block_on(task);
            drop(token);
        })?;
        starting
            .recv()
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    /// Cancelled when the tasks are to end.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Tells every task to stop, and waits up to `patience`. Says whether all have.
    pub async fn stop(&self, patience: Duration) -> bool {
        self.stopping.cancel();
        self.tracker.close();
        tokio::time::timeout(patience, self.tracker.wait())
            .await
            .is_ok()
    }
}
