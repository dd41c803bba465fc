//! What is in a request: its media type, and its body, within bounds.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;

use super::state::Limits;
use crate::problem::Problem;

/// What a body is expected to be.
pub const JSON: &str = "application/json";

/// The media type of a body, without its parameters and in lower case.
pub fn media_type(headers: &HeaderMap) -> Option<String> {
    essence(headers).map(str::to_ascii_lowercase)
}

/// The media type of a body, without its parameters, as it was sent.
fn essence(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    value.split(';').next().map(str::trim)
}

/// Refuses a body that does not say it is JSON.
///
/// # Errors
///
/// [`Problem::UnsupportedMediaType`].
pub fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    require_plain(headers)?;
    if essence(headers).is_some_and(|media| media.eq_ignore_ascii_case(JSON)) {
        Ok(())
    } else {
        Err(Problem::UnsupportedMediaType { expected: JSON })
    }
}

/// Refuses a compressed body: one of a few bytes could become many gigabytes.
///
/// # Errors
///
/// [`Problem::UnsupportedMediaType`].
pub fn require_plain(headers: &HeaderMap) -> Result<(), Problem> {
    let encodings = headers.get_all(header::CONTENT_ENCODING);
    if encodings
        .iter()
        .all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        Ok(())
    } else {
        Err(Problem::UnsupportedMediaType {
            expected: "sent without a Content-Encoding",
        })
    }
}

/// The whole of a JSON body.
///
/// # Errors
///
/// [`Problem::UnsupportedMediaType`], or those of [`read_body`].
pub async fn read_json(headers: &HeaderMap, body: Body, limits: &Limits) -> Result<Bytes, Problem> {
    require_json(headers)?;
    read_body(headers, body, limits.body_bytes_max, limits.body_timeout).await
}

/// The whole of a JSON body, which may be left out: then nobody need say that it is JSON.
///
/// # Errors
///
/// [`Problem::UnsupportedMediaType`], or those of [`read_body`].
pub async fn read_json_if_any(
    headers: &HeaderMap,
    body: Body,
    limits: &Limits,
) -> Result<Bytes, Problem> {
    if headers.contains_key(header::CONTENT_TYPE) {
        return read_json(headers, body, limits).await;
    }
    let body = read_body(headers, body, limits.body_bytes_max, limits.body_timeout).await?;
    if body.is_empty() {
        Ok(body)
    } else {
        Err(Problem::UnsupportedMediaType { expected: JSON })
    }
}

/// The whole body, within a size and without long pauses.
///
/// # Errors
///
/// [`Problem::TooLarge`] or [`Problem::RequestTimeout`]; [`Problem::MalformedJson`] for a body
/// that was cut off.
pub async fn read_body(
    headers: &HeaderMap,
    mut body: Body,
    bytes_max: usize,
    pause_max: Duration,
) -> Result<Bytes, Problem> {
    let too_large = |size: String| Problem::TooLarge {
        what: "the body".to_owned(),
        size,
        limit: bytes_max,
        unit: "bytes",
    };
    // A caller who says how much is coming need not send it to be refused.
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse::<usize>().ok());
    if let Some(length) = announced.filter(|length| *length > bytes_max) {
        return Err(too_large(format!("{length} bytes")));
    }
    let mut whole: Option<Bytes> = None;
    let mut joined = BytesMut::new();
    loop {
        let frame = tokio::time::timeout(pause_max, body.frame())
            .await
            .map_err(|_| Problem::RequestTimeout)?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| {
            Problem::MalformedJson("the body ended before it was complete".to_owned())
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let length = whole.as_ref().map_or(joined.len(), Bytes::len) + data.len();
        if length > bytes_max {
            return Err(too_large(format!("more than {bytes_max} bytes")));
        }
        // Most bodies come in one piece, and then nothing is copied.
        match whole.take() {
            None if joined.is_empty() => whole = Some(data),
            first => {
                joined.extend_from_slice(&first.unwrap_or_default());
                joined.extend_from_slice(&data);
            }
        }
    }
    Ok(whole.unwrap_or_else(|| joined.freeze()))
}
