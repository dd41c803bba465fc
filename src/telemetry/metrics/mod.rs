//! Everything the service counts, as typed handles.
//!
//! Names are built here and nowhere else, so a metric can't be spelt in two ways, and
//! labels only take values from a closed list or from the router: their number is
//! bounded whatever callers send. Recording allocates nothing but the route's text.

mod bound;
mod labels;
mod process;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{
    BoundCounter, Counter, Gauge, Histogram, Meter, MeterProvider, UpDownCounter,
};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Registry, TextEncoder};

use super::ErrorChain;
use bound::{Bound, HttpInstruments, HttpKind, KeptHttpKind, QueueInstruments};
use labels::{known_method, lane_label};

pub use labels::{AppendOutcome, AuthFailure, Cache, WebhookOutcome};

/// The service's metrics. Cheap to clone: all clones count into the same place.
#[derive(Debug, Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

/// The exporter for Prometheus could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("metrics could not be set up")]
pub struct MetricsError {
    source: opentelemetry_sdk::error::OTelSdkError,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    /// Instruments fall silent when it is dropped.
    _provider: SdkMeterProvider,
    http_requests: Counter<u64>,
    http_request_duration: Histogram<f64>,
    http: Bound<KeptHttpKind, HttpInstruments>,
    http_in_flight: UpDownCounter<i64>,
    live_streams: UpDownCounter<i64>,
    append_duration: Histogram<f64>,
    append_commands: Histogram<u64>,
    append_events: Histogram<u64>,
    append_bytes: Counter<u64>,
    /// In the order of [`AppendOutcome::ALL`].
    append_outcomes: [BoundCounter<u64>; AppendOutcome::ALL.len()],
    events: Counter<u64>,
    queue_commands: Gauge<u64>,
    queue_bytes: Gauge<u64>,
    queues: Bound<u16, QueueInstruments>,
    /// Misses and hits, in the order of [`Cache::ALL`].
    cache_lookups: [[BoundCounter<u64>; 2]; Cache::ALL.len()],
    webhooks: Counter<u64>,
    auth_failures: Counter<u64>,
    projection_events: Counter<u64>,
    projection_position: Gauge<i64>,
    projection_lag: Gauge<i64>,
    projection_stopped: Gauge<u64>,
    projection_stops: Counter<u64>,
    rebuild_done: Gauge<i64>,
    rebuild_total: Gauge<i64>,
}

/// How far a projection has come in a partition.
#[derive(Debug, Clone, Copy)]
pub struct ProjectionPlace {
    pub projection: &'static str,
    pub partition: i16,
    pub position: i64,
    /// Events it has not read yet.
    pub lag: i64,
    /// It can't go on by itself.
    pub stopped: bool,
}

/// One request being served; counted until it is dropped, so a caller who hangs up is
/// counted out as well.
#[derive(Debug)]
#[must_use = "the request counts as served once this is dropped"]
pub struct HttpInFlight(UpDownCounter<i64>);

impl Drop for HttpInFlight {
    fn drop(&mut self) {
        self.0.add(-1, &[]);
    }
}

/// One open live stream; counted until it is dropped.
#[derive(Debug)]
#[must_use = "the stream counts as closed once this is dropped"]
pub struct LiveStream(UpDownCounter<i64>);

impl Drop for LiveStream {
    fn drop(&mut self) {
        self.0.add(-1, &[]);
    }
}

/// Seconds. From a read out of memory to the longest a caller waits before giving up.
const LATENCY_BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Commands or events in one batch: group commit grows by doubling under load.
const BATCH_BUCKETS: [f64; 13] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0,
];

impl Metrics {
    /// Makes a set of metrics of its own: two of them share nothing.
    ///
    /// # Errors
    ///
    /// [`MetricsError`] if the exporter can't be registered.
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .without_target_info()
            .scope_info_enabled(false)
            .build()
            .map_err(|source| MetricsError { source })?;
        let provider = SdkMeterProvider::builder().with_reader(exporter).build();
        let meter = provider.meter(env!("CARGO_PKG_NAME"));

