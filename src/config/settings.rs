//! Every setting, once: its names, its default and what it means.
//!
//! Flags, environment variables, keys of the TOML file, `--help` and the README's
//! table all come from this list, so they can't drift apart.

/// One setting and the names it goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    /// In the TOML file, and in messages.
    pub(super) key: &'static str,
    pub(super) flag: &'static str,
    pub(super) env: &'static str,
    /// Stands for the value in `--help`.
    pub(super) placeholder: &'static str,
    pub(super) default: DefaultValue,
    pub(super) help: &'static str,
    pub(super) weight: Weight,
}

/// What a setting is when nobody sets it.
#[derive(Debug, Clone, Copy)]
pub(super) enum DefaultValue {
    /// This text, read as if somebody had written it.
    Text(&'static str),
    /// Worked out from other settings or the surroundings; the words say how.
    Derived(&'static str),
    /// Nothing: the feature behind it is off.
    Unset,
}

/// How much room a setting gets in help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// Most operators meet it: shown by `-h`.
    Everyday,
    /// Shown by `--help` only.
    Tuning,
}

/// A setting as the documentation shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingDoc {
    /// Key in the TOML file.
    pub name: &'static str,
    /// Command-line flag, with its dashes.
    pub flag: String,
    /// Environment variable.
    pub env: &'static str,
    /// Default as text; empty when there is none.
    pub default: &'static str,
    /// One or two sentences.
    pub help: &'static str,
}

/// Every setting, in the order in which documentation lists them.
pub fn reference() -> Vec<SettingDoc> {
    let doc = |setting: &&Setting| SettingDoc {
        name: setting.key,
        flag: format!("--{}", setting.flag),
        env: setting.env,
        default: setting.default.text(),
        help: setting.help,
    };

    ALL.iter().map(doc).collect()
}

impl Setting {
    /// Whether the value must not be shown: it is a key, or may hold a password.
    pub(super) fn is_secret(&self) -> bool {
        [MASTER_KEY.key, DATABASE_URL.key].contains(&self.key)
    }
}

impl DefaultValue {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Text(text) | Self::Derived(text) => text,
            Self::Unset => "",
        }
    }
}

use DefaultValue::{Derived, Text, Unset};
use Weight::{Everyday, Tuning};

/// Declares one constant for each setting, and `ALL`, so that none can be left out.
macro_rules! settings {
    ($($weight:ident $name:ident: $key:literal $flag:literal $env:literal $placeholder:literal
       default $default:expr; $help:literal)*) => {
        $(pub(super) const $name: Setting = Setting {
            key: $key,
            flag: $flag,
            env: $env,
            placeholder: $placeholder,
            default: $default,
            help: $help,
            weight: $weight,
        };)*

        /// Everything the TOML file may hold.
        pub(super) const ALL: &[&Setting] = &[$(&$name),*];
    };
}

/// The TOML file itself: the one setting that can't stand in it.
pub(super) const CONFIG_FILE: Setting = Setting {
    key: "config",
    flag: "config",
    env: "LEDGER_CONFIG",
    placeholder: "PATH",
    default: Unset,
    help: "TOML file with settings; flags and environment variables override it.",
    weight: Everyday,
};

