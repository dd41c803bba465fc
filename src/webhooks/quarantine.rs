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
use crate::ledger::registry::{EntryId, QuarantineEntry, SourceId};
use crate::ledger::sealing::outside_streams;
use crate::problem::Problem;

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
    let sealed_body = seal(state, tenant, delivery.source_id, entry_id, subject, body).await?;
    let entry = QuarantineEntry {
        entry_id,
        source_id: delivery.source_id,
        delivery_id: delivery.delivery_id.clone(),
        reason: reason.to_owned(),
        sealed_body,
        received_at: delivery.received_at,
    };
    state.registry.quarantine(tenant, &entry).await?;
    Ok(())
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
}
