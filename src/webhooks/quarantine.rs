//! Bodies that wait for a person: kept byte for byte, sealed like everything a provider says.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use zeroize::Zeroizing;

use super::record::Delivery;
use crate::api::ApiState;
use crate::domain::event::Sealed;
use crate::domain::ids::{EventId, SubscriberId};
use crate::domain::sealing::Subject;
use crate::ledger::LedgerError;
use crate::ledger::record::TenantPlace;
use crate::ledger::registry::{EntryId, QuarantineEntry, Quarantined, SourceId};
use crate::ledger::sealing::outside_streams;
use crate::problem::Problem;

/// How often a body is sealed anew because its subscriber was erased meanwhile.
const ATTEMPTS_MAX: usize = 10;
/// Entries read in one statement: bodies may be large.
const ENTRIES_PER_READ: i64 = 10;

/// What is sealed begins with how the body is written, because only text can be sealed.
const AS_TEXT: &str = "text:";
const AS_BASE64: &str = "base64:";

/// Where a body may name the subscriber it is about, most telling first.
const SUBSCRIBER_POINTERS: [&str; 4] = [
    "/data/object/subscriberId",
    "/data/object/subscriber/subscriberId",
    "/data/subscriberId",
    "/data/object/_subscriberId",
];

/// Puts a delivery into quarantine. One that is there already stays as it is.
///
/// # Errors
///
/// A problem when it can't be made durable: the provider must send it again.
pub async fn keep(
    state: &ApiState,
    delivery: &Delivery,
    body: &[u8],
    reason: &str,
    subject: &Subject,
) -> Result<(), Problem> {
    let tenant = &delivery.tenant;
    let entry_id = EntryId::of(delivery.source_id, &delivery.delivery_id);
    if state.registry.entry(tenant, entry_id).await?.is_some() {
        return Ok(());
    }
    for _ in 0..ATTEMPTS_MAX {
        let sealed_body = seal(state, tenant, delivery.source_id, entry_id, subject, body).await?;
        let entry = QuarantineEntry {
            entry_id,
            source_id: delivery.source_id,
            delivery_id: delivery.delivery_id.clone(),
            reason: reason.to_owned(),
            sealed_body,
            received_at: delivery.received_at,
        };
        match state.registry.quarantine(tenant, &entry).await? {
            Quarantined::Added | Quarantined::Known => return Ok(()),
            Quarantined::KeyDestroyed => state.ledger.forget_key(tenant, &entry.sealed_body),
        }
    }
    Err(LedgerError::Contended.into())
}

/// Drops the bodies that name a subscriber, whoever's key they are sealed under, and says of how
/// many. Those under the subscriber's own key need no help once that is destroyed.
///
/// # Errors
///
/// A problem when the database does not answer. A repeat finds what is left.
pub async fn erase(
    state: &ApiState,
    tenant: &TenantPlace,
    subscriber_id: &SubscriberId,
) -> Result<usize, Problem> {
    let entries = naming(state, tenant, subscriber_id).await?;
    for entry_id in &entries {
        state.registry.empty(tenant, *entry_id).await?;
    }
    Ok(entries.len())
}

/// The entries whose bodies can be read and name a subscriber.
///
/// # Errors
///
/// A problem when the database does not answer.
pub async fn naming(
    state: &ApiState,
    tenant: &TenantPlace,
    subscriber_id: &SubscriberId,
) -> Result<Vec<EntryId>, Problem> {
    let mut naming = Vec::new();
    let mut after = None;
    loop {
        let entries = state
            .registry
            .entries(tenant, after, ENTRIES_PER_READ)
            .await?;
        let Some(last) = entries.last() else {
            return Ok(naming);
        };
        after = Some(last.cursor());
        for entry in &entries {
            let body = open(state, tenant, entry).await?;
            if body.is_some_and(|body| names(&body, subscriber_id)) {
                naming.push(entry.entry_id);
            }
        }
    }
}

async fn seal(
    state: &ApiState,
    tenant: &TenantPlace,
    source_id: SourceId,
    entry_id: EntryId,
    subject: &Subject,
    body: &[u8],
) -> Result<Sealed, LedgerError> {
    let place = outside_streams(tenant, source_id.0);
    let text = written(body);
    state
        .ledger
        .seal_apart(&place, subject, EventId(entry_id.0), &text)
        .await
}

/// The body of an entry, as it came. `None` once its subscriber was erased.
///
/// # Errors
///
/// [`LedgerError::Unopenable`] when what is stored was altered.
pub async fn open(
    state: &ApiState,
    tenant: &TenantPlace,
    entry: &QuarantineEntry,
) -> Result<Option<Zeroizing<Vec<u8>>>, LedgerError> {
    let place = outside_streams(tenant, entry.source_id.0);
    let id = EventId(entry.entry_id.0);
    let Some(text) = state.ledger.open(&place, id, &entry.sealed_body).await? else {
        return Ok(None);
    };
    read(&text).map(Some).ok_or(LedgerError::Unopenable)
}

fn written(body: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(match std::str::from_utf8(body) {
        Ok(text) => format!("{AS_TEXT}{text}"),
        Err(_) => format!("{AS_BASE64}{}", STANDARD.encode(body)),
    })
}

