//! Settings through their front door: who wins, and what is said about faults.

use std::io::Write;
use std::path::Path;

use clap::Parser;
use secrecy::ExposeSecret;
use tempfile::NamedTempFile;

use super::*;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn load(args: &ConfigArgs, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::load_with(args, &env(variables), LogFormat::Json, KeyNeed::Required)
}

fn from_env(variables: &[(&str, &str)]) -> Config {
    load(&ConfigArgs::default(), variables).unwrap()
}

fn file(text: &str) -> (NamedTempFile, ConfigArgs) {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let args = ConfigArgs::default().with("config", file.path().to_str().unwrap());

    (file, args)
}

fn faults(args: &ConfigArgs, variables: &[(&str, &str)]) -> String {
    load(args, variables).unwrap_err().to_string()
}

fn faults_of_env(variables: &[(&str, &str)]) -> String {
    faults(&ConfigArgs::default(), variables)
}

#[test]
fn nothing_set_means_the_documented_defaults() {
    let config = from_env(&[]);

    assert_eq!(config.database_url.to_string(), "sqlite://data/ledger.db");
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!((config.partitions, config.lanes), (8, 1));
    assert_eq!(config.body_bytes_max, 1024 * 1024);
    assert_eq!(config.bulk_body_bytes_max, 16 * 1024 * 1024);
    assert_eq!(config.payload_bytes_max, 512 * 1024);
    assert_eq!(config.queue_commands_max, 2048);
    assert_eq!(config.queue_bytes_max, 64 * 1024 * 1024);
    assert_eq!(config.request_timeout, Duration::from_secs(30));
    assert_eq!(config.body_timeout, Duration::from_secs(10));
    assert_eq!(config.shutdown_timeout, Duration::from_secs(10));
    assert_eq!(config.auth_cache_ttl, Duration::from_secs(5));
    assert_eq!(config.key_cache_ttl, Duration::from_secs(5));
    assert_eq!(config.aggregate_cache_bytes, 16 * 1024 * 1024);
    assert_eq!(config.database_connections_max, 10);
    assert_eq!(config.db_acquire_timeout, Duration::from_secs(5));
    assert_eq!(config.webhook_tolerance, Duration::from_mins(5));
    assert_eq!(config.telemetry.log_format, LogFormat::Json);
    assert_eq!(config.telemetry.log_level, "info");
    assert_eq!(config.telemetry.otlp, None);
    assert_eq!((config.listen_file, config.public_url), (None, None));
    assert!(matches!(
        config.master_key,
        MasterKeySource::File(path) if path == Path::new("data/ledger.db.key")
    ));
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
    let (_file, args) = file("partitions = 1\nlanes = 1\nlisten = ':1'\nlog_level = 'warn'\n");
    let args = args.with("partitions", "3");
    let variables = [("LEDGER_PARTITIONS", "2"), ("LEDGER_LANES", "2")];

    let config = load(&args, &variables).unwrap();

    assert_eq!(config.partitions, 3);
    assert_eq!(config.lanes, 2);
    assert_eq!(config.listen.port(), 1);
    assert_eq!(config.telemetry.log_level, "warn");
    assert_eq!(config.queue_commands_max, 2048);
}

#[test]
fn the_file_can_be_named_by_the_environment_and_the_flag_wins() {
    let (by_env, _) = file("partitions = 1\n");
    let (_by_flag, args) = file("partitions = 2\n");
    let variables = [("LEDGER_CONFIG", by_env.path().to_str().unwrap())];

    assert_eq!(from_env(&variables).partitions, 1);
    assert_eq!(load(&args, &variables).unwrap().partitions, 2);
}

#[test]
fn the_file_takes_numbers_and_sizes_in_every_form_of_toml() {
    let (_file, args) = file(
        "partitions = 0x10\nlanes = '4'\nbody_bytes_max = 2_097_152\nqueue_bytes_max = '1 GiB'\n",
    );

    let config = load(&args, &[]).unwrap();

    assert_eq!((config.partitions, config.lanes), (16, 4));
    assert_eq!(config.body_bytes_max, 2 * 1024 * 1024);
    assert_eq!(config.queue_bytes_max, 1024 * 1024 * 1024);
}

