//! Time and ids: the only place that asks the operating system for either.
//!
//! Everything else is handed a [`Clock`] and an [`IdSource`], so that a test can say what time it
//! is and which ids come next.

use std::fmt;
use std::sync::Arc;

use crate::domain::time::Timestamp;

/// Says what time it is.
pub trait Clock: Send + Sync + fmt::Debug {
    fn now(&self) -> Timestamp;
}

/// Makes new ids.
pub trait IdSource: Send + Sync + fmt::Debug {
    /// A `UUIDv7` of the moment (RFC 9562 §5.7): ids sort roughly by time.
    fn time_ordered(&self) -> uuid::Uuid;
    /// A `UUIDv4`: tells nothing about when it was made.
    fn random(&self) -> uuid::Uuid;
}

/// Where a room gets its times and ids from.
#[derive(Clone, Debug)]
pub struct Surroundings {
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn IdSource>,
}

/// The machine's own clock and random numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Clock for System {
    #[expect(clippy::disallowed_methods, reason = "this is the substitute")]
    fn now(&self) -> Timestamp {
        Timestamp::from_micros_clamped(chrono::Utc::now().timestamp_micros())
    }
}

impl IdSource for System {
    #[expect(clippy::disallowed_methods, reason = "this is the substitute")]
    fn time_ordered(&self) -> uuid::Uuid {
        uuid::Uuid::now_v7()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the substitute")]
    fn random(&self) -> uuid::Uuid {
        uuid::Uuid::new_v4()
    }
}

impl Surroundings {
    /// The machine's own.
    pub fn system() -> Self {
        Self {
            clock: Arc::new(System),
            ids: Arc::new(System),
        }
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}
