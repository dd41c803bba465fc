//! Logs and traces through their front door, against a collector in this process.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use serde_json::Value;
use tracing::dispatcher::with_default;

use super::*;
use crate::config::{LogFormat, OtlpConfig, OtlpProtocol};

const INCOMING: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TIMEOUT: Duration = Duration::from_secs(10);

/// Collects what is logged.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn config(log_format: LogFormat, otlp: Option<OtlpConfig>) -> TelemetryConfig {
    TelemetryConfig {
        log_format,
        log_level: "info".to_owned(),
        service_name: "ledger-under-test".to_owned(),
        otlp,
    }
}

fn over_http(port: u16) -> OtlpConfig {
    OtlpConfig {
        protocol: OtlpProtocol::HttpProtobuf,
        endpoint: format!("http://127.0.0.1:{port}/v1/traces"),
    }
}

fn start(config: &TelemetryConfig) -> (Dispatch, Telemetry, Lines) {
    let lines = Lines::default();
    let writer = lines.clone();
    let (dispatch, telemetry) = build(config, move || writer.clone(), false).unwrap();

    (dispatch, telemetry, lines)
}

/// A collector that answers every request with success and hands out its bytes.
fn collector() -> (u16, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, requests) = channel();

    thread::spawn(move || {
        for stream in listener.incoming() {
            let request = answer(stream.unwrap());
            if sender.send(request).is_err() {
                return;
            }
        }
    });
    (port, requests)
}

fn answer(mut stream: TcpStream) -> Vec<u8> {
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    while !is_whole(&request) {
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0, "the request ends early");
        request.extend_from_slice(&piece[..read]);
    }
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .unwrap();
    request
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, _)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    let end_of_head = request.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;

    request.len() >= end_of_head + length
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// A port that nobody listens on.
fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn json_lines_hold_the_fields_of_the_event_and_of_the_spans_around_it() {
    let (dispatch, _telemetry, lines) = start(&config(LogFormat::Json, None));

    with_default(&dispatch, || {
        let span = tracing::info_span!("request", request.id = "r-1");
        let _entered = span.enter();
        tracing::info!(duration_ms = 5, "answered");
    });

    let line: Value = serde_json::from_str(&lines.text()).unwrap();
    assert_eq!(line["message"], "answered");
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["duration_ms"], 5);
    assert_eq!(line["spans"][0]["name"], "request");
    assert_eq!(line["spans"][0]["request.id"], "r-1");
    let timestamp = line["timestamp"].as_str().unwrap();
    assert!(
        timestamp.ends_with('Z') && timestamp.contains('T'),
        "{timestamp}"
    );
    chrono::DateTime::parse_from_rfc3339(timestamp).unwrap();
}

#[test]
fn json_lines_hold_whatever_a_span_was_told_and_when() {
    let (dispatch, _telemetry, lines) = start(&config(LogFormat::Json, None));
    let strange = "a \"quoted\"\\path\n\u{1}\t\u{fc}";

    with_default(&dispatch, || {
        let empty = tracing::info_span!("empty", late = tracing::field::Empty);
        empty.record("late", strange);
        let span = tracing::info_span!(
            parent: &empty,
            "full",
            text = strange,
            shown = %strange,
            debug = ?Some(1),
            whole = -5,
            much = u64::MAX,
            part = 0.5,
            none = f64::NAN,
            sure = true,
            late = tracing::field::Empty,
            later = tracing::field::Empty,
        );
        span.record("late", 1);
        span.record("later", tracing::field::display("two"));
        let _entered = span.enter();
        tracing::info!("told");
    });

    let line: Value = serde_json::from_str(&lines.text()).unwrap();
    assert_eq!(
        line["spans"],
        serde_json::json!([
            { "name": "empty", "late": strange },
            {
                "name": "full",
                "text": strange,
                "shown": strange,
                "debug": "Some(1)",
                "whole": -5,
                "much": u64::MAX,
                "part": 0.5,
                "none": "NaN",
                "sure": true,
                "late": 1,
                "later": "two",
            },
        ])
    );
}

