//! Inbound callbacks of providers.
pub mod novu;
