//! How the text of a setting becomes a value.
//!
//! Every parser answers a fault with what would be valid, to continue "expected …".

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Where `:8080`, `localhost:8080` and the default listen: not reachable from outside.
pub(super) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A whole number within a range.
pub(super) fn number<N>(range: RangeInclusive<N>) -> impl Fn(&str) -> Result<N, String>
where
    N: std::str::FromStr + PartialOrd + fmt::Display,
{
    move |text| {
        text.parse()
            .ok()
            .filter(|number| range.contains(number))
            .ok_or_else(|| format!("a whole number from {} to {}", range.start(), range.end()))
    }
}

pub(super) fn milliseconds(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| {
        number(range.clone())(text)
            .map(Duration::from_millis)
            .map_err(|expected| format!("milliseconds, {expected}"))
    }
}

pub(super) fn seconds(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| {
        number(range.clone())(text)
            .map(Duration::from_secs)
            .map_err(|expected| format!("seconds, {expected}"))
    }
}

/// What may follow a number of bytes. Only powers of 1024: `MB` means different things
/// to different people.
const SIZE_UNITS: [(&str, usize); 4] = [
    ("KiB", 1024),
    ("MiB", 1024 * 1024),
    ("GiB", 1024 * 1024 * 1024),
    ("B", 1),
];

/// A number of bytes, such as `1048576`, `512KiB` or `1 MiB`.
pub(super) fn size(range: RangeInclusive<usize>) -> impl Fn(&str) -> Result<usize, String> {
    move |text| {
        bytes(text)
            .filter(|bytes| range.contains(bytes))
            .ok_or_else(|| {
                format!(
                    "bytes, or a size such as 512KiB or 1MiB, from {} to {}",
                    show_size(*range.start()),
                    show_size(*range.end())
                )
            })
    }
}

fn bytes(text: &str) -> Option<usize> {
    let unit = SIZE_UNITS
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (count, factor) = unit.unwrap_or((text, 1));

    count.trim_end().parse::<usize>().ok()?.checked_mul(factor)
}

/// A size in the largest unit that divides it.
pub(super) fn show_size(bytes: usize) -> String {
    let unit = SIZE_UNITS
        .iter()
        .filter(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor))
        .max_by_key(|(_, factor)| *factor);

    match unit {
        Some((unit, factor)) if *factor > 1 => format!("{}{unit}", bytes / factor),
        _ => bytes.to_string(),
    }
}

/// `ADDRESS:PORT`, or a short form for an address on this machine.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let local_port = text.strip_prefix("localhost:").or(text.strip_prefix(':'));
    let address = match local_port {
        Some(port) => port
            .parse()
            .ok()
            .map(|port| SocketAddr::new(LOOPBACK, port)),
        None => text.parse().ok(),
    };

    address.ok_or_else(|| {
        "an IP address and a port, such as 127.0.0.1:8080, 0.0.0.0:8080, [::]:8080 or :0".to_owned()
    })
}

/// The address from which others reach this service: http or https, without a slash at
/// its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl(String);

impl PublicUrl {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address of `path`, which begins with a slash.
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(super) fn public_url(text: &str) -> Result<PublicUrl, String> {
    if is_http_url(text) && !text.contains(['@', '?', '#']) {
        return Ok(PublicUrl(text.trim_end_matches('/').to_owned()));
    }
    Err(
        "an http or https URL without login, query or fragment, such as \
         https://ledger.example.com"
            .to_owned(),
    )
}

pub(super) fn is_http_url(text: &str) -> bool {
    let Ok(url) = text.parse::<http::Uri>() else {
        return false;
    };
    let has_host = url.host().is_some_and(|host| !host.is_empty());

    has_host && matches!(url.scheme_str(), Some("http" | "https"))
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("text or json".to_owned()),
    }
}

/// Directives that [`EnvFilter`] takes.
pub(super) fn log_level(text: &str) -> Result<String, String> {
    // A bare word that is no level would be taken for a target and log everything of
    // it: `inof` would silence the service instead of being refused.
    let is_level_or_pair =
        |part: &str| part.contains(['=', '[']) || part.trim().parse::<LevelFilter>().is_ok();
    let is_clear = !text.trim().is_empty() && text.split(',').all(is_level_or_pair);

    if is_clear && EnvFilter::builder().parse(text).is_ok() {
        return Ok(text.to_owned());
    }
    Err("off, error, warn, info, debug or trace, or directives such as info,sqlx=warn".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("0", Some(0))]
    #[case("1048576", Some(1_048_576))]
    #[case("512B", Some(512))]
    #[case("512KiB", Some(524_288))]
    #[case("1 MiB", Some(1_048_576))]
    #[case("2GiB", Some(2_147_483_648))]
    #[case("1MB", None)]
    #[case("1.5MiB", None)]
    #[case("-1", None)]
    #[case("MiB", None)]
    #[case("", None)]
    #[case("99999999999999999999", None)]
    #[case("99999999999GiB", None)]
    fn sizes_are_plain_numbers_or_powers_of_1024(
        #[case] text: &str,
        #[case] expected: Option<usize>,
    ) {
        assert_eq!(size(0..=usize::MAX)(text).ok(), expected);
    }

    #[test]
    fn sizes_are_shown_in_their_largest_whole_unit() {
        assert_eq!(show_size(0), "0");
        assert_eq!(show_size(1000), "1000");
        assert_eq!(show_size(512 * 1024), "512KiB");
        assert_eq!(show_size(1024 * 1024), "1MiB");
    }

    #[rstest]
    #[case("127.0.0.1:8080", Some("127.0.0.1:8080"))]
    #[case("0.0.0.0:80", Some("0.0.0.0:80"))]
    #[case("[::1]:0", Some("[::1]:0"))]
    #[case(":8080", Some("127.0.0.1:8080"))]
    #[case(":0", Some("127.0.0.1:0"))]
    #[case("localhost:9", Some("127.0.0.1:9"))]
    #[case("8080", None)]
    #[case("127.0.0.1", None)]
    #[case(":65536", None)]
    #[case("example.com:80", None)]
    #[case("", None)]
    fn listening_addresses_have_short_forms(#[case] text: &str, #[case] expected: Option<&str>) {
        let address = socket_address(text).ok().map(|address| address.to_string());

        assert_eq!(address.as_deref(), expected);
    }

    #[rstest]
    #[case("https://ledger.example.com", Some("https://ledger.example.com"))]
    #[case("http://host:8080/base/", Some("http://host:8080/base"))]
    #[case("ftp://host", None)]
    #[case("host", None)]
    #[case("https://", None)]
    #[case("https://user:pw@host", None)]
    #[case("https://host/?a=b", None)]
    fn public_addresses_are_plain_web_addresses(
        #[case] text: &str,
        #[case] expected: Option<&str>,
    ) {
        let url = public_url(text).ok();

        assert_eq!(url.as_ref().map(PublicUrl::as_str), expected);
    }

    #[test]
    fn a_path_joins_the_public_address_with_one_slash() {
        let url = public_url("https://host/base/").unwrap();

        assert_eq!(url.join("/webhooks/1"), "https://host/base/webhooks/1");
    }

    #[rstest]
    #[case("info", true)]
    #[case("INFO", true)]
    #[case("info,sqlx=warn,notification_ledger::api=trace", true)]
    #[case("off", true)]
    #[case("inof", false)]
    #[case("info,sqlx", false)]
    #[case("sqlx=loud", false)]
    #[case("", false)]
    fn levels_are_levels_or_directives(#[case] text: &str, #[case] valid: bool) {
        assert_eq!(log_level(text).is_ok(), valid);
    }
}
