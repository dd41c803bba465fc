//! Proof that the record is what was recorded.
//!
//! Recomputes the chain from any machine that can read the database: every event's hash, every
//! position, every stream's sequences, and that the head is where the log ends.

use super::LedgerError;
use super::chain::{self, GENESIS, Link};
use super::record::{Hash, Head, LedgerPosition, Partition, Position};
use super::storage::Storage;

/// Events read at once. At about 1 KiB each this keeps memory small and round trips few.
const EVENTS_AT_ONCE: i64 = 2000;

/// A partition that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intact {
    pub partition: Partition,
    pub events: u64,
    pub head: Position,
}

/// The first place where the record is not what was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub position: LedgerPosition,
    pub fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the event is missing")]
    Missing,
    #[error("the event was altered, or history before it was")]
    Altered,
    #[error("the log goes on past its head")]
    PastHead,
    #[error("the head's hash is not that of the last event")]
    HeadHash,
    #[error("the stream's sequence numbers do not run without gaps")]
    Sequence,
}

/// Checks one partition, from `from` on (its predecessor's hash is then taken as given).
/// `progress` is told how many events were checked since it was last called.
///
/// # Errors
///
/// [`LedgerError`] when the database can't be read. A broken record is an answer, not an error.
pub async fn verify(
    storage: &dyn Storage,
    head: &Head,
    from: Position,
    mut progress: impl FnMut(u64),
) -> Result<Result<Intact, Broken>, LedgerError> {
    let partition = head.partition;
    let broken = |position, fault| {
        Ok(Err(Broken {
            position: LedgerPosition {
                partition,
                position,
            },
            fault,
        }))
    };
    let start = Position((from.0 - 1).max(0));
    let Some(mut previous) = hash_at(storage, partition, start).await? else {
        return broken(start, Fault::Missing);
    };
    let mut at = start;
    let mut events = 0;
    loop {
        let batch = storage.log(partition, at, EVENTS_AT_ONCE).await?;
        let batch_events = batch.len() as u64;
        for event in &batch {
            // The log may have grown since the head was read; the rest is for the next time.
            if event.position > head.position {
                break;
            }
            let expected = Position(at.0 + 1);
            if event.position != expected {
                return broken(expected, Fault::Missing);
            }
            let hash = chain::next(&previous, &Link::from(event));
            if event.hash != hash {
                return broken(expected, Fault::Altered);
            }
            previous = hash;
            at = expected;
            events += 1;
        }
        progress(batch_events);
        if batch.is_empty() || at >= head.position {
            break;
        }
    }
    if at < head.position {
        return broken(Position(at.0 + 1), Fault::Missing);
    }
    if at == head.position && previous != head.hash {
        return broken(at, Fault::HeadHash);
    }
    // A head moves with its log, so one that is read later has moved past all that was read here.
    let beyond = storage
        .log(partition, head.position, EVENTS_AT_ONCE)
        .await?;
    if !beyond.is_empty() {
        let heads = storage.heads().await?;
        let now = heads
            .iter()
            .find(|now| now.partition == partition)
            .unwrap_or(head);
        if let Some(extra) = beyond.iter().find(|event| event.position > now.position) {
            return broken(extra.position, Fault::PastHead);
        }
    }
    if let Some(stream) = storage.broken_streams(partition).await?.first() {
        return broken(stream.position, Fault::Sequence);
    }
    Ok(Ok(Intact {
        partition,
        events,
        head: head.position,
    }))
}

/// The hash of the event at `position`; before the first, the genesis.
async fn hash_at(
    storage: &dyn Storage,
    partition: Partition,
    position: Position,
) -> Result<Option<Hash>, LedgerError> {
    if position == Position(0) {
        return Ok(Some(GENESIS));
    }
    let before = Position(position.0 - 1);
    let events = storage.log(partition, before, 1).await?;
    Ok(events
        .into_iter()
        .find(|event| event.position == position)
        .and_then(|event| Hash::try_from(event.hash).ok()))
}