#[test]
fn every_fault_of_every_source_is_reported_at_once() {
    let (_file, args) = file("lanes = 0\n\nlog_fromat = 'json'\nlisten = ['a']\n");
    let args = args.with("partitions", "none");
    let variables = [
        ("LEDGER_LOG_FORMAT", "xml"),
        ("LEDGER_PARTITONS", "4"),
        ("LEDGER_BODY_BYTES_MAX", "1MB"),
        ("LEDGER_SHUTDOWN_TIMEOUT_MS", "10001"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "here"),
    ];

    let error = load(&args, &variables).unwrap_err();
    let report = error.to_string();

    assert_eq!(error.faults.len(), 9, "{report}");
    for said in [
        "9 settings need attention:\n",
        ":1, lanes: `0` is not valid; expected a whole number from 1 to 64",
        ":3, log_fromat: there is no such setting; did you mean log_format?",
        ":4, listen: expected a string or a whole number",
        "flag --partitions: `none` is not valid; expected a whole number from 1 to 1024",
        "environment variable LEDGER_LOG_FORMAT: `xml` is not valid; expected text or json",
        "LEDGER_PARTITONS: there is no such setting; did you mean LEDGER_PARTITIONS?",
        "LEDGER_BODY_BYTES_MAX: `1MB` is not valid; expected bytes, or a size such as 512KiB",
        "LEDGER_SHUTDOWN_TIMEOUT_MS: `10001` is not valid; expected milliseconds, a whole",
        "OTEL_EXPORTER_OTLP_ENDPOINT: `here` is not valid; expected an http or https URL",
    ] {
        assert!(report.contains(said), "{said}\nis missing from\n{report}");
    }
}

#[test]
fn every_setting_is_read_and_refuses_an_empty_value() {
    for setting in s::ALL {
        let report = faults_of_env(&[(setting.env, "")]);

        assert!(report.contains(setting.env), "{}: {report}", setting.key);
    }
}

#[test]
fn every_default_is_valid_as_a_given_value() {
    for setting in s::ALL {
        if let s::DefaultValue::Text(default) = setting.default {
            from_env(&[(setting.env, default)]);
        }
    }
}

#[test]
fn a_file_that_is_missing_or_malformed_is_a_fault_among_others() {
    let missing = faults_of_env(&[
        ("LEDGER_CONFIG", "/nowhere/ledger.toml"),
        ("LEDGER_LANES", "0"),
    ]);
    let (_file, args) = file("partitions = 2\nmaster_key = \"hunter2\n");
    let malformed = faults(&args, &[("LEDGER_LANES", "0")]);

    assert!(missing.contains("LEDGER_CONFIG: cannot read `/nowhere/ledger.toml`"));
    assert!(missing.contains("LEDGER_LANES"), "{missing}");
    assert!(malformed.contains(":2: not valid TOML"), "{malformed}");
    assert!(malformed.contains("LEDGER_LANES"), "{malformed}");
    assert!(!malformed.contains("hunter2"), "{malformed}");
}

#[test]
fn postgres_needs_a_master_key_and_says_how_to_make_one() {
    let url = (
        "LEDGER_DATABASE_URL",
        "postgres://u:hunter2@localhost/ledger",
    );

    let report = faults_of_env(&[url]);
    let config = from_env(&[url, ("LEDGER_MASTER_KEY", KEY)]);

    assert!(report.contains("LEDGER_MASTER_KEY: required with PostgreSQL"));
    assert!(report.contains("openssl rand -base64 32"));
    assert_eq!(config.lanes, 2);
    assert!(matches!(config.master_key, MasterKeySource::Given(key) if key.expose()[1] == 1));
}

#[test]
fn work_without_sealing_needs_no_master_key_but_a_given_one_must_be_good() {
    let url = ("LEDGER_DATABASE_URL", "postgres://localhost/ledger");
    let load = |variables: &[_]| Config::load_keyless(&ConfigArgs::default(), &env(variables));

    let without = load(&[url]).unwrap();
    let bad = load(&[url, ("LEDGER_MASTER_KEY", "AAEC")]);

    assert!(matches!(without.master_key, MasterKeySource::Absent));
    assert!(bad.unwrap_err().to_string().contains("LEDGER_MASTER_KEY"));
}

#[test]
fn postgres_with_one_partition_has_one_lane() {
    let config = from_env(&[
        ("LEDGER_DATABASE_URL", "postgres://localhost/ledger"),
        ("LEDGER_MASTER_KEY", KEY),
        ("LEDGER_PARTITIONS", "1"),
    ]);

    assert_eq!(config.lanes, 1);
}

