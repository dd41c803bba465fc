//! The program as its users run it: arguments, settings and signals in; answers, exit statuses and
//! a running service out.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that panics fails the test that called it"
)]

mod administration;
mod demo;
mod import;
mod place;
mod projections;
mod replay;
mod service;
mod settings;
mod verify;
