//! Is it really Novu? The signature scheme of its delivery service (Standard Webhooks).
//!
//! What is signed is `id + "." + timestamp + "." + raw body`: the bytes as they came, before
//! anybody parsed them. A request passes when one of its `v1` signatures was made with one of
//! the source's secrets and its timestamp is neither too old nor too far ahead.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use ring::hmac;
use zeroize::Zeroizing;

use crate::domain::ids::{IdError, check_name};
use crate::domain::time::Timestamp;

/// How far a timestamp may be from our clock, either way: what the delivery service's own
/// libraries allow. Longer, and a recorded request could be played back; shorter, and clocks
/// that are a little off would lose events.
pub const TOLERANCE: Duration = Duration::from_mins(5);

/// Most characters a secret has. Standard Webhooks recommends keys of 24 to 64 bytes, so up to
/// 94 characters.
pub const SECRET_CHARS_MAX: usize = 256;

/// What secrets begin with where people handle them, so that scanners find leaked ones.
const SECRET_PREFIX: &str = "whsec_";
/// Other versions sign with other algorithms, and are not for us to judge.
const SIGNATURE_PREFIX: &str = "v1,";
const MICROS_PER_SECOND: i128 = 1_000_000;

/// The two names each header goes by, in the order they are tried.
const FAMILIES: [Family; 2] = [
    Family {
        id: "svix-id",
        timestamp: "svix-timestamp",
        signature: "svix-signature",
    },
    Family {
        id: "webhook-id",
        timestamp: "webhook-timestamp",
        signature: "webhook-signature",
    },
];

struct Family {
    id: &'static str,
    timestamp: &'static str,
    signature: &'static str,
}

/// Checks that `body` was signed with one of `secrets`, within `tolerance` of `now`.
///
/// # Errors
///
/// A [`Rejection`]: nothing in the request may be believed.
pub fn verify(
    headers: &HeaderMap,
    body: &[u8],
    secrets: &[SigningSecret],
    now: Timestamp,
    tolerance: Duration,
) -> Result<DeliveryId, Rejection> {
    if secrets.is_empty() {
        return Err(Rejection::NoSecret);
    }
    let request = SignedRequest::from_headers(headers, body)?;
    let delivery_id = DeliveryId::new(request.id)?;
    request.check_age(now, tolerance)?;
    if secrets.iter().any(|secret| request.is_signed_with(secret)) {
        Ok(delivery_id)
    } else {
        Err(Rejection::NoMatchingSignature)
    }
}

/// The key a source signs with. Wiped from memory when dropped, and never printed.
#[derive(Clone)]
pub struct SigningSecret(Zeroizing<Vec<u8>>);

/// Why a text is no [`SigningSecret`]. Says nothing about the text itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error("must not be empty: a secret is `{SECRET_PREFIX}` followed by the key in base64")]
    Empty,
    #[error("has {chars} characters; at most {SECRET_CHARS_MAX} are allowed")]
    TooLong { chars: usize },
    #[error(
        "must be `{SECRET_PREFIX}` followed by standard base64 with padding (A-Z, a-z, 0-9, `+`, `/`, `=`)"
    )]
    NotBase64,
}

impl SigningSecret {
    /// Reads `whsec_` and base64; the prefix may be missing.
    ///
    /// # Errors
    ///
    /// [`SecretError`] saying what a secret looks like.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let chars = text.chars().count();
        if chars > SECRET_CHARS_MAX {
            return Err(SecretError::TooLong { chars });
        }
        let encoded = text.strip_prefix(SECRET_PREFIX).unwrap_or(text);
        let key = STANDARD
            .decode(encoded)
            .map_err(|_| SecretError::NotBase64)?;
        // Everybody knows the empty key.
        if key.is_empty() {
            return Err(SecretError::Empty);
        }
        Ok(Self(Zeroizing::new(key)))
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(redacted)")
    }
}

/// The transport's own id of a delivery, the same on every attempt. Reads `novu:msg_…`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeliveryId(String);

impl DeliveryId {
    fn new(id: &str) -> Result<Self, Rejection> {
        check_name(id).map_err(|why| Rejection::UnusableId { why })?;
        Ok(Self(format!("novu:{id}")))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<DeliveryId> for String {
    fn from(id: DeliveryId) -> Self {
        id.0
    }
}

/// Why a request is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The source has no secret, so nobody can have signed anything.
    #[error("the webhook source has no secret")]
    NoSecret,
    #[error("the header `{name}` is missing or not plain ASCII text")]
    MissingHeader { name: &'static str },
    #[error("the delivery id {why}")]
    UnusableId { why: IdError },
    #[error("the signature's timestamp is not a number of seconds since 1970")]
    UnreadableTimestamp,
    /// Played back, or one of the clocks is wrong. Negative: signed in the future.
    #[error(
        "the request was signed {age_seconds} s ago by our clock; at most {} s either way are allowed",
        .tolerance.as_secs()
    )]
    Stale {
        age_seconds: i64,
        tolerance: Duration,
    },
    #[error("no `v1` signature was made with a secret of this webhook source")]
    NoMatchingSignature,
}

