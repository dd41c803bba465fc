//! Which stream a fact belongs to.
//!
//! In this order:
//! 1. the transaction id is a notification's own id: that notification;
//! 2. an earlier fact was about the same message: where that one went, so that one message's
//!    facts never part;
//! 3. somebody reported the provider's id of the message before: there;
//! 4. an earlier fact of the transaction went somewhere by (3): there;
//! 5. nobody knows it: the stream it may begin, whose id follows from tenant and transaction, so
//!    that any order and any number of repeats begin the same one.
//!
//! Everything happens within one tenant: another tenant's ids are never looked at.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::novu::mapping::MessageFact;
use crate::domain::event::{MessageRef, names};
use crate::domain::ids::{StreamId, TenantId};
use crate::domain::integration::Change;
use crate::domain::notification::Notification;
use crate::ledger::record::TenantPlace;
use crate::ledger::recordable::{
    message_reference, provider_message_reference, stream_reference, transaction_reference,
};
use crate::ledger::{Ledger, LedgerError, Until};

/// Namespace of streams adopted for a transaction.
const BY_TRANSACTION: Uuid = Uuid::from_u128(0x4a6e_3d0f_7c52_4b8e_9f13_60d2_a5c7_1e01);
/// Namespace of streams adopted for a message whose transaction is not said.
const BY_MESSAGE: Uuid = Uuid::from_u128(0x4a6e_3d0f_7c52_4b8e_9f13_60d2_a5c7_1e02);
/// Namespace of the streams of a provider's other objects.
const OBJECTS: Uuid = Uuid::from_u128(0x4a6e_3d0f_7c52_4b8e_9f13_60d2_a5c7_1e03);
/// `8-4-4-4-12` hexadecimal digits. Other ways to write a UUID are somebody else's ids.
const UUID_CHARS: usize = 36;

/// Where a fact goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A stream that exists.
    Known(StreamId),
    /// The stream it may begin. Another webhook of the transaction may have begun it already, unless
    /// it `is_new`.
    Adoptable { stream_id: StreamId, is_new: bool },
}

/// What is at an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occupant {
    Nothing,
    Notification,
    Other,
}

/// Finds the stream of a fact about a message.
///
/// # Errors
///
/// [`LedgerError`] when the ledger can't be read.
pub async fn target(
    ledger: &Ledger,
    tenant: &TenantPlace,
    fact: &MessageFact,
) -> Result<Target, LedgerError> {
    let own_id = fact.transaction_id.as_deref().and_then(own_id);
    let occupant = match own_id {
        Some(id) => occupant(ledger, tenant, id).await?,
        None => Occupant::Nothing,
    };
    if let (Some(id), Occupant::Notification) = (own_id, occupant) {
        return Ok(Target::Known(id));
    }
    // Most facts are about a message that was heard of before, and most of these a moment ago.
    if let Some(known) = ledger.remembered(tenant, &message_reference(&fact.message_id)) {
        return Ok(Target::Known(known));
    }
    let free = own_id.filter(|_| occupant == Occupant::Nothing);
    let adoptable = free.unwrap_or_else(|| adopted_id(&tenant.tenant_id, fact));
    by_reference(ledger, tenant, fact, adoptable).await
}

/// Where the facts about one of a provider's other objects, such as a workflow, are kept.
pub fn object_stream(tenant_id: &TenantId, change: &Change) -> StreamId {
    // `workflow` of `workflow.updated`. Two kinds of objects may have the same ids.
    let kind = change.change.split('.').next().unwrap_or_default();
    derived(
        OBJECTS,
        &[
            tenant_id.as_str(),
            &change.provider,
            kind,
            &change.object_id,
        ],
    )
}

/// What is at an id now.
///
/// # Errors
///
/// [`LedgerError`] when the ledger can't be read.
pub async fn occupant(
    ledger: &Ledger,
    tenant: &TenantPlace,
    id: StreamId,
) -> Result<Occupant, LedgerError> {
    let stream = tenant.stream(id);
    if ledger.remembers(&stream) {
        return Ok(Occupant::Notification);
    }
    let events = ledger.stream(&stream).await?;
    Ok(events
        .first()
        .map_or(Occupant::Nothing, |first| match first.event_type.as_str() {
            names::REQUESTED | names::ADOPTED => Occupant::Notification,
            _ => Occupant::Other,
        }))
}

