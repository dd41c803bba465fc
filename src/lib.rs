//! The notification ledger: see `README.md` and `ARCHITECTURE.md`.

pub mod api;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
mod connections;
pub mod domain;
pub mod json;
pub mod ledger;
pub mod problem;
pub mod projections;
pub mod tasks;
pub mod telemetry;
pub mod webhooks;
