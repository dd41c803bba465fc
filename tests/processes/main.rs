//! What the ledger promises, kept by real processes under real trouble: killed, stopped, cut off
//! from their database, flooded and left hanging.
//!
//! Every test starts the program itself and talks HTTP to it. Most let a crowd of `clients` loose,
//! make trouble, and then `audit` the ledger: each answered event is there exactly once, where the
//! answer said, and nothing else is.
//!
//! Chance comes from a seed, which a failing test prints; `TEST_SEED` repeats it. Nothing can
//! repeat the timing of several processes, so a seed makes a failure likelier, not certain.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that panics fails the test that called it"
)]

mod audit;
mod clients;
mod database;
mod dice;
mod http;
mod place;
mod raw;
mod wait;
mod window;

mod crash;
mod erasure;
mod full;
mod idle;
mod live;
mod outage;
mod overload;
mod shutdown;
mod stuck;
mod together;
