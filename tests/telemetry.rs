//! Telemetry as a process sets it up: once, and for everyone.

use std::time::Duration;

use notification_ledger::config::{LogFormat, TelemetryConfig};
use notification_ledger::telemetry::{TelemetryError, init};

#[test]
fn a_process_sets_telemetry_up_once() {
    let config = TelemetryConfig {
        log_format: LogFormat::Json,
        log_level: "off".to_owned(),
        service_name: "ledger-under-test".to_owned(),
        otlp: None,
    };

    let first = init(&config).unwrap();
    let second = init(&config);

    assert!(matches!(second, Err(TelemetryError::Repeated { .. })));
    first.shutdown(Duration::from_secs(1));
}
