//! Whether traces are exported, and where to, from the standard `OTEL_*` variables.
//!
//! Headers, timeouts, sampler, batch sizes and resource attributes are left to the
//! OpenTelemetry SDK, which reads them itself.

use std::collections::BTreeMap;

use super::faults::{Fault, Origin};
use super::sources::invalid;
use super::values::{LogFormat, is_http_url};

/// What [`telemetry::init`](crate::telemetry::init) needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetryConfig {
    pub log_format: LogFormat,
    /// Directives for `tracing_subscriber::EnvFilter`.
    pub log_level: String,
    /// `service.name` of exported traces.
    pub service_name: String,
    /// `None` exports nothing.
    pub otlp: Option<OtlpConfig>,
}

/// Where traces go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpConfig {
    pub protocol: OtlpProtocol,
    /// For HTTP the whole address, path included.
    pub endpoint: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpProtocol {
    Grpc,
    HttpProtobuf,
}

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const TRACES_PROTOCOL: &str = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL";

/// Where a collector takes traces over HTTP, below the general endpoint.
const TRACES_PATH: &str = "v1/traces";

/// `service.name` when neither `OTEL_SERVICE_NAME` nor `OTEL_RESOURCE_ATTRIBUTES` has one.
const SERVICE_NAME: &str = "notification-ledger";

/// Export is on when there is an endpoint and nothing switches it off.
pub(super) fn otlp(env: &BTreeMap<String, String>, faults: &mut Vec<Fault>) -> Option<OtlpConfig> {
    if is_off(env) {
        return None;
    }
    let traces = set(env, TRACES_ENDPOINT);
    let (name, endpoint) = traces.or_else(|| set(env, ENDPOINT))?;
    let protocol = protocol(env, faults)?;

    if let Some(expected) = unreachable_reason(endpoint, protocol) {
        faults.push(fault(name, endpoint, expected));
        return None;
    }
    let is_whole = traces.is_some() || protocol == OtlpProtocol::Grpc;
    let endpoint = if is_whole {
        endpoint.to_owned()
    } else {
        format!("{}/{TRACES_PATH}", endpoint.trim_end_matches('/'))
    };
    Some(OtlpConfig { protocol, endpoint })
}

pub(super) fn service_name(env: &BTreeMap<String, String>) -> String {
    let from_attributes = || {
        let attributes = env.get("OTEL_RESOURCE_ATTRIBUTES")?;
        attributes
            .split(',')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| key.trim() == "service.name")
            .map(|(_, name)| name.trim())
    };

    set(env, "OTEL_SERVICE_NAME")
        .map(|(_, name)| name)
        .or_else(from_attributes)
        .unwrap_or(SERVICE_NAME)
        .to_owned()
}

/// A variable that is set; empty counts as unset, as the OpenTelemetry specification has it.
fn set<'a>(
    env: &'a BTreeMap<String, String>,
    name: &'static str,
) -> Option<(&'static str, &'a str)> {
    let value = env.get(name)?.trim();

    (!value.is_empty()).then_some((name, value))
}

fn is_off(env: &BTreeMap<String, String>) -> bool {
    let is = |name, off: &str| set(env, name).is_some_and(|(_, v)| v.eq_ignore_ascii_case(off));

    is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none")
}

fn protocol(env: &BTreeMap<String, String>, faults: &mut Vec<Fault>) -> Option<OtlpProtocol> {
    let Some((name, protocol)) = set(env, TRACES_PROTOCOL).or_else(|| set(env, PROTOCOL)) else {
        return Some(OtlpProtocol::HttpProtobuf);
    };
    match protocol {
        "grpc" => Some(OtlpProtocol::Grpc),
        "http/protobuf" => Some(OtlpProtocol::HttpProtobuf),
        _ => {
            faults.push(fault(name, protocol, "grpc or http/protobuf"));
            None
        }
    }
}

