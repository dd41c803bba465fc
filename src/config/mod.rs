//! Every setting of the service.
//!
//! A setting comes from a flag, else an environment variable, else the TOML file, else
//! its default. [`Config::load`] either answers a whole configuration or every fault at
//! once, unknown names included; nothing is started with a setting that was ignored.
//! `settings.rs` lists the settings, `sources.rs` finds their text, `values.rs` and its
//! neighbours judge it.

mod database_url;
mod faults;
mod master_key;
mod otlp;
mod settings;
mod sources;
mod values;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

pub use database_url::DatabaseUrl;
pub use faults::{ConfigError, Fault, Origin, Problem};
pub use master_key::{MASTER_KEY_BYTES, MasterKeyBytes, MasterKeySource};
pub use otlp::{OtlpConfig, OtlpProtocol, TelemetryConfig};
pub use settings::{SettingDoc, reference};
pub use sources::{ConfigArgs, process_environment};
pub use values::{LogFormat, PublicUrl};

use master_key::KeyNeed;
use settings as s;
use sources::Sources;
use values::{milliseconds, number, seconds, show_size, size};

/// Every setting, checked. `Debug` shows no secret.
#[derive(Debug, Clone)]
pub struct Config {
    pub database_url: DatabaseUrl,
    pub database_connections_max: u32,
    pub db_acquire_timeout: Duration,
    pub master_key: MasterKeySource,
    pub listen: SocketAddr,
    pub listen_file: Option<PathBuf>,
    pub public_url: Option<PublicUrl>,
    /// For a ledger that is created; an existing one knows its own.
    pub partitions: u16,
    /// May exceed the partitions of an existing ledger: a lane without one has nothing
    /// to do.
    pub lanes: u16,
    pub body_bytes_max: usize,
    pub bulk_body_bytes_max: usize,
    pub payload_bytes_max: usize,
    pub queue_commands_max: usize,
    pub queue_bytes_max: usize,
    pub request_timeout: Duration,
    /// Wait for the next piece of a body.
    pub body_timeout: Duration,
    pub shutdown_timeout: Duration,
    /// Zero caches nothing.
    pub auth_cache_ttl: Duration,
    /// Zero caches nothing.
    pub key_cache_ttl: Duration,
    /// Zero caches nothing.
    pub aggregate_cache_bytes: usize,
    /// Live streams that may be open at once.
    pub live_streams_max: usize,
    /// How far a webhook's signed time may be from ours, both ways.
    pub webhook_tolerance: Duration,
    pub telemetry: TelemetryConfig,
}

const KIB: usize = 1024;
const GIB: usize = 1024 * 1024 * KIB;

/// Most partitions of one ledger. Each costs a head, a checkpoint per projection and a
/// turn of every reader.
const PARTITIONS_MAX: u16 = 1024;

/// Most lanes. Each holds a database connection for every batch.
const LANES_MAX: u16 = 64;

/// Lanes on PostgreSQL unless asked otherwise: one prepares a batch while the other
/// waits for its commit.
const LANES_POSTGRES: u16 = 2;

/// A stopped process must be gone after 10 s, so nothing may wait longer than that.
const SHUTDOWN_MS_MAX: u64 = 10_000;

/// Erasure reaches every process within 10 s, so no data key may be remembered longer.
const KEY_CACHE_MS_MAX: u64 = 10_000;

/// Caps that keep a slip of the finger from switching a limit off.
const TIMEOUT_MS_MAX: u64 = 10 * 60 * 1000;
const LIVE_STREAMS_MAX: usize = 100_000;
const AUTH_CACHE_MS_MAX: u64 = 60 * 1000;
const WEBHOOK_TOLERANCE_SECONDS_MAX: u64 = 24 * 60 * 60;

impl Config {
    /// Collects every setting from flags, `env` (see [`process_environment`]), the TOML
    /// file that either of them names, and defaults.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with every unknown name and every invalid value.
    pub fn load(args: &ConfigArgs, env: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        Self::load_with(args, env, log_format_here(), KeyNeed::Required)
    }

    /// Like [`Config::load`], for work that neither seals nor unseals, such as checking
    /// the chain from a machine that must not have the key. Without a key, PostgreSQL
    /// gives [`MasterKeySource::Absent`] instead of a fault.
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn load_keyless(
        args: &ConfigArgs,
        env: &BTreeMap<String, String>,
    ) -> Result<Self, ConfigError> {
        Self::load_with(args, env, log_format_here(), KeyNeed::Optional)
    }

    /// `log_format` is the one to use when nobody asks for another.
    fn load_with(
        args: &ConfigArgs,
        env: &BTreeMap<String, String>,
        log_format: LogFormat,
        need: KeyNeed,
    ) -> Result<Self, ConfigError> {
        let mut sources = Sources::open(args, env);
        sources.faults.extend(faults::unknown_variables(env));
        let mut config = Self::collect(&mut sources, env, log_format, need);
        config.fit_payload(&mut sources);

        if sources.faults.is_empty() {
            return Ok(config);
        }
        Err(ConfigError {
            faults: sources.faults,
        })
    }