fn read(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    if let Some(text) = text.strip_prefix(AS_TEXT) {
        return Some(Zeroizing::new(text.as_bytes().to_vec()));
    }
    let encoded = text.strip_prefix(AS_BASE64)?;
    STANDARD.decode(encoded).ok().map(Zeroizing::new)
}

/// Whose key a body that was not understood is sealed under: the subscriber's whom it names, so
/// that it goes when they do; else the source's own.
pub fn subject_of(body: &[u8]) -> Subject {
    // A body that is nested too deeply to be read is not.
    let document: Option<Value> = serde_json::from_slice(body).ok();
    let named = document.iter().flat_map(|document| {
        SUBSCRIBER_POINTERS
            .iter()
            .filter_map(|pointer| document.pointer(pointer)?.as_str())
            .filter_map(|id| SubscriberId::new(id).ok())
    });
    named
        .map(Subject::Subscriber)
        .next()
        .unwrap_or(Subject::Stream)
}

/// Whether a body says of anything that it is about a subscriber: wherever that may stand, because
/// a body that was not understood may have any form.
fn names(body: &[u8], subscriber_id: &SubscriberId) -> bool {
    let id = subscriber_id.as_str();
    match serde_json::from_slice::<Value>(body) {
        Ok(document) => value_names(&document, id),
        Err(_) => text_names(&String::from_utf8_lossy(body), id),
    }
}

fn value_names(value: &Value, id: &str) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(key, value)| match value {
            Value::String(text) => text == id && is_subscriber_id(key),
            Value::Object(inner) if key.eq_ignore_ascii_case("subscriber") => {
                let own = ["id", "_id"]
                    .iter()
                    .filter_map(|key| inner.get(*key)?.as_str());
                own.into_iter().any(|text| text == id) || value_names(value, id)
            }
            _ => value_names(value, id),
        }),
        Value::Array(values) => values.iter().any(|value| value_names(value, id)),
        _ => false,
    }
}

/// As far as that can be told without understanding the text: `"subscriberId": "…"`.
fn text_names(text: &str, id: &str) -> bool {
    let quoted = Value::from(id).to_string();
    text.match_indices(&quoted).any(|(at, _)| {
        let before = text[..at].trim_end().strip_suffix(':').map(str::trim_end);
        let key = before.and_then(|before| before.strip_suffix('"')?.rsplit('"').next());
        key.is_some_and(is_subscriber_id)
    })
}

/// `subscriberId`, `_subscriberId`, `subscriber_id` and the like.
fn is_subscriber_id(key: &str) -> bool {
    let letters = key.chars().filter(|letter| *letter != '_');
    letters
        .map(|letter| letter.to_ascii_lowercase())
        .eq("subscriberid".chars())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_body_comes_back_as_it_was() {
        for body in [
            &b"{\"a\": 1}"[..],
            b"",
            b"\0\x01",
            b"\xff\xfe\x00",
            b"base64:AAAA",
            "text:\u{e4}".as_bytes(),
        ] {
            assert_eq!(read(&written(body)).unwrap().as_slice(), body);
        }
    }

    #[test]
    fn a_body_goes_with_the_subscriber_it_names() {
        let subscriber = |id: &str| Subject::Subscriber(SubscriberId::new(id).unwrap());

        for (body, expected) in [
            (
                r#"{"data": {"object": {"subscriberId": "a"}, "subscriberId": "b"}}"#,
                subscriber("a"),
            ),
            (
                r#"{"data": {"object": {"subscriber": {"subscriberId": "a"}}}}"#,
                subscriber("a"),
            ),
            (
                r#"{"data": {"object": {"subscriberId": 7}, "subscriberId": "b"}}"#,
                subscriber("b"),
            ),
            (
                r#"{"data": {"object": {"_subscriberId": "c", "subscriberId": ""}}}"#,
                subscriber("c"),
            ),
            (r#"{"data": []}"#, Subject::Stream),
            ("not JSON", Subject::Stream),
        ] {
            assert_eq!(subject_of(body.as_bytes()), expected, "{body}");
        }
        assert_eq!(subject_of("[".repeat(100_000).as_bytes()), Subject::Stream);
    }

    #[test]
    fn a_body_names_a_subscriber_wherever_it_says_so() {
        let ann = SubscriberId::new("ann").unwrap();
        for body in [
            r#"{"data": {"object": {"subscriberId": "ann"}}}"#,
            r#"{"a": [{"b": {"_subscriberId": "ann"}}]}"#,
            r#"{"subscriber_id": "\u0061nn"}"#,
            r#"{"subscriber": {"_id": "ann"}}"#,
            r#"{"subscriber": {"more": {"subscriberId": "ann"}}}"#,
            r#"{"subscriberId": "ann"}{"subscriberId": "ann"}"#,
            r#"{"to": {"subscriberId" : "ann", "em"#,
        ] {
            assert!(names(body.as_bytes(), &ann), "{body}");
        }
        for body in [
            r#"{"data": {"object": {"subscriberId": "anna"}}}"#,
            r#"{"channel": "ann"}"#,
            r#"{"subscriber": {"name": "ann"}}"#,
            r#"{"channel": "ann"}{"#,
            r#"{"subscriberId": "anna"}{"#,
            r#""ann""#,
            "ann",
            "",
        ] {
            assert!(!names(body.as_bytes(), &ann), "{body}");
        }
        assert!(!names(&[0xff, 0xfe], &ann));
    }
}
