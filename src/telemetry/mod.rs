//! What the service tells about itself: log lines, traces and metrics.
//!
//! `app` calls [`init`] once, before anything is logged, and [`Telemetry::shutdown`]
//! last. Log lines go to stderr, because stdout belongs to the command line's answers.
//! Traces are exported when an OTLP endpoint is set, and only then are there threads for
//! it. A collector that is down costs a bounded queue of spans and a rare warning.
//! Metrics are counted in [`Metrics`], whoever reads them.

mod errors;
mod export;
mod fields;
mod logs;
mod metrics;
mod trace_parent;

use std::time::Duration;

use tracing::Dispatch;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, filter::LevelFilter};

use crate::config::TelemetryConfig;

pub use errors::ErrorChain;
pub use metrics::{
    AppendOutcome, AuthFailure, Cache, HttpInFlight, LiveStream, Metrics, MetricsError,
    ProjectionPlace, WebhookOutcome,
};
pub use trace_parent::{
    InvalidTraceParent, TraceParent, current_trace_parent, set_parent_from, traceparent_for_event,
};

use export::Traces;

/// Telemetry could not be set up; the service must not start half blind.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The setting `log_level` holds something that is no directive.
    #[error("log_level `{directives}` is not valid")]
    LogLevel {
        directives: String,
        source: tracing_subscriber::filter::ParseError,
    },
    /// An `OTEL_*` variable holds something the exporter can't work with.
    #[error("traces cannot be exported to `{endpoint}`")]
    Exporter {
        endpoint: String,
        source: opentelemetry_otlp::ExporterBuildError,
    },
    /// The system gives no thread for the export over gRPC.
    #[error("the thread that exports traces did not start")]
    Thread { source: std::io::Error },
    /// `init` ran twice in one process.
    #[error("telemetry is set up already")]
    Repeated { source: TryInitError },
}

/// Running telemetry. Traces stop being exported when it is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the export of traces"]
pub struct Telemetry {
    traces: Option<Traces>,
}

/// Sets up logs and traces for this process.
///
/// # Errors
///
/// [`TelemetryError`]; nothing has been installed then. A second call is
/// [`TelemetryError::Repeated`].
pub fn init(config: &TelemetryConfig) -> Result<Telemetry, TelemetryError> {
    let (dispatch, telemetry) = build(config, std::io::stderr, logs::is_colourful())?;
    dispatch
        .try_init()
        .map_err(|source| TelemetryError::Repeated { source })?;

    Ok(telemetry)
}

/// Everything but the installation for the whole process, which tests can't repeat.
fn build<W>(
    config: &TelemetryConfig,
    writer: W,
    is_colourful: bool,
) -> Result<(Dispatch, Telemetry), TelemetryError>
where
    W: for<'a> tracing_subscriber::fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = logs::layer(config, writer, is_colourful)?;
    let traces = config
        .otlp
        .as_ref()
        .map(|otlp| Traces::start(otlp, &config.service_name))
        .transpose()?;

    let spans = traces.as_ref().map(|traces| {
        tracing_opentelemetry::layer()
            .with_tracer(traces.tracer())
            .with_location(false)
            .with_threads(false)
            // A span's parent is the tracing span around it. Nothing here reads the other
            // library's idea of a current context, which futures that move between
            // threads can leave behind.
            .with_context_activation(false)
            .with_filter(own_spans())
    });
    let subscriber = Registry::default().with(spans).with(lines);

    Ok((Dispatch::new(subscriber), Telemetry { traces }))
}

/// Only what this crate says becomes a trace, whatever is logged. The exporter's own
/// HTTP client, for one, must not be traced: each export would cause the next.
fn own_spans() -> Targets {
    Targets::new().with_target(env!("CARGO_CRATE_NAME"), LevelFilter::INFO)
}

impl Telemetry {
    /// Hands over what is left to the collector. Blocks for `timeout` at most, and need
    /// not run within a runtime. What is logged afterwards is still written.
    pub fn shutdown(self, timeout: Duration) {
        if let Some(traces) = self.traces {
            traces.shutdown(timeout);
        }
    }
}

#[cfg(test)]
mod tests;