    /// Reads one setting after the other. A fault leaves a stand-in behind, so that
    /// reading goes on and finds them all.
    fn collect(
        from: &mut Sources<'_>,
        env: &BTreeMap<String, String>,
        log_format: LogFormat,
        need: KeyNeed,
    ) -> Self {
        let nowhere = DatabaseUrl::Sqlite {
            path: PathBuf::new(),
        };
        let database_url = from.required(&s::DATABASE_URL, nowhere, database_url::database_url);
        let partitions = from.required(&s::PARTITIONS, 1, number(1..=PARTITIONS_MAX));

        Self {
            master_key: master_key::source(from, &database_url, need),
            listen: listen(from),
            listen_file: from.optional(&s::LISTEN_FILE, sources::path),
            public_url: from.optional(&s::PUBLIC_URL, values::public_url),
            lanes: lanes(from, &database_url, partitions),
            body_bytes_max: bytes(from, &s::BODY_BYTES_MAX, KIB..=GIB),
            bulk_body_bytes_max: bytes(from, &s::BULK_BODY_BYTES_MAX, KIB..=GIB),
            payload_bytes_max: bytes(from, &s::PAYLOAD_BYTES_MAX, 1..=GIB),
            queue_commands_max: from.required(&s::QUEUE_COMMANDS_MAX, 1, number(1..=1_000_000)),
            queue_bytes_max: bytes(from, &s::QUEUE_BYTES_MAX, KIB..=64 * GIB),
            request_timeout: millis(from, &s::REQUEST_TIMEOUT_MS, 1..=TIMEOUT_MS_MAX),
            body_timeout: millis(from, &s::BODY_TIMEOUT_MS, 1..=TIMEOUT_MS_MAX),
            shutdown_timeout: millis(from, &s::SHUTDOWN_TIMEOUT_MS, 0..=SHUTDOWN_MS_MAX),
            auth_cache_ttl: millis(from, &s::AUTH_CACHE_TTL_MS, 0..=AUTH_CACHE_MS_MAX),
            key_cache_ttl: millis(from, &s::KEY_CACHE_TTL_MS, 0..=KEY_CACHE_MS_MAX),
            aggregate_cache_bytes: bytes(from, &s::AGGREGATE_CACHE_BYTES, 0..=64 * GIB),
            database_connections_max: from.required(
                &s::DATABASE_CONNECTIONS_MAX,
                1,
                number(1..=1000),
            ),
            db_acquire_timeout: millis(from, &s::DB_ACQUIRE_TIMEOUT_MS, 1..=TIMEOUT_MS_MAX),
            live_streams_max: from.required(&s::LIVE_STREAMS_MAX, 0, number(0..=LIVE_STREAMS_MAX)),
            webhook_tolerance: from.required(
                &s::WEBHOOK_TOLERANCE_SECONDS,
                Duration::ZERO,
                seconds(1..=WEBHOOK_TOLERANCE_SECONDS_MAX),
            ),
            telemetry: telemetry(from, env, log_format),
            database_url,
            partitions,
        }
    }

    /// A payload travels in a body and waits in the queue. A default that doesn't fit
    /// gives way; a limit that somebody set and nobody could reach is a fault.
    fn fit_payload(&mut self, sources: &mut Sources<'_>) {
        let hosts = [
            (s::BODY_BYTES_MAX.key, self.body_bytes_max),
            (s::QUEUE_BYTES_MAX.key, self.queue_bytes_max),
        ];
        for (host, room) in hosts {
            if self.payload_bytes_max <= room {
                continue;
            }
            if sources.is_given(&s::PAYLOAD_BYTES_MAX) {
                let payload = show_size(self.payload_bytes_max);
                let room = show_size(room);
                let sentence = format!("{payload} does not fit into {host}, which is {room}");
                sources.fault(&s::PAYLOAD_BYTES_MAX, sentence);
            } else {
                self.payload_bytes_max = room;
            }
        }
    }
}

/// Whoever reads a terminal is a person.
fn log_format_here() -> LogFormat {
    if std::io::stderr().is_terminal() {
        LogFormat::Text
    } else {
        LogFormat::Json
    }
}

fn listen(from: &mut Sources<'_>) -> SocketAddr {
    let nowhere = SocketAddr::new(values::LOOPBACK, 0);
    from.required(&s::LISTEN, nowhere, values::socket_address)
}

fn lanes(from: &mut Sources<'_>, database_url: &DatabaseUrl, partitions: u16) -> u16 {
    let given = from.optional(&s::LANES, number(1..=LANES_MAX));

    given.unwrap_or(match database_url {
        // SQLite has one writer, whatever we start.
        DatabaseUrl::Sqlite { .. } => 1,
        DatabaseUrl::Postgres { .. } => LANES_POSTGRES.min(partitions),
    })
}

fn bytes(from: &mut Sources<'_>, setting: &s::Setting, range: RangeInclusive<usize>) -> usize {
    from.required(setting, 0, size(range))
}

fn millis(from: &mut Sources<'_>, setting: &s::Setting, range: RangeInclusive<u64>) -> Duration {
    from.required(setting, Duration::ZERO, milliseconds(range))
}

fn telemetry(
    from: &mut Sources<'_>,
    env: &BTreeMap<String, String>,
    log_format: LogFormat,
) -> TelemetryConfig {
    TelemetryConfig {
        log_format: from
            .optional(&s::LOG_FORMAT, values::log_format)
            .unwrap_or(log_format),
        log_level: from.required(&s::LOG_LEVEL, String::new(), values::log_level),
        service_name: otlp::service_name(env),
        otlp: otlp::otlp(env, &mut from.faults),
    }
}

#[cfg(test)]
mod tests;
