//! The record's contract, through its front door. Every test runs in memory, on SQLite and on
//! PostgreSQL, unless it is about tables that are changed behind the ledger's back.
//!
//! A *process* here is a ledger with lanes and caches of its own; several share one storage.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that panics fails the test that called it"
)]

#[path = "../support/mod.rs"]
mod support;

mod ahead;
mod appending;
mod client;
mod crowds;
mod erasing;
mod erasure;
mod faulty;
mod following;
mod idempotency;
mod lanes;
mod neighbours;
mod opening;
mod outages;
mod properties;
mod sealing;
mod tampering;
mod versions;
