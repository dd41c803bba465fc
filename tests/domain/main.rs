//! The rules, through their front door: given what happened, when something is asked or
//! reported, then events or a refusal.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that panics fails the test that called it"
)]

mod any_order;
mod commands;
mod facts;
mod given;
mod judgement;
mod stored_events;
