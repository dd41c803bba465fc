//! The program: everything is in the library's `cli`.

use std::process::ExitCode;

/// Most of what is allocated here is small and short-lived, and freed on another thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    notification_ledger::cli::main()
}
