//! Webhooks as Novu sends them: the body of a recorded one, with other ids, signed now.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use uuid::Uuid;

use crate::generator::{Request, Requests};
use crate::http::{Connection, SUBSCRIBERS, Target};

/// The key of 32 bytes that signs, in base64.
const SECRET: &str = "c2FtcGxlLXNpZ25pbmcta2V5LTMyLWJ5dGVzLWxvbmc=";

const SENT: &str = include_str!("../../../tests/fixtures/novu/webhooks/message.sent.email.json");
const DELIVERED: &str =
    include_str!("../../../tests/fixtures/novu/webhooks/message.delivered.email.json");

/// A source of the tenant's; the path where it is called.
pub async fn source(target: &Target) -> Result<String> {
    let body = format!(r#"{{"provider":"novu","name":"bench","secrets":["whsec_{SECRET}"]}}"#);
    let mut connection = Connection::open(target).await?;
    let answer = connection
        .call("POST", "/v1/webhook-sources", "", &body)
        .await?;
    let source: serde_json::Value = serde_json::from_slice(answer.ok(201)?)?;
    let id = source["id"].as_str().context("no id")?;
    Ok(format!("/webhooks/novu/{id}"))
}

/// For each new message that it was sent, then that it was delivered.
pub fn webhooks(path: String) -> Requests {
    let key = STANDARD.decode(SECRET).expect("it is base64");
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let mut ids = Ids::new();
    let mut is_sent = false;
    Box::new(move || {
        let template = if is_sent { DELIVERED } else { SENT };
        if !is_sent {
            ids = Ids::new();
        }
        is_sent = !is_sent;
        let body = ids.put_into(template);
        let delivery = format!("msg_{}", Uuid::new_v4().simple());
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_secs());
        let signed = hmac::sign(&key, format!("{delivery}.{now}.{body}").as_bytes());
        let signature = STANDARD.encode(signed);
        Request {
            method: "POST",
            path: path.clone().into(),
            headers: format!(
                "svix-id: {delivery}\r\nsvix-timestamp: {now}\r\nsvix-signature: v1,{signature}\r\n"
            ),
            body,
            status: 200,
            weight: 1,
        }
    })
}

/// What tells one message from the others, 24 hexadecimal digits each, and whom it is for.
struct Ids {
    message: String,
    run: String,
    subscriber: String,
}

impl Ids {
    fn new() -> Self {
        let id = || Uuid::new_v4().simple().to_string()[..24].to_owned();
        Self {
            message: id(),
            run: id(),
            subscriber: format!("cust-{}", Uuid::new_v4().as_u64_pair().0 % SUBSCRIBERS),
        }
    }

    fn put_into(&self, template: &str) -> String {
        let event = &Uuid::new_v4().simple().to_string()[..24];
        template
            .replace("66f0a1c4b7d2e90012ab0301", &self.message)
            .replace("66f0a1c4b7d2e90012ab0200", &self.run)
            .replace("66f0a1c4b7d2e90012ab0100", &self.run)
            .replace("66f0a1c4b7d2e90012ad0003", event)
            .replace("66f0a1c4b7d2e90012ad0004", event)
            .replace("sg-7Kd2mQxTTu6n0Yp1", &self.message)
            .replace("cust-20417", &self.subscriber)
    }
}