#[test]
fn the_master_key_may_lie_in_a_mounted_file() {
    let mut secret = NamedTempFile::new().unwrap();
    writeln!(secret, "{KEY}").unwrap();
    let path = secret.path().to_str().unwrap();

    let config = from_env(&[("LEDGER_MASTER_KEY_FILE", path)]);
    let both = faults_of_env(&[("LEDGER_MASTER_KEY_FILE", path), ("LEDGER_MASTER_KEY", KEY)]);
    let missing = faults_of_env(&[("LEDGER_MASTER_KEY_FILE", "/nowhere/key")]);

    assert!(matches!(config.master_key, MasterKeySource::Given(key) if key.expose()[31] == 31));
    assert!(both.contains("give only one"), "{both}");
    assert!(missing.contains("cannot read `/nowhere/key`"), "{missing}");
}

#[test]
fn secrets_are_shown_neither_in_faults_nor_in_a_configuration() {
    let bad = faults_of_env(&[
        ("LEDGER_DATABASE_URL", "postgres://u:hunter2@host:port/x"),
        ("LEDGER_MASTER_KEY", "hunter2"),
        ("LEDGER_MASTERKEY", "hunter2"),
        ("LEDGER_PUBLIC_URL", "https://u:hunter2@host"),
    ]);
    let good = from_env(&[
        ("LEDGER_DATABASE_URL", "postgres://u:hunter2@host/x"),
        ("LEDGER_MASTER_KEY", KEY),
    ]);
    let args = ConfigArgs::default().with("master_key", "hunter2");
    let shown = format!("{good:?} {args:?}");

    assert!(bad.starts_with("4 settings"), "{bad}");
    assert!(!bad.contains("hunter2"), "{bad}");
    assert!(
        !shown.contains("hunter2") && !shown.contains(KEY),
        "{shown}"
    );
    let DatabaseUrl::Postgres { url } = &good.database_url else {
        panic!("{good:?}");
    };
    assert!(url.expose_secret().contains("hunter2"));
}

#[test]
fn a_payload_limit_that_no_body_can_reach_is_refused_if_somebody_set_it() {
    let limits = [
        ("LEDGER_BODY_BYTES_MAX", "256KiB"),
        ("LEDGER_QUEUE_BYTES_MAX", "128KiB"),
    ];
    let given = [limits[0], limits[1], ("LEDGER_PAYLOAD_BYTES_MAX", "1MiB")];

    let report = faults_of_env(&given);

    assert!(report.contains("1MiB does not fit into body_bytes_max, which is 256KiB"));
    assert!(report.contains("1MiB does not fit into queue_bytes_max, which is 128KiB"));
    assert_eq!(from_env(&limits).payload_bytes_max, 128 * 1024);
}

#[test]
fn the_log_format_follows_the_terminal_unless_it_is_given() {
    let load = |variables: &[(&str, &str)]| {
        Config::load_with(
            &ConfigArgs::default(),
            &env(variables),
            LogFormat::Text,
            KeyNeed::Required,
        )
    };

    assert_eq!(load(&[]).unwrap().telemetry.log_format, LogFormat::Text);
    assert_eq!(
        load(&[("LEDGER_LOG_FORMAT", "json")])
            .unwrap()
            .telemetry
            .log_format,
        LogFormat::Json
    );
}

#[derive(Debug, Parser)]
struct CommandLine {
    #[command(flatten)]
    settings: ConfigArgs,
    #[command(subcommand)]
    command: Option<Subcommand>,
}

#[derive(Debug, clap::Subcommand)]
enum Subcommand {
    Verify {
        #[arg(long)]
        partition: Option<u16>,
    },
}

#[test]
fn flags_work_before_and_after_a_subcommand() {
    let line = CommandLine::try_parse_from([
        "ledger",
        "--lanes",
        "3",
        "verify",
        "--partition",
        "1",
        "--partitions",
        "4",
    ])
    .unwrap();

    let config = load(&line.settings, &[]).unwrap();

    assert_eq!((config.lanes, config.partitions), (3, 4));
    assert!(matches!(
        line.command,
        Some(Subcommand::Verify { partition: Some(1) })
    ));
}

#[test]
fn help_names_every_flag_and_its_default_and_short_help_the_everyday_ones() {
    use clap::CommandFactory;
    let long = CommandLine::command().render_long_help().to_string();
    let short = CommandLine::command().render_help().to_string();

    for doc in reference() {
        assert!(
            long.contains(&doc.flag) && long.contains(doc.env),
            "{}",
            doc.name
        );
    }
    assert!(
        long.contains("[default: sqlite://data/ledger.db]"),
        "{long}"
    );
    assert!(short.contains("--database-url") && !short.contains("--queue-bytes-max"));
    CommandLine::command().debug_assert();
}
