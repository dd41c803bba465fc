//! Refusals of a busy service, told all together.
//!
//! Under overload many thousand requests a second are refused. A log line for each would take the
//! time that those need which are taken, and bury every other line.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::tasks::Tasks;

/// How long refusals are counted before their number is told.
const INTERVAL: Duration = Duration::from_secs(1);

/// Counts refusals, and logs how many there were.
#[derive(Debug)]
pub struct Refusals {
    untold: Arc<AtomicU64>,
    tasks: Tasks,
}

impl Refusals {
    pub fn new(tasks: Tasks) -> Self {
        Self {
            untold: Arc::default(),
            tasks,
        }
    }

    /// One request was refused because too much was going on. Of those that are refused after shutdown
    /// has begun, only metrics tell.
    pub fn note(&self) {
        if self.untold.fetch_add(1, Ordering::Relaxed) > 0 {
            return;
        }
        let stopping = self.tasks.stopping().clone();
        if stopping.is_cancelled() {
            return;
        }
        let untold = Arc::clone(&self.untold);
        self.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = stopping.cancelled() => {}
            }
            let refused = untold.swap(0, Ordering::Relaxed);
            tracing::warn!(
                refused,
                "too busy: requests were refused in the last second"
            );
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn refusals_are_told_in_one_line() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let _told = tracing::subscriber::set_default(subscriber);
        let tasks = Tasks::new();
        let refusals = Refusals::new(tasks.clone());

        for _ in 0..3 {
            refusals.note();
        }
        // Who is told to stop tells at once what is left.
        assert!(tasks.stop(Duration::from_secs(10)).await);

        let told = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(told.contains("refused=3"), "{told}");
    }
}
