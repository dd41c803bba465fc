//! How log lines look and which ones are written.

use std::io::IsTerminal;

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

use super::TelemetryError;
use super::fields::JsonObject;
use crate::config::{LogFormat, TelemetryConfig};

/// Writes one line per event: time in UTC, level, message, fields, and the fields of the
/// spans around it, such as the request's id. JSON puts the event's own fields on top
/// and the spans, outermost first, into `spans`.
pub(super) fn layer<S, W>(
    config: &TelemetryConfig,
    writer: W,
    is_colourful: bool,
) -> Result<Box<dyn Layer<S> + Send + Sync>, TelemetryError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // A line that can't be written is lost. Left on, the formatter would report that on
    // stderr, and panic where stderr is what can't be written.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .log_internal_errors(false);

    let filter = filter(&config.log_level)?;
    Ok(match config.log_format {
        LogFormat::Text => lines.with_ansi(is_colourful).with_filter(filter).boxed(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(true)
            .fmt_fields(JsonObject)
            .with_filter(filter)
            .boxed(),
    })
}

/// What the exporter says at every failed attempt. The warning of `export.rs` says it
/// once.
const EXPORTER: &str = "opentelemetry-otlp=off";

fn filter(directives: &str) -> Result<EnvFilter, TelemetryError> {
    // Whoever names the exporter wants to hear it.
    let directives = if directives.contains("opentelemetry") {
        directives.to_owned()
    } else {
        format!("{directives},{EXPORTER}")
    };
    EnvFilter::builder()
        .parse(&directives)
        .map_err(|source| TelemetryError::LogLevel { directives, source })
}

/// Colour belongs on a terminal, unless its owner says no (<https://no-color.org>).
pub(super) fn is_colourful() -> bool {
    let is_refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());

    std::io::stderr().is_terminal() && !is_refused
}
