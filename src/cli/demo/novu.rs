//! Novu, as far as the ledger can tell: signs webhooks and posts them to the source's address.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::caller::{Caller, Reply};
use super::cast::{Person, Route, Workflow};
use crate::domain::ids::TenantId;
use crate::domain::time::Timestamp;
use crate::ledger::registry::{
    NewSource, Registry, RegistryError, SourceChange, SourceId, Unmatched,
};

/// Name of the demo's webhook source.
const SOURCE_NAME: &str = "demo";
/// A demo has one source; nobody needs to page.
const SOURCES_MAX: i64 = 100;
const KEY_BYTES: usize = 32;

/// A provider with a secret.
#[derive(Debug)]
pub(super) struct Novu {
    path: String,
    key: hmac::Key,
}

/// One message as Novu keeps it. Its webhooks repeat all that is known of it by then.
#[derive(Debug)]
pub(super) struct NovuMessage {
    pub(super) id: String,
    pub(super) transaction_id: String,
    pub(super) provider_message_id: String,
    pub(super) workflow: &'static Workflow,
    pub(super) route: &'static Route,
    pub(super) person: &'static Person,
    pub(super) created_at: Timestamp,
    pub(super) delivered_at: Option<Timestamp>,
    pub(super) seen_at: Option<Timestamp>,
    pub(super) read_at: Option<Timestamp>,
    /// Code and words of the mail server.
    pub(super) error: Option<[&'static str; 2]>,
}

impl Novu {
    /// Takes over the demo's source, or makes it, with a new secret.
    ///
    /// # Errors
    ///
    /// [`RegistryError`] when the source can't be stored.
    pub(super) async fn connect(
        registry: &Registry,
        tenant_id: &TenantId,
    ) -> Result<Self, RegistryError> {
        let mut key = [0; KEY_BYTES];
        let filled = SystemRandom::new().fill(&mut key);
        filled.map_err(|_| RegistryError::NoRandomness(crate::ledger::sealing::NoRandomness))?;
        let secrets = vec![SecretString::from(format!(
            "whsec_{}",
            STANDARD.encode(key)
        ))];
        let sources = registry.sources(tenant_id, None, SOURCES_MAX).await?;
        let standing = sources
            .into_iter()
            .find(|source| source.name == SOURCE_NAME);
        let source_id = match standing {
            Some(source) => {
                let change = SourceChange {
                    secrets: Some(secrets),
                    paused: Some(false),
                    ..SourceChange::default()
                };
                registry
                    .update_source(source.source_id, tenant_id, change)
                    .await?;
                source.source_id
            }
            None => create(registry, tenant_id, secrets).await?,
        };
        Ok(Self {
            path: format!("/webhooks/novu/{source_id}"),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
        })
    }

    /// Delivers one webhook. The same delivery id means the same delivery, tried again.
    pub(super) async fn deliver(
        &self,
        caller: &Caller,
        delivery_id: &str,
        event: &str,
        message: &NovuMessage,
        now: Timestamp,
    ) -> Reply {
        let body = message.webhook(delivery_id, event, now).to_string();
        let headers = self.signed(delivery_id, now, &body);
        caller.post_raw(&self.path, body, headers).await
    }

    /// Signs as Standard Webhooks says: id, time and the very bytes that are sent.
    fn signed(&self, delivery_id: &str, now: Timestamp, body: &str) -> HeaderMap {
        let seconds = now.unix_millis() / 1000;
        let signature = hmac::sign(
            &self.key,
            format!("{delivery_id}.{seconds}.{body}").as_bytes(),
        );
        let signature = format!("v1,{}", STANDARD.encode(signature));
        let headers = [
            ("svix-id", delivery_id.to_owned()),
            ("svix-timestamp", seconds.to_string()),
            ("svix-signature", signature),
        ];
        let headers = headers.into_iter().filter_map(|(name, value)| {
            let value = HeaderValue::from_str(&value).ok()?;
            Some((HeaderName::from_static(name), value))
        });
        headers.collect()
    }
}

async fn create(
    registry: &Registry,
    tenant_id: &TenantId,
    secrets: Vec<SecretString>,
) -> Result<SourceId, RegistryError> {
    let new = NewSource {
        source_id: None,
        tenant_id: tenant_id.clone(),
        provider: "novu".to_owned(),
        name: SOURCE_NAME.to_owned(),
        unmatched: Unmatched::Adopt,
        secrets,
    };
    Ok(registry.create_source(new).await?.source_id)
}

impl NovuMessage {
    /// The body Novu sends for an event such as `message.sent`.
    fn webhook(&self, delivery_id: &str, event: &str, now: Timestamp) -> Value {
        let mut object = json!({
            "_id": self.id,
            "transactionId": self.transaction_id,
            "workflowId": self.workflow.id,
            "templateIdentifier": self.workflow.id,
            "stepId": self.route.step,
            "channel": self.route.channel,
            "providerId": self.route.provider,
            "providerResponseId": self.provider_message_id,
            "subscriberId": self.person.id,
            "status": "sent",
            "seen": self.seen_at.is_some(),
            "read": self.read_at.is_some(),
            "createdAt": self.created_at,
            "updatedAt": now,
        });
        if let Some(at) = self.delivered_at {
            object["deliveredAt"] = json!([at]);
        }
        if let Some(at) = self.seen_at {
            object["firstSeenDate"] = json!(at);
            object["lastSeenDate"] = json!(at);
        }
        if let Some(at) = self.read_at {
            object["lastReadDate"] = json!(at);
        }
        let mut data = json!({});
        if let Some([code, words]) = self.error {
            object["status"] = json!("error");
            object["errorId"] = json!(code);
            object["errorText"] = json!(words);
            data["error"] = json!({ "message": words });
        }
        data["object"] = object;
        json!({
            "id": format!("evt_{delivery_id}"),
            "type": event,
            "object": "message",
            "data": data,
            "timestamp": now,
            "environmentId": "demo",
        })
    }
}