        process::observe(&meter);
        let metrics = Self {
            inner: Arc::new(Inner::new(registry, provider, &meter)),
        };
        metrics.start_at_zero();
        Ok(metrics)
    }

    /// One answered request. `route` is the router's pattern, never the path itself.
    pub fn http_request(&self, method: &str, route: &str, status: u16, duration: Duration) {
        let inner = &self.inner;
        let kind = HttpKind {
            method: known_method(method),
            route,
            status,
        };
        let bind = || {
            let labels = [
                KeyValue::new("method", kind.method),
                KeyValue::new("route", route.to_owned()),
                KeyValue::new("status", i64::from(status)),
            ];
            HttpInstruments {
                requests: inner.http_requests.bind(&labels),
                duration: inner.http_request_duration.bind(&labels),
            }
        };
        inner.http.with(kind, bind, |instruments| {
            instruments.requests.add(1);
            instruments.duration.record(duration.as_secs_f64());
        });
    }

    /// Counts a request as being served until the answer is dropped.
    pub fn http_in_flight(&self) -> HttpInFlight {
        self.inner.http_in_flight.add(1, &[]);
        HttpInFlight(self.inner.http_in_flight.clone())
    }

    /// Counts a live stream as open until the answer is dropped.
    pub fn live_stream(&self) -> LiveStream {
        self.inner.live_streams.add(1, &[]);
        LiveStream(self.inner.live_streams.clone())
    }

    /// One group commit: commands drained, events and bytes written, time from the first
    /// statement to the end of the commit.
    pub fn append_batch(
        &self,
        lane: u16,
        commands: usize,
        events: usize,
        bytes: usize,
        duration: Duration,
    ) {
        let inner = &self.inner;
        let lane = [lane_label(lane)];
        inner.append_duration.record(duration.as_secs_f64(), &lane);
        inner.append_commands.record(commands as u64, &lane);
        inner.append_events.record(events as u64, &lane);
        inner.append_bytes.add(bytes as u64, &lane);
    }

    pub fn append_outcome(&self, outcome: AppendOutcome, commands: u64) {
        self.inner.append_outcomes[outcome as usize].add(commands);
    }

    /// Events made durable, by stored name.
    pub fn events_appended(&self, event_type: &'static str, events: u64) {
        let labels = [KeyValue::new("event_type", event_type)];
        self.inner.events.add(events, &labels);
    }

    /// What waits for a lane now.
    pub fn queue_depth(&self, lane: u16, commands: usize, bytes: usize) {
        let inner = &self.inner;
        let bind = || {
            let lane = [lane_label(lane)];
            QueueInstruments {
                commands: inner.queue_commands.bind(&lane),
                bytes: inner.queue_bytes.bind(&lane),
            }
        };
        inner.queues.with(lane, bind, |instruments| {
            instruments.commands.record(commands as u64);
            instruments.bytes.record(bytes as u64);
        });
    }

    pub fn cache_lookup(&self, cache: Cache, is_hit: bool) {
        self.cache_lookups(cache, is_hit, 1);
    }

    /// One webhook of a provider, such as `novu`.
    pub fn webhook(&self, provider: &'static str, outcome: WebhookOutcome) {
        let labels = [
            KeyValue::new("provider", provider),
            KeyValue::new("outcome", outcome.label()),
        ];
        self.inner.webhooks.add(1, &labels);
    }

    pub fn auth_failure(&self, reason: AuthFailure) {
        let labels = [KeyValue::new("reason", reason.label())];
        self.inner.auth_failures.add(1, &labels);
    }

    /// Events that are now in a projection's tables.
    pub fn projection_events(&self, projection: &'static str, events: usize) {
        let labels = [KeyValue::new("projection", projection)];
        self.inner.projection_events.add(events as u64, &labels);
    }

    pub fn projection_place(&self, place: ProjectionPlace) {
        let labels = [
            KeyValue::new("projection", place.projection),
            KeyValue::new("partition", i64::from(place.partition)),
        ];
        let inner = &self.inner;
        inner.projection_position.record(place.position, &labels);
        inner.projection_lag.record(place.lag, &labels);
        let stopped = u64::from(place.stopped);
        inner.projection_stopped.record(stopped, &labels);
    }

    /// A projection stopped, and why.
    pub fn projection_stop(&self, projection: &'static str, reason: &'static str) {
        let labels = [
            KeyValue::new("projection", projection),
            KeyValue::new("reason", reason),
        ];
        self.inner.projection_stops.add(1, &labels);
    }

    /// How far the last rebuild that this process worked on has come, in events.
    pub fn rebuild(&self, projection: &'static str, done: i64, total: i64) {
        let labels = [KeyValue::new("projection", projection)];
        self.inner.rebuild_done.record(done, &labels);
        self.inner.rebuild_total.record(total, &labels);
    }

    /// Everything in the text format of Prometheus, version 0.0.4.
    pub fn render(&self) -> String {
        let families = self.inner.registry.gather();
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&families, &mut text) {
            tracing::error!(error = %ErrorChain(&error), "metrics could not be written");
        }
        text
    }

    fn cache_lookups(&self, cache: Cache, is_hit: bool, lookups: u64) {
        self.inner.cache_lookups[cache as usize][usize::from(is_hit)].add(lookups);
    }

    /// A series that first appears with its first event has no increase to see: alerts
    /// on a rate would miss it.
    fn start_at_zero(&self) {
        for outcome in AppendOutcome::ALL {
            self.append_outcome(outcome, 0);
        }
        for cache in Cache::ALL {
            self.cache_lookups(cache, true, 0);
            self.cache_lookups(cache, false, 0);
        }
        for reason in AuthFailure::ALL {
            let labels = [KeyValue::new("reason", reason.label())];
            self.inner.auth_failures.add(0, &labels);
        }
        self.inner.http_in_flight.add(0, &[]);
        self.inner.live_streams.add(0, &[]);
    }
}

