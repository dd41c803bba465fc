//! What the system says about a process.

use anyhow::{Context, Result};

/// Linux counts processor time in hundredths of a second, whatever the kernel's own ticks are.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time so far, in seconds: of all threads, in and outside the kernel.
pub fn cpu_seconds(id: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name, in brackets, may hold anything. Two fields on from it are 14 and 15 of proc(5).
    let (_, fields) = text.rsplit_once(')').context("no name")?;
    let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<f64>);
    let mut next = || ticks.next().context("too short")?.context("no number");
    Ok((next()? + next()?) / TICKS_PER_SECOND)
}

/// Resident memory at its highest so far.
pub fn peak_memory_mb(id: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: f64 = kilobytes.context("the system does not say")?.parse()?;
    Ok(kilobytes * 1024.0 / 1_000_000.0)
}
