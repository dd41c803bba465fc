//! The notification ledger: see `README.md` and `ARCHITECTURE.md`.

pub mod clock;
pub mod config;
pub mod domain;
pub mod ledger;
pub mod tasks;
pub mod telemetry;
pub mod webhooks;
