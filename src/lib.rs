//! The notification ledger: see `README.md` and `ARCHITECTURE.md`.

pub mod domain;