#[test]
fn text_lines_are_plain_and_follow_the_level() {
    let (dispatch, _telemetry, lines) = start(&config(LogFormat::Text, None));

    with_default(&dispatch, || {
        tracing::debug!("too quiet");
        tracing::warn!(notification.id = "n-1", "loud enough");
    });

    let text = lines.text();
    assert!(text.contains("WARN") && text.contains("loud enough notification.id=\"n-1\""));
    assert!(!text.contains("too quiet"));
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn directives_that_cannot_be_read_are_an_error() {
    let mut config = config(LogFormat::Text, None);
    config.log_level = "sqlx=loud".to_owned();

    let error = build(&config, std::io::sink, false).unwrap_err();

    assert!(matches!(error, TelemetryError::LogLevel { .. }), "{error}");
}

#[test]
fn a_span_reaches_the_collector_as_part_of_its_callers_trace() {
    let (port, requests) = collector();
    let (dispatch, telemetry, lines) = start(&config(LogFormat::Json, Some(over_http(port))));
    let parent = TraceParent::parse(INCOMING).unwrap();

    let stored = with_default(&dispatch, || {
        let span = tracing::info_span!("append_events");
        set_parent_from(&span, &parent, Some("vendor=1"));
        let _entered = span.enter();
        traceparent_for_event(Some(&parent)).unwrap()
    });
    telemetry.shutdown(TIMEOUT);

    let request = requests.recv_timeout(TIMEOUT).unwrap();
    assert!(request.starts_with(b"POST /v1/traces HTTP/1.1"));
    assert!(contains(&request, b"append_events"));
    assert!(contains(&request, b"ledger-under-test"));
    assert!(contains(&request, b"vendor=1"));
    // The trace goes on, under a span of our own.
    let stored = TraceParent::parse(&stored).unwrap();
    assert_eq!(stored.trace_id(), parent.trace_id());
    assert_ne!(stored, parent);
    assert_eq!(lines.text(), "");
}

#[test]
fn a_span_within_another_is_its_child_and_what_others_say_is_not_exported() {
    let (port, requests) = collector();
    let (dispatch, telemetry, _lines) = start(&config(LogFormat::Json, Some(over_http(port))));

    let outer = with_default(&dispatch, || {
        let outer = tracing::info_span!("serve_request");
        let _outer = outer.enter();
        let place = current_trace_parent().unwrap();
        tracing::info_span!("append_events").in_scope(|| {
            assert_eq!(current_trace_parent().unwrap().trace_id(), place.trace_id());
        });
        tracing::info_span!(target: "hyper", "send_frame").in_scope(|| ());
        place
    });
    telemetry.shutdown(TIMEOUT);

    let request = requests.recv_timeout(TIMEOUT).unwrap();
    let text = outer.to_string();
    let digits = text.split('-').nth(2).unwrap();
    let span_id = u64::from_str_radix(digits, 16).unwrap().to_be_bytes();
    let mentions = request.windows(8).filter(|w| *w == span_id).count();
    assert_eq!(mentions, 2, "once as itself, once as a parent");
    assert!(!contains(&request, b"send_frame"));
}

#[test]
fn a_span_that_runs_already_can_still_join_its_callers_trace() {
    let (port, _requests) = collector();
    let (dispatch, _telemetry, _lines) = start(&config(LogFormat::Json, Some(over_http(port))));
    let parent = TraceParent::parse(INCOMING).unwrap();

    with_default(&dispatch, || {
        let span = tracing::info_span!("serve_request");
        let _entered = span.enter();
        set_parent_from(&tracing::Span::current(), &parent, None);

        let place = current_trace_parent().unwrap();
        assert_eq!(place.trace_id(), parent.trace_id());
    });
}

#[test]
fn a_quiet_log_does_not_quieten_the_traces() {
    let (port, requests) = collector();
    let mut config = config(LogFormat::Json, Some(over_http(port)));
    config.log_level = "error".to_owned();
    let (dispatch, telemetry, _lines) = start(&config);

    with_default(&dispatch, || {
        tracing::info_span!("append_events").in_scope(|| ());
    });
    telemetry.shutdown(TIMEOUT);

    assert!(contains(
        &requests.recv_timeout(TIMEOUT).unwrap(),
        b"append_events"
    ));
}

#[test]
fn an_absent_collector_neither_stops_nor_delays_the_service_nor_floods_the_log() {
    let (dispatch, telemetry, lines) =
        start(&config(LogFormat::Json, Some(over_http(closed_port()))));

    with_default(&dispatch, || {
        let started = Instant::now();
        for _ in 0..10_000 {
            tracing::info_span!("append_events").in_scope(|| ());
        }
        assert!(started.elapsed() < TIMEOUT);

        let started = Instant::now();
        telemetry.shutdown(Duration::from_millis(200));
        assert!(started.elapsed() < Duration::from_secs(5));
    });

    let said = lines.text().lines().count();
    assert!(said < 10, "{}", lines.text());
}

#[test]
fn export_over_grpc_starts_and_stops_inside_and_outside_of_a_runtime() {
    let otlp = OtlpConfig {
        protocol: OtlpProtocol::Grpc,
        endpoint: format!("http://127.0.0.1:{}", closed_port()),
    };
    let config = config(LogFormat::Json, Some(otlp));
    let run = || {
        let (dispatch, telemetry, _lines) = start(&config);
        with_default(&dispatch, || {
            tracing::info_span!("append_events").in_scope(|| ());
        });
        telemetry.shutdown(Duration::from_millis(200));
    };

    run();
    tokio::runtime::Runtime::new()
        .unwrap()
        .block_on(async { run() });
}
