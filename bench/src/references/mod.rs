//! What the ledger is measured against: each does a part of its work, and as little else as can be.
//!
//! Those that answer HTTP are servers, started as a process of their own like the ledger ([`serve`]).
//! They take the same bytes on the same paths. The others are called directly ([`raw`], and
//! [`stock`] without a server in front), or leave everything to the database ([`rows`]).

pub mod group;
pub mod raw;
pub mod request;
pub mod rows;
pub mod serve;
pub mod stock;
