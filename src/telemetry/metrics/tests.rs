//! Metrics as Prometheus reads them.

use super::*;

#[track_caller]
fn assert_has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(
            text.lines().any(|found| found == *line),
            "no `{line}` in\n{text}"
        );
    }
}

#[test]
fn requests_are_counted_and_timed_by_method_route_and_status() {
    let metrics = Metrics::new().unwrap();
    let duration = Duration::from_millis(2);

    metrics.http_request("GET", "/v1/events", 200, duration);
    metrics.http_request("GET", "/v1/events", 200, duration);
    metrics.http_request("BREW", "/v1/events", 405, duration);

    assert_has(
        &metrics.render(),
        &[
            "# TYPE ledger_http_requests_total counter",
            r#"ledger_http_requests_total{method="GET",route="/v1/events",status="200"} 2"#,
            r#"ledger_http_requests_total{method="OTHER",route="/v1/events",status="405"} 1"#,
            "# TYPE ledger_http_request_duration_seconds histogram",
            r#"ledger_http_request_duration_seconds_bucket{method="GET",route="/v1/events",status="200",le="0.001"} 0"#,
            r#"ledger_http_request_duration_seconds_bucket{method="GET",route="/v1/events",status="200",le="0.0025"} 2"#,
            r#"ledger_http_request_duration_seconds_count{method="GET",route="/v1/events",status="200"} 2"#,
        ],
    );
}

#[test]
fn a_request_is_in_flight_until_its_guard_is_dropped() {
    let metrics = Metrics::new().unwrap();

    let first = metrics.http_in_flight();
    let second = metrics.http_in_flight();
    assert_has(&metrics.render(), &["ledger_http_in_flight 2"]);

    drop((first, second));
    assert_has(&metrics.render(), &["ledger_http_in_flight 0"]);
}

#[test]
fn a_live_stream_is_open_until_its_guard_is_dropped() {
    let metrics = Metrics::new().unwrap();
    assert_has(&metrics.render(), &["ledger_live_streams 0"]);

    let stream = metrics.live_stream();
    assert_has(&metrics.render(), &["ledger_live_streams 1"]);

    drop(stream);
    assert_has(&metrics.render(), &["ledger_live_streams 0"]);
}

#[test]
fn batches_and_queues_are_kept_apart_by_lane() {
    let metrics = Metrics::new().unwrap();

    metrics.append_batch(0, 100, 120, 5000, Duration::from_millis(7));
    metrics.append_batch(1, 1, 1, 50, Duration::from_millis(1));
    metrics.queue_depth(0, 30, 4096);
    metrics.queue_depth(0, 3, 40);

    assert_has(
        &metrics.render(),
        &[
            r#"ledger_append_batch_commands_bucket{lane="0",le="64"} 0"#,
            r#"ledger_append_batch_commands_bucket{lane="0",le="128"} 1"#,
            r#"ledger_append_batch_events_sum{lane="0"} 120"#,
            r#"ledger_append_batch_duration_seconds_count{lane="1"} 1"#,
            r#"ledger_append_bytes_total{lane="0"} 5000"#,
            r#"ledger_queue_commands{lane="0"} 3"#,
            r#"ledger_queue_bytes{lane="0"} 40"#,
        ],
    );
}

#[test]
fn outcomes_are_counted_by_name() {
    let metrics = Metrics::new().unwrap();

    metrics.append_outcome(AppendOutcome::Committed, 5);
    metrics.events_appended("notification.sent", 4);
    metrics.webhook("novu", WebhookOutcome::RejectedStale);
    metrics.auth_failure(AuthFailure::Unknown);
    metrics.cache_lookup(Cache::DataKey, true);

    assert_has(
        &metrics.render(),
        &[
            r#"ledger_append_outcomes_total{outcome="committed"} 5"#,
            r#"ledger_events_appended_total{event_type="notification.sent"} 4"#,
            r#"ledger_webhooks_total{outcome="rejected_stale",provider="novu"} 1"#,
            r#"ledger_auth_failures_total{reason="unknown"} 1"#,
            r#"ledger_cache_lookups_total{cache="data_key",result="hit"} 1"#,
        ],
    );
}

#[test]
fn what_can_be_counted_starts_at_zero() {
    let text = Metrics::new().unwrap().render();

    for outcome in AppendOutcome::ALL {
        let label = outcome.label();
        let line = format!(r#"ledger_append_outcomes_total{{outcome="{label}"}} 0"#);
        assert_has(&text, &[&line]);
    }
    assert_has(
        &text,
        &[
            r#"ledger_cache_lookups_total{cache="stream",result="miss"} 0"#,
            r#"ledger_auth_failures_total{reason="missing"} 0"#,
            "ledger_http_in_flight 0",
        ],
    );
}

#[test]
fn the_process_tells_its_version_its_start_and_its_memory() {
    let text = Metrics::new().unwrap().render();
    let version = env!("CARGO_PKG_VERSION");
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    };

    assert_has(
        &text,
        &[&format!(r#"ledger_build_info{{version="{version}"}} 1"#)],
    );
    assert!(value("process_start_time_seconds ") > 1.7e9);
    #[cfg(target_os = "linux")]
    assert!(value("process_resident_memory_bytes ") > 1e6);
}

#[test]
fn clones_count_together_and_separate_sets_apart() {
    let metrics = Metrics::new().unwrap();
    let other = Metrics::new().unwrap();

    metrics.clone().auth_failure(AuthFailure::Missing);

    let line = [r#"ledger_auth_failures_total{reason="missing"} 1"#];
    assert_has(&metrics.render(), &line);
    assert!(!other.render().contains(line[0]));
}

#[test]
fn every_family_is_described_once() {
    let metrics = Metrics::new().unwrap();
    metrics.http_request("GET", "/a", 200, Duration::ZERO);
    metrics.http_request("GET", "/b", 200, Duration::ZERO);
    let text = metrics.render();

    let described: Vec<_> = text.lines().filter(|l| l.starts_with("# TYPE")).collect();
    let unique: std::collections::BTreeSet<_> = described.iter().collect();
    assert_eq!(described.len(), unique.len());
    assert!(text.ends_with('\n'));
}
