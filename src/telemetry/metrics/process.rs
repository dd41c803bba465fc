//! What the process tells about itself.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

/// What Prometheus clients in every language report about their process.
pub(super) fn observe(meter: &Meter) {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    meter
        .f64_gauge("process.start_time")
        .with_description("When the process started, since the epoch")
        .with_unit("s")
        .build()
        .record(since_epoch.unwrap_or_default().as_secs_f64(), &[]);
    meter
        .u64_gauge("ledger.build_info")
        .with_description("Always 1; the label says which build runs")
        .build()
        .record(1, &[KeyValue::new("version", env!("CARGO_PKG_VERSION"))]);
    meter
        .u64_observable_gauge("process.resident_memory")
        .with_description("Memory held in RAM")
        .with_unit("By")
        .with_callback(|observer| {
            if let Some(bytes) = resident_bytes() {
                observer.observe(bytes, &[]);
            }
        })
        .build();
}

/// From `/proc/self/status` rather than `statm`, which counts in pages of a size that
/// differs between machines. `None` where there is no such file.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;

    kib.checked_mul(1024)
}