impl Inner {
    /// The exporter appends units and `_total` to the names.
    fn new(registry: Registry, provider: SdkMeterProvider, meter: &Meter) -> Self {
        let counter = |name, help| meter.u64_counter(name).with_description(help).build();
        let gauge = |name, help| meter.u64_gauge(name).with_description(help);
        let seconds = |name, help| {
            meter
                .f64_histogram(name)
                .with_description(help)
                .with_unit("s")
                .with_boundaries(LATENCY_BUCKETS.to_vec())
                .build()
        };
        let sizes = |name, help| {
            meter
                .u64_histogram(name)
                .with_description(help)
                .with_boundaries(BATCH_BUCKETS.to_vec())
                .build()
        };
        let append_outcomes = counter("ledger.append.outcomes", "Commands by what became of them");
        let cache_lookups = counter("ledger.cache.lookups", "Cache look-ups by result");

        Self {
            http_requests: counter("ledger.http.requests", "Requests answered"),
            http_request_duration: seconds(
                "ledger.http.request.duration",
                "Time from a request to the start of its answer",
            ),
            http_in_flight: meter
                .i64_up_down_counter("ledger.http.in_flight")
                .with_description("Requests being served")
                .build(),
            live_streams: meter
                .i64_up_down_counter("ledger.live.streams")
                .with_description("Live streams that are open")
                .build(),
            append_duration: seconds("ledger.append.batch.duration", "Time of one group commit"),
            append_commands: sizes("ledger.append.batch.commands", "Commands in a group commit"),
            append_events: sizes("ledger.append.batch.events", "Events in a group commit"),
            append_bytes: meter
                .u64_counter("ledger.append")
                .with_description("Bytes of events made durable")
                .with_unit("By")
                .build(),
            http: Bound::default(),
            queues: Bound::default(),
            append_outcomes: AppendOutcome::ALL
                .map(|outcome| append_outcomes.bind(&[KeyValue::new("outcome", outcome.label())])),
            events: counter("ledger.events.appended", "Events made durable"),
            queue_commands: gauge("ledger.queue.commands", "Commands waiting for a lane").build(),
            queue_bytes: gauge("ledger.queue", "Bytes waiting for a lane")
                .with_unit("By")
                .build(),
            cache_lookups: Cache::ALL.map(|cache| {
                ["miss", "hit"].map(|result| {
                    cache_lookups.bind(&[
                        KeyValue::new("cache", cache.label()),
                        KeyValue::new("result", result),
                    ])
                })
            }),
            webhooks: counter("ledger.webhooks", "Webhooks by what became of them"),
            auth_failures: counter("ledger.auth.failures", "Requests that were not let in"),
            projection_events: counter(
                "ledger.projection.events",
                "Events that reached a projection's tables",
            ),
            projection_position: meter
                .i64_gauge("ledger.projection.position")
                .with_description("Position of the last event in a projection's tables")
                .build(),
            projection_lag: meter
                .i64_gauge("ledger.projection.lag.events")
                .with_description("Events a projection has not read yet")
                .build(),
            projection_stopped: gauge(
                "ledger.projection.stopped",
                "1 if a projection can't go on by itself",
            )
            .build(),
            projection_stops: counter(
                "ledger.projection.stops",
                "How often a projection stopped, by reason",
            ),
            rebuild_done: meter
                .i64_gauge("ledger.rebuild.events.done")
                .with_description("Events that a rebuild has brought into its shadow tables")
                .build(),
            rebuild_total: meter
                .i64_gauge("ledger.rebuild.events.total")
                .with_description("Events that a rebuild has to bring into its shadow tables")
                .build(),
            registry,
            _provider: provider,
        }
    }
}

#[cfg(test)]
mod tests;
