//! Traces on their way to a collector.
//!
//! Spans wait in a bounded queue; what doesn't fit is dropped. A thread of its own sends
//! them, so a slow or absent collector delays nobody.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, Protocol, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, SdkTracer, SdkTracerProvider, SpanData, SpanExporter,
};
use tokio::runtime::Runtime;

use super::{ErrorChain, TelemetryError};
use crate::config::{OtlpConfig, OtlpProtocol};

/// The running export.
#[derive(Debug)]
pub(super) struct Traces {
    provider: SdkTracerProvider,
    /// The gRPC client's own runtime. It outlives the service's, so that the last spans
    /// can be sent when that one is gone. Always set but in `drop`.
    runtime: Option<Runtime>,
}

impl Traces {
    pub(super) fn start(otlp: &OtlpConfig, service_name: &str) -> Result<Self, TelemetryError> {
        let runtime = match otlp.protocol {
            OtlpProtocol::Grpc => Some(grpc_runtime()?),
            OtlpProtocol::HttpProtobuf => None,
        };
        let entered = runtime.as_ref().map(Runtime::enter);
        let exporter = exporter(otlp).map_err(|source| TelemetryError::Exporter {
            endpoint: otlp.endpoint.clone(),
            source,
        })?;
        drop(entered);

        let resource = Resource::builder()
            .with_service_name(service_name.to_owned())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let processor = BatchSpanProcessor::builder(Patient::new(exporter)).build();
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_span_processor(processor)
            .build();

        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        Ok(Self { provider, runtime })
    }

    pub(super) fn tracer(&self) -> SdkTracer {
        self.provider.tracer(env!("CARGO_PKG_NAME"))
    }

    pub(super) fn shutdown(self, timeout: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(timeout) {
            tracing::warn!(error = %ErrorChain(&error), "the last traces were not exported");
        }
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A plain drop waits for the runtime, and panics within another one.
            runtime.shutdown_background();
        }
    }
}

fn grpc_runtime() -> Result<Runtime, TelemetryError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("otlp")
        .enable_all()
        .build()
        .map_err(|source| TelemetryError::Thread { source })
}

fn exporter(otlp: &OtlpConfig) -> Result<opentelemetry_otlp::SpanExporter, ExporterBuildError> {
    let builder = opentelemetry_otlp::SpanExporter::builder();
    match otlp.protocol {
        OtlpProtocol::Grpc => builder.with_tonic().with_endpoint(&otlp.endpoint).build(),
        OtlpProtocol::HttpProtobuf => builder
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&otlp.endpoint)
            .build(),
    }
}

/// Least time between two warnings about a collector that can't be reached.
const WARNING_INTERVAL: Duration = Duration::from_mins(5);

/// An exporter whose failures are reported once in a while.
///
/// The SDK logs an error for every batch that fails, every few seconds for as long as
/// the collector is down; so it is told that all went well.
#[derive(Debug)]
struct Patient<E> {
    exporter: E,
    outage: Mutex<Option<Outage>>,
}

/// A time in which no batch went through.
#[derive(Debug)]
struct Outage {
    spans_lost: usize,
    warned_at: Instant,
}

impl<E> Patient<E> {
    fn new(exporter: E) -> Self {
        Self {
            exporter,
            outage: Mutex::new(None),
        }
    }

    fn outage(&self) -> MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn succeeded(&self) {
        if let Some(outage) = self.outage().take() {
            let spans_lost = outage.spans_lost;
            tracing::info!(spans_lost, "traces reach their collector again");
        }
    }

    fn failed(&self, spans: usize, error: &dyn std::error::Error) {
        let mut outage = self.outage();
        let spans_lost = spans + outage.as_ref().map_or(0, |outage| outage.spans_lost);
        let warned_at = match outage.as_ref() {
            Some(outage) if outage.warned_at.elapsed() < WARNING_INTERVAL => outage.warned_at,
            _ => {
                let error = ErrorChain(error);
                tracing::warn!(%error, spans_lost, "traces do not reach their collector");
                Instant::now()
            }
        };
        *outage = Some(Outage {
            spans_lost,
            warned_at,
        });
    }
}

impl<E: SpanExporter> SpanExporter for Patient<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        match self.exporter.export(batch).await {
            Ok(()) => self.succeeded(),
            Err(error) => self.failed(spans, &error),
        }
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::error::OTelSdkError;
    use tracing::dispatcher::with_default;

    use super::*;
    use crate::telemetry::tests::Lines;

    /// Fails while `is_down`.
    #[derive(Debug)]
    struct Collector {
        is_down: Mutex<bool>,
    }

    impl SpanExporter for Collector {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            if *self.is_down.lock().unwrap() {
                return Err(OTelSdkError::InternalFailure("refused".to_owned()));
            }
            Ok(())
        }
    }

    fn log_of(work: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .finish();
        with_default(&subscriber.into(), work);

        lines.text()
    }

    fn export(exporter: &Patient<Collector>) {
        let result = futures_util::FutureExt::now_or_never(exporter.export(Vec::new()));

        assert!(matches!(result, Some(Ok(()))));
    }

    #[test]
    fn an_outage_is_told_once_and_so_is_its_end() {
        let exporter = Patient::new(Collector {
            is_down: Mutex::new(true),
        });

        let log = log_of(|| {
            (0..100).for_each(|_| export(&exporter));
            *exporter.exporter.is_down.lock().unwrap() = false;
            (0..100).for_each(|_| export(&exporter));
        });

        let lines: Vec<_> = log.lines().collect();
        assert_eq!(lines.len(), 2, "{log}");
        assert!(lines[0].contains("do not reach") && lines[0].contains("refused"));
        assert!(lines[1].contains("reach their collector again"));
    }
}