/// The id a stream gets when the transaction id could be its id. Whoever triggers Novu first and
/// tells the ledger second then completes the same stream.
fn own_id(transaction_id: &str) -> Option<StreamId> {
    let id = Uuid::try_parse(transaction_id).ok()?;
    // A nil one was forgotten, not chosen.
    (transaction_id.len() == UUID_CHARS && !id.is_nil()).then_some(StreamId(id))
}

fn adopted_id(tenant_id: &TenantId, fact: &MessageFact) -> StreamId {
    match &fact.transaction_id {
        Some(transaction_id) => derived(BY_TRANSACTION, &[tenant_id.as_str(), transaction_id]),
        None => derived(BY_MESSAGE, &[tenant_id.as_str(), &fact.message_id]),
    }
}

/// A `UUIDv5` of some ids.
fn derived(namespace: Uuid, parts: &[&str]) -> StreamId {
    // Ids have no control characters, so no two lists of them give the same text.
    StreamId(Uuid::new_v5(&namespace, parts.join("\n").as_bytes()))
}

async fn by_reference(
    ledger: &Ledger,
    tenant: &TenantPlace,
    fact: &MessageFact,
    adoptable: StreamId,
) -> Result<Target, LedgerError> {
    let message = message_reference(&fact.message_id);
    let provider_message_id = fact.report.message.provider_message_id.as_deref();
    let provider_message = provider_message_id.map(provider_message_reference);
    let transaction = fact.transaction_id.as_deref().map(transaction_reference);
    let references: Vec<String> = [stream_reference(adoptable), message]
        .into_iter()
        .chain(provider_message)
        .chain(transaction)
        .collect();
    let mut found = ledger.referenced(tenant, &references).await?.into_iter();
    let is_new = found.next().flatten().is_none();
    if let Some(known) = found.next().flatten() {
        return Ok(Target::Known(known));
    }
    let others: BTreeSet<StreamId> = found.flatten().collect();
    let mut of_transaction = None;
    for candidate in others {
        let stream = tenant.stream(candidate);
        let Some(loaded) = ledger.load::<Notification>(&stream, Until::Now).await? else {
            continue;
        };
        if provider_agrees(&loaded.aggregate, &fact.report.message) {
            return Ok(Target::Known(candidate));
        }
        if knows_transaction(&loaded.aggregate, fact) {
            of_transaction = Some(candidate);
        }
    }
    Ok(of_transaction.map_or(
        Target::Adoptable {
            stream_id: adoptable,
            is_new,
        },
        Target::Known,
    ))
}

/// The notification knows the provider's id of the message, and not from another message.
/// Providers that count from 1, or call every message `ok`, must not bring strangers together.
fn provider_agrees(notification: &Notification, message: &MessageRef) -> bool {
    let Some(id) = &message.provider_message_id else {
        return false;
    };
    let mut known = notification
        .reports()
        .iter()
        .map(|report| &report.value.message)
        .filter(|known| known.provider_message_id.as_ref() == Some(id))
        .peekable();
    known.peek().is_some()
        && known.all(|known| known.message_id.is_none() || known.message_id == message.message_id)
}

fn knows_transaction(notification: &Notification, fact: &MessageFact) -> bool {
    fact.transaction_id.is_some()
        && notification
            .reports()
            .iter()
            .any(|report| report.value.context.transaction_id == fact.transaction_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(text: &str) -> Option<String> {
        own_id(text).map(|id| id.to_string())
    }

    #[test]
    fn only_a_uuid_as_it_is_usually_written_is_an_id_of_ours() {
        let id = "0195954e-7bb8-7000-8000-00000000002a";

        assert_eq!(own(id).as_deref(), Some(id));
        assert_eq!(own(&id.to_uppercase()).as_deref(), Some(id));
        for other in [
            "txn_66f0a1c4b7d2e90012ab0100",
            "66f0a1c4b7d2e90012ab0100",
            &id.replace('-', ""),
            &format!("{{{id}}}"),
            "00000000-0000-0000-0000-000000000000",
            "",
        ] {
            assert_eq!(own(other), None, "{other}");
        }
    }

    #[test]
    fn derived_ids_never_change() {
        let id = derived(BY_TRANSACTION, &["acme", "txn_66f0a1c4b7d2e90012ab0100"]);

        assert_eq!(id.to_string(), "eaec576f-2127-5550-9912-00cd93e2f40d");
        assert_ne!(
            id,
            derived(BY_MESSAGE, &["acme", "txn_66f0a1c4b7d2e90012ab0100"])
        );
        assert_ne!(
            id,
            derived(BY_TRANSACTION, &["beta", "txn_66f0a1c4b7d2e90012ab0100"])
        );
    }
}
