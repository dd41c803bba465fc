//! The values that labels take: closed lists, so that callers can't add series.

use opentelemetry::KeyValue;

/// What became of one command that was handed to the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendOutcome {
    Committed,
    /// Another writer was first.
    Conflict,
    /// Answered from the first call with the same idempotency key.
    IdempotentReplay,
    /// The fact was on record already.
    Deduplicated,
    /// The rules forbid it.
    Refused,
    /// The lane's queue was full.
    Overloaded,
    /// The database did not answer, or refused.
    Unavailable,
}

impl AppendOutcome {
    /// In the order they are declared in.
    pub(super) const ALL: [Self; 7] = [
        Self::Committed,
        Self::Conflict,
        Self::IdempotentReplay,
        Self::Deduplicated,
        Self::Refused,
        Self::Overloaded,
        Self::Unavailable,
    ];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Conflict => "conflict",
            Self::IdempotentReplay => "idempotent_replay",
            Self::Deduplicated => "deduplicated",
            Self::Refused => "refused",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What became of one webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookOutcome {
    Appended,
    Duplicate,
    Quarantined,
    Ignored,
    RejectedSignature,
    RejectedStale,
    RejectedTooLarge,
    /// No such source, or it is paused.
    RejectedSource,
    /// Authentic, but it could not be made durable; the provider will try again.
    Unavailable,
}

impl WebhookOutcome {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Appended => "appended",
            Self::Duplicate => "duplicate",
            Self::Quarantined => "quarantined",
            Self::Ignored => "ignored",
            Self::RejectedSignature => "rejected_signature",
            Self::RejectedStale => "rejected_stale",
            Self::RejectedTooLarge => "rejected_too_large",
            Self::RejectedSource => "rejected_source",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Why a request was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthFailure {
    /// No `Authorization` header.
    Missing,
    /// It holds no bearer key.
    Malformed,
    /// No key like it, or it was revoked.
    Unknown,
    /// A good key without the scope, or of another tenant.
    Forbidden,
}

impl AuthFailure {
    pub(super) const ALL: [Self; 4] = [
        Self::Missing,
        Self::Malformed,
        Self::Unknown,
        Self::Forbidden,
    ];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Forbidden => "forbidden",
        }
    }
}

/// A cache whose use is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// Recently used notifications.
    Stream,
    /// Unwrapped data keys.
    DataKey,
    /// Checked API keys.
    Auth,
}

impl Cache {
    /// In the order they are declared in.
    pub(super) const ALL: [Self; 3] = [Self::Stream, Self::DataKey, Self::Auth];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::DataKey => "data_key",
            Self::Auth => "auth",
        }
    }
}

pub(super) fn lane_label(lane: u16) -> KeyValue {
    KeyValue::new("lane", i64::from(lane))
}

/// Callers can send any word as a method; each would be a series of its own.
pub(super) fn known_method(method: &str) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "POST", "PATCH", "PUT", "DELETE", "HEAD", "OPTIONS"];

    KNOWN
        .into_iter()
        .find(|known| *known == method)
        .unwrap_or("OTHER")
}