/// What would be valid, if this endpoint is not.
fn unreachable_reason(endpoint: &str, protocol: OtlpProtocol) -> Option<&'static str> {
    if !is_http_url(endpoint) {
        return Some("an http or https URL, such as http://localhost:4318");
    }
    // The HTTP exporter's client is built without TLS: it would need a provider of
    // cryptography installed for the whole process. Without this, traces would be lost
    // with nothing but a warning.
    let is_tls = endpoint.starts_with("https:");
    (is_tls && protocol == OtlpProtocol::HttpProtobuf).then_some(
        "an http URL: https is spoken with grpc only (OTEL_EXPORTER_OTLP_PROTOCOL=grpc), or \
         through a collector beside this process",
    )
}

fn fault(name: &str, value: &str, expected: &str) -> Fault {
    Fault {
        origin: Origin::Environment(name.to_owned()),
        problem: invalid(false, value, expected.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn read(pairs: &[(&str, &str)]) -> (Option<OtlpConfig>, Vec<String>) {
        let mut faults = Vec::new();
        let otlp = otlp(&env(pairs), &mut faults);

        (otlp, faults.iter().map(ToString::to_string).collect())
    }

    fn http(endpoint: &str) -> OtlpConfig {
        OtlpConfig {
            protocol: OtlpProtocol::HttpProtobuf,
            endpoint: endpoint.to_owned(),
        }
    }

    #[test]
    fn without_an_endpoint_nothing_is_exported() {
        assert_eq!(read(&[]), (None, vec![]));
        assert_eq!(read(&[(ENDPOINT, "")]), (None, vec![]));
        assert_eq!(read(&[(PROTOCOL, "grpc")]), (None, vec![]));
    }

    #[test]
    fn the_general_endpoint_gets_the_path_for_traces_over_http_only() {
        let (over_http, _) = read(&[(ENDPOINT, "http://c:4318/")]);
        let (over_grpc, _) = read(&[(ENDPOINT, "http://c:4317"), (PROTOCOL, "grpc")]);

        assert_eq!(over_http, Some(http("http://c:4318/v1/traces")));
        assert_eq!(over_grpc.unwrap().endpoint, "http://c:4317");
    }

    #[test]
    fn names_for_traces_win_over_general_ones() {
        let (otlp, faults) = read(&[
            (ENDPOINT, "http://general:4317"),
            (TRACES_ENDPOINT, "http://traces:4318/in"),
            (PROTOCOL, "grpc"),
            (TRACES_PROTOCOL, "http/protobuf"),
        ]);

        assert_eq!(otlp, Some(http("http://traces:4318/in")));
        assert!(faults.is_empty());
    }

    #[test]
    fn the_standard_switches_turn_export_off() {
        for off in [
            ("OTEL_SDK_DISABLED", "true"),
            ("OTEL_TRACES_EXPORTER", "none"),
        ] {
            assert_eq!(read(&[(ENDPOINT, "http://c"), off]), (None, vec![]));
        }
    }

    #[test]
    fn endpoints_and_protocols_that_cannot_work_are_faults() {
        let (_, protocol) = read(&[(ENDPOINT, "http://c"), (PROTOCOL, "http/json")]);
        let (_, endpoint) = read(&[(ENDPOINT, "collector:4317")]);
        let (_, tls) = read(&[(ENDPOINT, "https://c")]);

        assert_eq!(
            protocol,
            [
                "environment variable OTEL_EXPORTER_OTLP_PROTOCOL: `http/json` is not valid; \
              expected grpc or http/protobuf"
            ]
        );
        assert!(endpoint[0].contains("`collector:4317` is not valid"));
        assert!(tls[0].contains("grpc only"));
    }

    #[test]
    fn a_login_in_an_endpoint_is_not_shown() {
        let (_, faults) = read(&[(ENDPOINT, "https://user:hunter2@c")]);

        assert!(!faults[0].contains("hunter2"), "{faults:?}");
    }

    #[test]
    fn the_service_has_its_own_name_unless_another_is_given() {
        let named = [("OTEL_RESOURCE_ATTRIBUTES", "a=b,service.name=shop")];
        let both = [named[0], ("OTEL_SERVICE_NAME", "till")];

        assert_eq!(service_name(&env(&[])), "notification-ledger");
        assert_eq!(service_name(&env(&named)), "shop");
        assert_eq!(service_name(&env(&both)), "till");
    }
}
