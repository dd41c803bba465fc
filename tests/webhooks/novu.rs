//! Novu, as far as it can be seen from here: its recorded bodies, and a signer that is not ours.

use std::path::PathBuf;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use ring::hmac;
use serde::Deserialize;
use serde_json::Value;
use svix::webhooks::Webhook;

/// The names headers go by.
pub(crate) const FAMILIES: [&str; 2] = ["svix", "webhook"];

#[derive(Deserialize)]
pub(crate) struct SignatureVectors {
    pub(crate) secret: String,
    pub(crate) vectors: Vec<SignatureVector>,
}

#[derive(Deserialize)]
pub(crate) struct SignatureVector {
    pub(crate) file: String,
    pub(crate) id: String,
    pub(crate) timestamp: String,
    pub(crate) signature: String,
}

impl SignatureVector {
    pub(crate) fn name(&self) -> &str {
        self.file.strip_suffix(".json").unwrap()
    }

    pub(crate) fn seconds(&self) -> i64 {
        self.timestamp.parse().unwrap()
    }

    pub(crate) fn signed(&self) -> Signed {
        Signed {
            family: FAMILIES[0],
            id: self.id.clone(),
            timestamp: self.timestamp.clone(),
            signature: self.signature.clone(),
            body: body(self.name()),
        }
    }
}

/// A request, signed.
#[derive(Clone)]
pub(crate) struct Signed {
    pub(crate) family: &'static str,
    pub(crate) id: String,
    pub(crate) timestamp: String,
    pub(crate) signature: String,
    pub(crate) body: Vec<u8>,
}

impl Signed {
    pub(crate) fn request(&self, source: &str) -> Request<Body> {
        let Self { family, .. } = self;
        Request::post(format!("/webhooks/novu/{source}"))
            .header("content-type", "application/json")
            .header(format!("{family}-id"), &self.id)
            .header(format!("{family}-timestamp"), &self.timestamp)
            .header(format!("{family}-signature"), &self.signature)
            .body(Body::from(self.body.clone()))
            .unwrap()
    }
}

/// Signs with the delivery service's own library.
pub(crate) fn sign(secret: &str, id: &str, seconds: i64, body: &[u8]) -> Signed {
    let webhook = Webhook::new(secret).unwrap();
    let signature = webhook.sign(id, seconds, body);
    Signed {
        family: FAMILIES[0],
        id: id.to_owned(),
        timestamp: seconds.to_string(),
        // The library signs text only.
        signature: signature.unwrap_or_else(|_| signed_bytes(secret, id, seconds, body)),
        body: body.to_vec(),
    }
}

fn signed_bytes(secret: &str, id: &str, seconds: i64, body: &[u8]) -> String {
    let key = STANDARD
        .decode(secret.strip_prefix("whsec_").unwrap())
        .unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let content = [format!("{id}.{seconds}.").as_bytes(), body].concat();
    format!("v1,{}", STANDARD.encode(hmac::sign(&key, &content)))
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/novu")
}

pub(crate) fn signature_vectors() -> SignatureVectors {
    let text = std::fs::read(folder().join("signature-vectors.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// The secret the vectors were signed with.
pub(crate) fn secret() -> String {
    signature_vectors().secret
}

/// The exact bytes of one recorded body, such as `message.sent.sms`.
pub(crate) fn body(name: &str) -> Vec<u8> {
    std::fs::read(folder().join("webhooks").join(format!("{name}.json"))).unwrap()
}

/// A recorded body, changed.
pub(crate) fn body_with(name: &str, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut value = serde_json::from_slice(&body(name)).unwrap();
    change(&mut value);
    serde_json::to_vec(&value).unwrap()
}

/// A recorded body about another transaction and, so that it is another message, another one.
pub(crate) fn of_transaction(name: &str, transaction_id: &str) -> Vec<u8> {
    body_with(name, |body| {
        let object = &mut body["data"]["object"];
        let id = object["_id"].as_str().unwrap();
        object["_id"] = format!("{id}-{transaction_id}").into();
        if let Some(provider) = object.get("providerResponseId").and_then(Value::as_str) {
            object["providerResponseId"] = format!("{provider}-{transaction_id}").into();
        }
        object["transactionId"] = transaction_id.into();
    })
}

/// The same fact, emitted again by a worker that repeated its job.
pub(crate) fn emitted_again(body: &[u8], number: usize) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(body).unwrap();
    value["id"] = format!("evt_{number:024x}").into();
    value["timestamp"] = format!("2026-03-15T{:02}:00:00.000Z", number % 24).into();
    serde_json::to_vec(&value).unwrap()
}

/// The recorded bodies of the one transaction that most are about, in the order they were sent.
pub(crate) const STORY: [&str; 17] = [
    "message.sent.in_app",
    "message.delivered.in_app",
    "message.sent.email",
    "message.delivered.email",
    "message.seen.email",
    "message.sent.sms",
    "message.sent.push",
    "message.failed.push",
    "message.sent.chat-with-error",
    "message.seen.in_app",
    "message.read.in_app",
    "message.unread.in_app",
    "message.snoozed.in_app",
    "message.unsnoozed.in_app",
    "message.archived.in_app",
    "message.unarchived.in_app",
    "message.deleted.in_app",
];