settings! {
    Everyday DATABASE_URL: "database_url" "database-url" "LEDGER_DATABASE_URL" "URL"
        default Text("sqlite://data/ledger.db");
        "Where the ledger is kept: `sqlite://PATH` or `postgres://…`. A password given as a flag \
        shows in the process list; prefer the environment or the file."

    Everyday LISTEN: "listen" "listen" "LEDGER_LISTEN" "ADDRESS"
        default Text("127.0.0.1:8080");
        "Address and port to serve on. Port 0 picks a free one; `:8080` means 127.0.0.1:8080."

    Tuning LISTEN_FILE: "listen_file" "listen-file" "LEDGER_LISTEN_FILE" "PATH"
        default Unset;
        "File that the bound address is written to, for whoever chose port 0."

    Everyday PUBLIC_URL: "public_url" "public-url" "LEDGER_PUBLIC_URL" "URL"
        default Unset;
        "Address from which providers reach this service; used where answers name webhook URLs."

    Everyday MASTER_KEY: "master_key" "master-key" "LEDGER_MASTER_KEY" "BASE64"
        default Derived("a 0600 file beside the SQLite database");
        "Base64 of the 32 bytes that wrap every data key; required with PostgreSQL. As a flag it \
        shows in the process list; prefer the environment or `master_key_file`."

    Everyday MASTER_KEY_FILE: "master_key_file" "master-key-file" "LEDGER_MASTER_KEY_FILE" "PATH"
        default Unset;
        "File that holds the master key as base64, such as a mounted secret."

    Everyday PARTITIONS: "partitions" "partitions" "LEDGER_PARTITIONS" "COUNT"
        default Text("8");
        "Partitions of a new ledger, 1 to 1024. Only read when the ledger is created."

    Tuning LANES: "lanes" "lanes" "LEDGER_LANES" "COUNT"
        default Derived("1 with SQLite; 2 with PostgreSQL, or 1 if there is one partition");
        "Writer tasks, 1 to 64. Few lanes with big batches beat many with small ones."

    Everyday LOG_FORMAT: "log_format" "log-format" "LEDGER_LOG_FORMAT" "FORMAT"
        default Derived("text on a terminal, else json");
        "How log lines are written to stderr: `text` or `json`."

    Everyday LOG_LEVEL: "log_level" "log-level" "LEDGER_LOG_LEVEL" "DIRECTIVES"
        default Text("info");
        "What is logged: a level, or directives such as `info,sqlx=warn`."

    Tuning BODY_BYTES_MAX: "body_bytes_max" "body-bytes-max" "LEDGER_BODY_BYTES_MAX" "SIZE"
        default Text("1MiB");
        "Largest request body."

    Tuning BULK_BODY_BYTES_MAX: "bulk_body_bytes_max" "bulk-body-bytes-max" "LEDGER_BULK_BODY_BYTES_MAX" "SIZE"
        default Text("16MiB");
        "Largest body of a bulk call."

    Tuning PAYLOAD_BYTES_MAX: "payload_bytes_max" "payload-bytes-max" "LEDGER_PAYLOAD_BYTES_MAX" "SIZE"
        default Text("512KiB");
        "Largest payload of one notification; never more than a body can carry."

    Tuning QUEUE_COMMANDS_MAX: "queue_commands_max" "queue-commands-max" "LEDGER_QUEUE_COMMANDS_MAX" "COUNT"
        default Text("2048");
        "Commands that wait for a lane before callers are answered 503."

    Tuning QUEUE_BYTES_MAX: "queue_bytes_max" "queue-bytes-max" "LEDGER_QUEUE_BYTES_MAX" "SIZE"
        default Text("64MiB");
        "Bytes that wait for a lane before callers are answered 503."

    Tuning REQUEST_TIMEOUT_MS: "request_timeout_ms" "request-timeout-ms" "LEDGER_REQUEST_TIMEOUT_MS" "MS"
        default Text("30000");
        "Longest a request may take."

    Tuning BODY_TIMEOUT_MS: "body_timeout_ms" "body-timeout-ms" "LEDGER_BODY_TIMEOUT_MS" "MS"
        default Text("10000");
        "Longest wait for the next piece of a body that stops arriving."

    Tuning SHUTDOWN_TIMEOUT_MS: "shutdown_timeout_ms" "shutdown-timeout-ms" "LEDGER_SHUTDOWN_TIMEOUT_MS" "MS"
        default Text("10000");
        "Longest a shutdown waits for what is in flight, at most 10000."

    Tuning AUTH_CACHE_TTL_MS: "auth_cache_ttl_ms" "auth-cache-ttl-ms" "LEDGER_AUTH_CACHE_TTL_MS" "MS"
        default Text("5000");
        "How long a checked API key is remembered; a revoked one may work that long in another \
        process. 0 remembers nothing."

    Tuning KEY_CACHE_TTL_MS: "key_cache_ttl_ms" "key-cache-ttl-ms" "LEDGER_KEY_CACHE_TTL_MS" "MS"
        default Text("5000");
        "How long an unwrapped data key is remembered, at most 10000: erasure reaches other \
        processes that late. 0 remembers nothing."

    Tuning AGGREGATE_CACHE_BYTES: "aggregate_cache_bytes" "aggregate-cache-bytes" "LEDGER_AGGREGATE_CACHE_BYTES" "SIZE"
        default Text("16MiB");
        "Memory for recently used notifications. 0 keeps none."

    Tuning DATABASE_CONNECTIONS_MAX: "database_connections_max" "database-connections-max" "LEDGER_DATABASE_CONNECTIONS_MAX" "COUNT"
        default Text("10");
        "Most database connections that callers share. Each lane has one more, projections and \
        rebuilds up to 10, and one listens for other processes."

    Tuning DB_ACQUIRE_TIMEOUT_MS: "db_acquire_timeout_ms" "db-acquire-timeout-ms" "LEDGER_DB_ACQUIRE_TIMEOUT_MS" "MS"
        default Text("5000");
        "Longest wait for a free database connection."

    Tuning LIVE_STREAMS_MAX: "live_streams_max" "live-streams-max" "LEDGER_LIVE_STREAMS_MAX" "COUNT"
        default Text("1000");
        "Live streams that may be open at once before callers are answered 503. 0 allows none."

    Tuning WEBHOOK_TOLERANCE_SECONDS: "webhook_tolerance_seconds" "webhook-tolerance-seconds" "LEDGER_WEBHOOK_TOLERANCE_SECONDS" "SECONDS"
        default Text("300");
        "How far a webhook's signed time may be from ours."
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_three_names_of_a_setting_say_the_same() {
        for setting in ALL.iter().chain([&&CONFIG_FILE]) {
            let upper = setting.key.to_uppercase();

            assert_eq!(setting.env, format!("LEDGER_{upper}"));
            assert_eq!(setting.flag, setting.key.replace('_', "-"));
        }
    }

    #[test]
    fn no_setting_is_listed_twice() {
        let keys: BTreeSet<_> = ALL.iter().map(|setting| setting.key).collect();

        assert_eq!(keys.len(), ALL.len());
    }

    #[test]
    fn the_reference_has_every_setting_with_a_sentence() {
        let reference = reference();

        assert_eq!(reference.len(), ALL.len());
        assert!(reference.iter().all(|doc| doc.help.ends_with('.')));
        assert_eq!(reference[0].name, "database_url");
        assert_eq!(reference[0].flag, "--database-url");
        assert_eq!(reference[0].env, "LEDGER_DATABASE_URL");
        assert_eq!(reference[0].default, "sqlite://data/ledger.db");
    }
}
