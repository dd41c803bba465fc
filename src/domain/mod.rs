//! The rules: what can happen to a notification, what may be asked of it, and what follows.
//!
//! Pure and synchronous. No clock, no randomness, no IO, no SQL, no HTTP: times and ids arrive
//! inside commands, private text leaves only through the [`sealing::Sealer`] it is handed. Of
//! the framework it knows the `cqrs-es` traits alone.
//!
//! `event.rs` says what can happen and `stored.rs` how that is written down; `notification.rs`
//! decides and remembers; `message.rs` sorts reports into messages, with `telling_apart.rs` for
//! the hard cases; `precedence.rs` judges between them, `retries.rs` knows what is tried again;
//! `facts.rs`, for one message, `state.rs` and `anomaly.rs` are what follows. `integration.rs` is
//! the small second aggregate, for provider-side changes that concern no single message, and
//! `subscriber.rs` the third, for erasures.
//!
//! Everything here may be called twice: the same events give the same state in every order.

#![warn(clippy::wildcard_enum_match_arm)]

pub mod anomaly;
pub mod event;
mod facts;
pub mod ids;
pub mod integration;
pub mod message;
pub mod notification;
pub mod precedence;
mod retries;
pub mod sealing;
pub mod state;
pub mod stored;
pub mod subscriber;
mod telling_apart;
mod text;
pub mod time;
