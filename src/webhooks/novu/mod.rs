//! What Novu tells us: is it really Novu, and what does it say?
//!
//! Pure and synchronous. [`signature`] decides whether the raw bytes were signed with one of a
//! source's secrets, not long ago; only then does [`mapping`] read them and say which fact they
//! report. Where that fact goes, and what happens to a body that can't be mapped, is the
//! caller's business. Everything here may be called any number of times: the same bytes give
//! the same answer, and no clock is read.
//!
//! `wire.rs` holds Novu's shapes, `message.rs` and `change.rs` the two families of events.

pub mod mapping;
pub mod signature;

mod change;
mod message;
mod wire;

#[cfg(test)]
mod recorded;
#[cfg(test)]
mod samples;
