//! The program: everything is in the library's `cli`.

use std::process::ExitCode;

/// Most of what is allocated here is small and short-lived, and freed on another thread. This one hands
/// out again what was freed last, which the processor still has near.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    notification_ledger::cli::main()
}