impl Rejection {
    /// A fixed word for counting.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoSecret => "no_secret",
            Self::MissingHeader { .. } => "missing_header",
            Self::UnusableId { .. } => "unusable_id",
            Self::UnreadableTimestamp => "unreadable_timestamp",
            Self::Stale { .. } => "stale",
            Self::NoMatchingSignature => "no_matching_signature",
        }
    }
}

/// The parts of a request that take part in its signature. Nothing is checked yet.
#[derive(Clone, Copy)]
pub struct SignedRequest<'a> {
    pub id: &'a str,
    pub timestamp: &'a str,
    pub signature: &'a str,
    pub body: &'a [u8],
}

impl<'a> SignedRequest<'a> {
    /// Takes the first family of headers that is there in full.
    ///
    /// # Errors
    ///
    /// [`Rejection::MissingHeader`] when neither is; it names the one that is missing from the
    /// family the sender seems to use.
    pub fn from_headers(headers: &'a HeaderMap, body: &'a [u8]) -> Result<Self, Rejection> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let in_full = FAMILIES.iter().find_map(|family| {
            Some(Self {
                id: text(family.id)?,
                timestamp: text(family.timestamp)?,
                signature: text(family.signature)?,
                body,
            })
        });
        in_full.ok_or_else(|| {
            let names = |family: &Family| [family.id, family.timestamp, family.signature];
            let [first, _] = &FAMILIES;
            let used = FAMILIES
                .iter()
                .find(|family| names(family).iter().any(|name| text(name).is_some()))
                .unwrap_or(first);
            let missing = names(used).into_iter().find(|name| text(name).is_none());
            Rejection::MissingHeader {
                name: missing.unwrap_or(used.id),
            }
        })
    }

    fn check_age(&self, now: Timestamp, tolerance: Duration) -> Result<(), Rejection> {
        let signed_at: i64 = self
            .timestamp
            .parse()
            .map_err(|_| Rejection::UnreadableTimestamp)?;
        let age_micros = i128::from(now.as_micros()) - i128::from(signed_at) * MICROS_PER_SECOND;
        if age_micros.unsigned_abs() <= tolerance.as_micros() {
            return Ok(());
        }
        let age_seconds = i64::try_from(age_micros / MICROS_PER_SECOND);
        Err(Rejection::Stale {
            // Only a nonsensical timestamp is so far off that its age does not fit.
            age_seconds: age_seconds.map_err(|_| Rejection::UnreadableTimestamp)?,
            tolerance,
        })
    }

    /// One pass over the body for each secret, however many signatures a header lists, so that
    /// nobody makes us hash a large body a thousand times.
    fn is_signed_with(&self, secret: &SigningSecret) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret.0);
        let mut context = hmac::Context::with_key(&key);
        for part in [
            self.id.as_bytes(),
            b".",
            self.timestamp.as_bytes(),
            b".",
            self.body,
        ] {
            context.update(part);
        }
        let expected = context.sign();
        // `verify` is ring's only comparison in constant time. It wants a tag over the given
        // text, so both sides are hashed once more: the tags are equal only if the texts are.
        let expected_tag = hmac::sign(&key, expected.as_ref());
        self.signatures()
            .any(|given| hmac::verify(&key, &given, expected_tag.as_ref()).is_ok())
    }

    /// The `v1` entries of the list. What isn't base64 can't match, so it is passed over.
    fn signatures(&self) -> impl Iterator<Item = Vec<u8>> + 'a {
        self.signature
            .split_ascii_whitespace()
            .filter_map(|entry| entry.strip_prefix(SIGNATURE_PREFIX))
            .filter_map(|encoded| STANDARD.decode(encoded).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{self, SignatureVector, signature_vectors};
    use super::*;

    const NAMES: [&str; 2] = ["svix", "webhook"];

    fn headers(family: &str, vector: &SignatureVector) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("id", &vector.id),
            ("timestamp", &vector.timestamp),
            ("signature", &vector.signature),
        ] {
            let name: http::HeaderName = format!("{family}-{name}").parse().unwrap();
            headers.insert(name, value.parse().unwrap());
        }
        headers
    }

    /// `seconds` after the vector was signed.
    fn after(vector: &SignatureVector, seconds: i64) -> Timestamp {
        let signed_at: i64 = vector.timestamp.parse().unwrap();
        Timestamp::from_micros((signed_at + seconds) * 1_000_000).unwrap()
    }

    fn secret(text: &str) -> SigningSecret {
        SigningSecret::parse(text).unwrap()
    }

    fn other_secret() -> SigningSecret {
        secret("whsec_YW5vdGhlci1zeW50aGV0aWMta2V5")
    }

    /// The first vector, its body and its secret.
    fn example() -> (SignatureVector, Vec<u8>, SigningSecret) {
        let mut all = signature_vectors();
        let vector = all.vectors.remove(0);
        let body = samples::body(vector.file.strip_suffix(".json").unwrap());
        (vector, body, secret(&all.secret))
    }

    /// What becomes of the first vector with other headers, at the moment it was signed.
    fn with_headers(change: impl FnOnce(&mut HeaderMap)) -> Result<DeliveryId, Rejection> {
        let (vector, body, secret) = example();
        let mut headers = headers("svix", &vector);
        change(&mut headers);
        verify(&headers, &body, &[secret], after(&vector, 0), TOLERANCE)
    }

    #[test]
    fn every_vector_passes_for_five_minutes_either_way_and_no_longer() {
        let all = signature_vectors();
        let secrets = [secret(&all.secret)];
        assert_eq!(all.vectors.len(), samples::names().len());
        for (vector, family) in all.vectors.iter().flat_map(|v| NAMES.map(|name| (v, name))) {
            let body = samples::body(vector.file.strip_suffix(".json").unwrap());
            let headers = headers(family, vector);
            let at = |seconds| {
                verify(&headers, &body, &secrets, after(vector, seconds), TOLERANCE)
                    .map(|id| id.to_string())
            };
            let stale = |age_seconds| {
                Err(Rejection::Stale {
                    age_seconds,
                    tolerance: TOLERANCE,
                })
            };
            for seconds in [0, 300, -300] {
                assert_eq!(
                    at(seconds),
                    Ok(format!("novu:{}", vector.id)),
                    "{}",
                    vector.file
                );
            }
            for seconds in [301, -301] {
                assert_eq!(at(seconds), stale(seconds), "{}", vector.file);
            }
        }
    }

    #[test]
    fn a_single_changed_byte_is_noticed_anywhere() {
        let (vector, body, secret) = example();
        let headers = headers("svix", &vector);
        for place in (0..body.len()).step_by(37).chain([body.len() - 1]) {
            let mut tampered = body.clone();
            tampered[place] ^= 1;
            assert_eq!(
                verify(
                    &headers,
                    &tampered,
                    std::slice::from_ref(&secret),
                    after(&vector, 0),
                    TOLERANCE
                ),
                Err(Rejection::NoMatchingSignature),
            );
        }
        for (name, value) in [
            ("svix-id", "msg_another"),
            ("svix-timestamp", "1773480601"),
            ("svix-signature", "v1,AAAA"),
        ] {
            let outcome = with_headers(|headers| {
                headers.insert(name, value.parse().unwrap());
            });
            assert_eq!(outcome, Err(Rejection::NoMatchingSignature), "{name}");
        }
    }

    #[test]
    fn while_a_secret_is_rotated_either_one_passes() {
        let (vector, body, secret) = example();
        let headers = headers("svix", &vector);
        let with = |secrets: &[SigningSecret]| {
            verify(&headers, &body, secrets, after(&vector, 0), TOLERANCE).is_ok()
        };

        assert!(with(&[other_secret(), secret.clone()]));
        assert!(with(&[secret, other_secret()]));
        assert!(!with(&[other_secret()]));
    }

    #[test]
    fn any_of_several_signatures_may_match() {
        let (vector, ..) = example();
        let with = |signature: String| {
            with_headers(|headers| {
                headers.insert("svix-signature", signature.parse().unwrap());
            })
            .is_ok()
        };
        let good = &vector.signature;
        let foreign = format!("v1,{}", STANDARD.encode([7; 32]));

        assert!(with(format!("{foreign} {good}")));
        assert!(with(format!("v1a,AAAA v1,not-base64 {good} {foreign}")));
        assert!(!with(foreign));
    }

    #[test]
    fn another_version_or_another_alphabet_never_passes() {
        let (vector, ..) = example();
        let tag = vector.signature.strip_prefix("v1,").unwrap();
        for signature in [
            format!("v2,{tag}"),
            format!("v1a,{tag}"),
            tag.to_owned(),
            format!("v1,{}", tag.trim_end_matches('=')),
            format!("v1,{}", tag.replace('/', "_")),
            "v1,".to_owned(),
            String::new(),
        ] {
            let outcome = with_headers(|headers| {
                headers.insert("svix-signature", signature.parse().unwrap());
            });
            assert_eq!(outcome, Err(Rejection::NoMatchingSignature), "{signature}");
        }
    }

    #[test]
    fn the_second_family_helps_out_when_the_first_is_incomplete() {
        let (vector, ..) = example();
        let outcome = with_headers(|all| {
            all.remove("svix-timestamp");
            all.extend(headers("webhook", &vector));
        });

        assert!(outcome.is_ok());
    }

    #[test]
    fn a_complete_first_family_decides_alone() {
        let (vector, ..) = example();
        let outcome = with_headers(|all| {
            all.insert("svix-id", "msg_another".parse().unwrap());
            all.extend(headers("webhook", &vector));
        });

        assert_eq!(outcome, Err(Rejection::NoMatchingSignature));
    }

    #[test]
    fn a_missing_header_is_named() {
        let missing = |name| Err(Rejection::MissingHeader { name });
        for name in ["svix-id", "svix-timestamp", "svix-signature"] {
            let outcome = with_headers(|headers| {
                headers.remove(name);
            });
            assert_eq!(outcome, missing(name));
        }
        assert_eq!(with_headers(HeaderMap::clear), missing("svix-id"));
        let outcome = with_headers(|headers| {
            headers.clear();
            headers.insert("webhook-id", "msg_1".parse().unwrap());
        });
        assert_eq!(outcome, missing("webhook-timestamp"));
    }

    #[test]
    fn a_timestamp_is_whole_seconds() {
        for text in [
            "",
            "now",
            "1773480600.5",
            "2026-03-14T09:30:00Z",
            "99999999999999999999",
        ] {
            let outcome = with_headers(|headers| {
                headers.insert("svix-timestamp", text.parse().unwrap());
            });
            assert_eq!(outcome, Err(Rejection::UnreadableTimestamp), "{text}");
        }
        for text in [i64::MAX, i64::MIN] {
            let outcome = with_headers(|headers| {
                headers.insert("svix-timestamp", text.into());
            });
            assert!(matches!(
                outcome,
                Err(Rejection::Stale { .. } | Rejection::UnreadableTimestamp)
            ));
        }
    }

    #[test]
    fn a_delivery_id_is_a_name() {
        for (id, why) in [
            ("x".repeat(257), IdError::TooLong { chars: 257 }),
            ("a\tb".to_owned(), IdError::ControlCharacter),
            (String::new(), IdError::Empty),
        ] {
            let outcome = with_headers(|headers| {
                headers.insert("svix-id", id.parse().unwrap());
            });
            assert_eq!(outcome, Err(Rejection::UnusableId { why }));
        }
    }

    #[test]
    fn without_a_secret_nothing_passes() {
        let (vector, body, _) = example();
        let outcome = verify(
            &headers("svix", &vector),
            &body,
            &[],
            after(&vector, 0),
            TOLERANCE,
        );

        assert_eq!(outcome, Err(Rejection::NoSecret));
    }

    #[test]
    fn a_secret_may_come_without_its_prefix() {
        let (vector, body, _) = example();
        let all = signature_vectors();
        let bare = secret(all.secret.strip_prefix("whsec_").unwrap());

        assert!(
            verify(
                &headers("svix", &vector),
                &body,
                &[bare],
                after(&vector, 0),
                TOLERANCE
            )
            .is_ok()
        );
    }

    #[test]
    fn a_secret_that_is_none_is_refused_with_the_reason() {
        let refused = |text: &str| SigningSecret::parse(text).unwrap_err();

        assert_eq!(refused(""), SecretError::Empty);
        assert_eq!(refused("whsec_"), SecretError::Empty);
        assert_eq!(refused("whsec_äöü"), SecretError::NotBase64);
        assert_eq!(refused("whsec_c2FtcGxlLQ"), SecretError::NotBase64);
        assert_eq!(refused("whsec_c2Ft cGxl"), SecretError::NotBase64);
        assert_eq!(
            refused(&"A".repeat(260)),
            SecretError::TooLong { chars: 260 }
        );
    }

    #[test]
    fn a_secret_is_never_printed() {
        assert_eq!(format!("{:?}", other_secret()), "SigningSecret(redacted)");
    }
}
