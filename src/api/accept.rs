//! Which of two media types a caller prefers (RFC 9110 §12.5.1).

use http::{HeaderMap, header};

/// How well a media type fits what a caller accepts; the greater, the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Fit {
    /// Thousandths; 0 is a refusal.
    quality: u16,
    /// Named in full, by its kind (`text/*`), or among all.
    precision: u8,
    /// Callers list first what they like best.
    earliness: usize,
}

/// Whether the caller would rather have `this` than `that`. A caller who has no preference wants
/// `that`.
pub fn prefers(headers: &HeaderMap, this: &str, that: &str) -> bool {
    let values = headers.get_all(header::ACCEPT).iter();
    let ranges: Vec<&str> = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .collect();
    let wanted = fit(&ranges, this).filter(|fit| fit.quality > 0);
    wanted.is_some() && wanted > fit(&ranges, that)
}

/// By the range that names it most precisely.
fn fit(ranges: &[&str], media_type: &str) -> Option<Fit> {
    let places = (0..ranges.len()).rev();
    let fits = ranges.iter().zip(places).filter_map(|(range, earliness)| {
        let mut parts = range.split(';');
        let precision = precision(parts.next()?.trim(), media_type)?;
        let quality = parts.find_map(quality).unwrap_or(1000);
        Some(Fit {
            quality,
            precision,
            earliness,
        })
    });
    fits.max_by_key(|fit| (fit.precision, fit.quality, fit.earliness))
}

fn precision(range: &str, media_type: &str) -> Option<u8> {
    let (kind, _) = media_type.split_once('/')?;
    if range.eq_ignore_ascii_case(media_type) {
        return Some(2);
    }
    match range.strip_suffix("/*") {
        Some("*") => Some(0),
        Some(of_kind) if of_kind.eq_ignore_ascii_case(kind) => Some(1),
        _ => None,
    }
}

/// The weight, if that is what the parameter is. One that can't be read counts as none.
fn quality(parameter: &str) -> Option<u16> {
    let (name, value) = parameter.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let value: f32 = value.trim().parse().ok()?;
    let is_weight = (0.0..=1.0).contains(&value);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to 1000"
    )]
    is_weight.then(|| (value * 1000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use rstest::rstest;

    #[rstest]
    #[case(&[], false)]
    #[case(&["*/*"], false)]
    #[case(&["application/json"], false)]
    #[case(&["text/event-stream"], true)]
    #[case(&["Text/Event-Stream; charset=utf-8"], true)]
    #[case(&["text/event-stream, */*"], true)]
    #[case(&["*/*, text/event-stream"], true)]
    #[case(&["text/*"], true)]
    #[case(&["application/json, text/event-stream"], false)]
    #[case(&["text/event-stream, application/json"], true)]
    #[case(&["application/json", "text/event-stream"], false)]
    #[case(&["text/event-stream;q=0.9, application/json"], false)]
    #[case(&["application/json;q=0.8, text/event-stream;q=0.9"], true)]
    #[case(&["text/event-stream;q=0"], false)]
    #[case(&["text/event-stream;q=0, text/*"], false)]
    #[case(&["text/html, application/xhtml+xml, */*;q=0.8"], false)]
    fn a_stream_is_for_those_who_prefer_it(#[case] accept: &[&'static str], #[case] wanted: bool) {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(header::ACCEPT, HeaderValue::from_static(value));
        }

        let preferred = prefers(&headers, "text/event-stream", "application/json");

        assert_eq!(preferred, wanted);
    }
}
