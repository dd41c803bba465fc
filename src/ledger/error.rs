//! Why the ledger could not do it, by what the caller can do about it.

use std::sync::Arc;

use cqrs_es::AggregateError;

use super::Done;
use super::record::LedgerPosition;
use super::sealing::{NoRandomness, Unopenable};
use super::storage::StorageError;
use crate::domain::ids::Sequence;
use crate::domain::notification::Refusal;
use crate::domain::sealing::SealingError;
use crate::domain::stored::DecodeError;
use crate::telemetry::AppendOutcome as AppendResult;

/// Why the ledger could not do it. Nothing was changed, unless the database failed while
/// committing.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The queue is full. Try again soon.
    #[error("more is waiting to be written than may wait")]
    Overloaded,
    /// Other processes kept getting ahead on this stream. Try again.
    #[error("the stream is being written to by too many others")]
    Contended,
    #[error("the stream is at version {current}, not {expected}")]
    VersionMismatch {
        expected: Sequence,
        current: Sequence,
    },
    /// The key was used for another request.
    #[error("the idempotency key was used for another request")]
    IdempotencyKeyReused,
    #[error("the database failed")]
    Storage(#[source] Arc<StorageError>),
    /// A recorded event no longer fits the code: an upcaster is missing. Stop; never skip it.
    #[error("the event at {position} does not decode")]
    Undecodable {
        position: LedgerPosition,
        source: DecodeError,
    },
    /// The stream belongs to another kind of thing, so what was asked for is not there.
    #[error("the stream is of another kind")]
    OtherKind,
    /// Sealed text was altered, moved, or sealed under another master key.
    #[error("sealed text does not open")]
    Unopenable,
    #[error("the operating system gave no random bytes")]
    NoRandomness,
    #[error("the subject was erased too often")]
    TooManyErasures,
    /// It is erased, but the database's files still have it, for whoever goes on reading them. Try
    /// again later.
    #[error("somebody goes on reading what was erased")]
    StillRead,
    #[error("a session was asked for another stream than its own")]
    OtherStream,
    /// The ledger is shutting down.
    #[error("the ledger has stopped")]
    Stopped,
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommandError<E: std::error::Error + 'static> {
    /// By the rules.
    #[error(transparent)]
    Refused(E),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl From<StorageError> for LedgerError {
    fn from(error: StorageError) -> Self {
        Self::Storage(Arc::new(error))
    }
}

impl From<Arc<StorageError>> for LedgerError {
    fn from(error: Arc<StorageError>) -> Self {
        Self::Storage(error)
    }
}

impl From<Unopenable> for LedgerError {
    fn from(_: Unopenable) -> Self {
        Self::Unopenable
    }
}

impl From<NoRandomness> for LedgerError {
    fn from(_: NoRandomness) -> Self {
        Self::NoRandomness
    }
}

/// An aggregate's error that may really be the ledger's: the key for sealing could not be had.
pub trait FromSealing: std::error::Error + Sized + 'static {
    /// The ledger's own error inside, if that is what it is; else itself.
    ///
    /// # Errors
    ///
    /// Itself, when it is a refusal by the rules.
    fn into_ledger_error(self) -> Result<LedgerError, Self>;
}

impl FromSealing for Refusal {
    fn into_ledger_error(self) -> Result<LedgerError, Self> {
        match self {
            Self::Sealing(error) => error.into_ledger_error().map_err(Self::Sealing),
            refusal => Err(refusal),
        }
    }
}

impl FromSealing for SealingError {
    fn into_ledger_error(self) -> Result<LedgerError, Self> {
        self.0
            .downcast::<LedgerError>()
            .map(|error| *error)
            .map_err(SealingError)
    }
}

pub(super) fn command_error<E: FromSealing>(error: AggregateError<E>) -> CommandError<E> {
    match error {
        AggregateError::UserError(error) => match error.into_ledger_error() {
            Ok(error) => CommandError::Ledger(error),
            Err(refusal) => CommandError::Refused(refusal),
        },
        AggregateError::AggregateConflict => LedgerError::Contended.into(),
        AggregateError::UnexpectedError(error)
        | AggregateError::DatabaseConnectionError(error)
        | AggregateError::DeserializationError(error) => {
            CommandError::Ledger(match error.downcast::<LedgerError>() {
                Ok(error) => *error,
                Err(error) => StorageError::Unavailable(error).into(),
            })
        }
    }
}

/// How a command's result is counted.
pub(super) fn outcome_label<A, E: std::error::Error>(
    result: &Result<Done<A>, CommandError<E>>,
) -> AppendResult {
    match result {
        Ok(done) if done.replayed => AppendResult::IdempotentReplay,
        Ok(done) if done.appended == 0 => AppendResult::Deduplicated,
        Ok(_) => AppendResult::Committed,
        Err(CommandError::Refused(_)) => AppendResult::Refused,
        Err(CommandError::Ledger(error)) => match error {
            LedgerError::Overloaded => AppendResult::Overloaded,
            LedgerError::Contended
            | LedgerError::VersionMismatch { .. }
            | LedgerError::IdempotencyKeyReused => AppendResult::Conflict,
            LedgerError::OtherKind => AppendResult::Refused,
            LedgerError::Storage(_)
            | LedgerError::Undecodable { .. }
            | LedgerError::Unopenable
            | LedgerError::NoRandomness
            | LedgerError::TooManyErasures
            | LedgerError::StillRead
            | LedgerError::OtherStream
            | LedgerError::Stopped => AppendResult::Unavailable,
        },
    }
}
