//! When a key was last used: noted at most once a minute per key, and stored in the background,
//! so that no request waits for it. A crash loses the last few notes; nothing depends on them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{ApiKey, KeyId, Registry, RegistryError};
use crate::domain::time::Timestamp;
use crate::ledger::database::on_both;

/// How finely use is noted: one row changed per key and minute, whatever its traffic.
const NOTED_EVERY_MICROS: i64 = 60 * 1_000_000;
/// Most notes that wait to be stored, should nobody store them.
const NOTES_MAX: usize = 10_000;
/// Rows per transaction, so that writing them never holds up others for long.
const ROWS_PER_TRANSACTION: usize = 200;

/// A key that was recognised, and when its use was last noted.
pub(super) struct KnownKey {
    key: Arc<ApiKey>,
    noted_at_micros: AtomicI64,
}

impl KnownKey {
    pub(super) fn new(key: ApiKey) -> Self {
        let noted_at = key.last_used_at.map_or(i64::MIN / 2, Timestamp::as_micros);
        Self {
            key: Arc::new(key),
            noted_at_micros: AtomicI64::new(noted_at),
        }
    }

    pub(super) fn key(&self) -> &Arc<ApiKey> {
        &self.key
    }
}

/// Notes that wait to be stored.
#[derive(Debug, Default)]
pub(super) struct Uses {
    waiting: Mutex<HashMap<KeyId, Timestamp>>,
}

impl Uses {
    /// Cheap unless a note is due.
    pub(super) fn note(&self, known: &KnownKey, now: Timestamp) {
        let noted_at = known.noted_at_micros.load(Ordering::Relaxed);
        let due = now.as_micros() - noted_at >= NOTED_EVERY_MICROS;
        // Of several requests at once, one makes the note.
        let mine = due
            && known
                .noted_at_micros
                .compare_exchange(
                    noted_at,
                    now.as_micros(),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok();
        if !mine {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < NOTES_MAX || waiting.contains_key(&known.key.key_id) {
            waiting.insert(known.key.key_id, now);
        }
    }
}

// Never backwards: another process may have stored a later time.
const STORE_USE: &str = "
    UPDATE api_keys
    SET last_used_at = $2
    WHERE key_id = $1 AND (last_used_at IS NULL OR last_used_at < $2)";

impl Registry {
    /// The notes made since the last call, in the order of the keys; for
    /// [`Self::store_used`]. Every half a minute is often enough, and once more at the end.
    pub fn take_used(&self) -> Vec<(KeyId, Timestamp)> {
        let mut waiting = self
            .inner
            .uses
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut used: Vec<_> = std::mem::take(&mut *waiting).into_iter().collect();
        // Processes that store the same keys at the same time lock them in the same order.
        used.sort_unstable();
        used
    }

    /// Stores what [`Self::take_used`] gave.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Storage`] when the database does not answer. Not worth trying again: the
    /// next use is noted within a minute.
    pub async fn store_used(&self, used: &[(KeyId, Timestamp)]) -> Result<(), RegistryError> {
        for used in used.chunks(ROWS_PER_TRANSACTION) {
            on_both!(&self.inner.database, pool => {
                let mut transaction = pool.begin().await?;
                for (key_id, at) in used {
                    sqlx::query(STORE_USE)
                        .bind(key_id.0)
                        .bind(at.as_micros())
                        .execute(&mut *transaction)
                        .await?;
                }
                transaction.commit().await?;
            });
        }
        Ok(())
    }
}
