//! Many look-ups of single keys, few statements: whatever is asked while earlier questions are
//! with the database, or shortly after, is put together into the next one. Who asks alone is
//! answered at once.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::storage::StorageError;
use crate::tasks::Tasks;

/// Most keys one statement asks for.
const KEYS_PER_STATEMENT: usize = 256;
/// Statements at the same time. A slow one must not hold up the others; more than a few would
/// undo the point of putting keys together.
const STATEMENTS_AT_ONCE: usize = 4;
/// From the beginning of one statement to the next, if there were several questions in it or it
/// still runs. What a statement costs hardly depends on how much it asks for.
const SPACING: Duration = Duration::from_millis(1);
/// Questions that may wait. Callers beyond wait for room.
const WAITING_MAX: usize = 4096;

type Answer<V> = Result<V, Arc<StorageError>>;
type Question<K, V> = (K, oneshot::Sender<Answer<V>>);

/// Looks up one key at a time for its callers, many at a time in the database.
#[derive(Debug)]
pub(super) struct Coalescer<K, V> {
    questions: mpsc::Sender<Question<K, V>>,
}

impl<K, V> Clone for Coalescer<K, V> {
    fn clone(&self) -> Self {
        Self {
            questions: self.questions.clone(),
        }
    }
}

impl<K, V> Coalescer<K, V>
where
    K: Eq + Hash + Clone + Send + 'static,
    V: Clone + Default + Send + 'static,
{
    /// `load` answers for the keys that exist; the others get `V::default()`.
    pub(super) fn start<L, F>(tasks: &Tasks, load: L) -> Self
    where
        L: Fn(Vec<K>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<HashMap<K, V>, StorageError>> + Send + 'static,
    {
        let (questions, mut waiting) = mpsc::channel::<Question<K, V>>(WAITING_MAX);
        let free = Arc::new(Semaphore::new(STATEMENTS_AT_ONCE));
        let own_tasks = tasks.clone();
        tasks.spawn(async move {
            let mut batch = Vec::with_capacity(KEYS_PER_STATEMENT);
            let (mut next, mut is_crowded) = (Instant::now(), false);
            // Ends when every `Coalescer` is gone.
            while let Ok(permit) = Arc::clone(&free).acquire_owned().await {
                if waiting.recv_many(&mut batch, KEYS_PER_STATEMENT).await == 0 {
                    return;
                }
                // This one has a permit itself.
                let is_running = free.available_permits() + 1 < STATEMENTS_AT_ONCE;
                if is_crowded || is_running {
                    tokio::time::sleep_until(next).await;
                    while batch.len() < KEYS_PER_STATEMENT
                        && let Ok(question) = waiting.try_recv()
                    {
                        batch.push(question);
                    }
                }
                next = Instant::now() + SPACING;
                is_crowded = batch.len() > 1;
                let questions = std::mem::take(&mut batch);
                let mut keys: Vec<K> = Vec::with_capacity(questions.len());
                let mut known = std::collections::HashSet::with_capacity(questions.len());
                for (key, _) in &questions {
                    if known.insert(key) {
                        keys.push(key.clone());
                    }
                }
                let answers = load(keys);
                own_tasks.spawn(async move {
                    answer(questions, answers.await);
                    drop(permit);
                });
            }
        });
        Self { questions }
    }

    /// What the database has for `key`; `V::default()` if nothing.
    ///
    /// # Errors
    ///
    /// What the statement failed with, shared with everyone whose key was in it.
    pub(super) async fn get(&self, key: K) -> Answer<V> {
        let (reply, answer) = oneshot::channel();
        if self.questions.send((key, reply)).await.is_err() {
            return Err(gone());
        }
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}

fn answer<K: Eq + Hash, V: Clone + Default>(
    questions: Vec<Question<K, V>>,
    answers: Result<HashMap<K, V>, StorageError>,
) {
    match answers {
        Ok(found) => {
            for (key, reply) in questions {
                // Whoever asked may have left meanwhile.
                let _ = reply.send(Ok(found.get(&key).cloned().unwrap_or_default()));
            }
        }
        Err(error) => {
            let error = Arc::new(error);
            for (_, reply) in questions {
                let _ = reply.send(Err(Arc::clone(&error)));
            }
        }
    }
}

fn gone() -> Arc<StorageError> {
    Arc::new(StorageError::Unavailable("the reader has stopped".into()))
}
