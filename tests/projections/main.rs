//! The read tables, on SQLite and PostgreSQL: whatever happens to events, processes and databases,
//! they end as if every event had been read once, in order, by somebody who had all the time.
//!
//! A *process* here is a ledger with lanes and caches of its own, and projections that follow it;
//! several share one database. Real processes are in `killed`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that panics fails the test that called it"
)]

#[path = "../ledger/client.rs"]
#[expect(dead_code, reason = "made for the record's own tests")]
mod client;
#[path = "../support/mod.rs"]
#[expect(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "made for the record's own tests"
)]
mod support;

// Real processes, and a crowd that uses them.
#[path = "../processes/clients.rs"]
#[expect(dead_code, reason = "made for the tests of processes")]
mod clients;
#[path = "../processes/database.rs"]
#[expect(dead_code, reason = "made for the tests of processes")]
mod database;
#[path = "../processes/dice.rs"]
mod dice;
#[path = "../processes/http.rs"]
#[expect(dead_code, reason = "made for the tests of processes")]
mod http;
#[path = "../processes/place.rs"]
#[expect(dead_code, reason = "made for the tests of processes")]
mod place;
#[path = "../processes/wait.rs"]
mod wait;

mod disturbance;
mod following;
mod full;
mod hands;
mod interrupted;
mod killed;
mod large;
mod printed;
mod process;
mod ranges;
mod rebuilt;
mod remembered;
mod rules;
mod starting;
mod storm;
mod tables;
mod tail;
mod trouble;
mod versions;
