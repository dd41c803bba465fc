//! Webhooks as Novu sends them: the body of a recorded one, with other ids, signed now.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use uuid::Uuid;

use crate::generator::{Request, Requests};
use crate::http::{Connection, SUBSCRIBERS, Target, request_json};

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

/// Notifications that were requested and about which nothing was reported yet, to be taken by any
/// connection.
pub type Requested = Arc<Mutex<Vec<Ids>>>;

/// Requests so many notifications, 1,000 a call.
pub async fn requested(target: &Target, count: u64) -> Result<Requested> {
    const A_CALL: u64 = 1_000;
    let mut connection = Connection::open(target).await?;
    let mut all = Vec::new();
    while (all.len() as u64) < count {
        let mut commands = Vec::new();
        for _ in 0..A_CALL {
            let number = Uuid::new_v4().as_u64_pair().0 >> 20;
            let id = Uuid::now_v7();
            commands.push(format!(
                r#"{{"type":"request","id":"{id}",{}"#,
                &request_json(number)[1..]
            ));
            all.push(Ids::of(id.to_string(), number % SUBSCRIBERS));
        }
        let body = format!(r#"{{"commands":[{}]}}"#, commands.join(","));
        let answer = connection.call("POST", "/v1/commands", "", &body).await?;
        let answer: serde_json::Value = serde_json::from_slice(answer.ok(200)?)?;
        let results = answer["results"].as_array().context("no results")?;
        // Whatever was refused would be adopted.
        if let Some(refused) = results.iter().find(|result| result["status"] != 201) {
            bail!("not requested: {refused}");
        }
    }
    Ok(Arc::new(Mutex::new(all)))
}

/// For each message that it was sent, then that it was delivered: of messages nobody has told the ledger
/// about.
pub fn of_strangers(path: String) -> Requests {
    webhooks(path, Ids::new)
}

/// The same of notifications that were requested through the ledger.
///
/// # Panics
///
/// In the load, when there are no more of them.
pub fn of_ours(path: String, requested: Requested) -> Requests {
    let next = move || {
        let next = requested.lock().expect("nobody panics with it").pop();
        next.expect("enough were requested before")
    };
    webhooks(path, next)
}

fn webhooks(path: String, mut next: impl FnMut() -> Ids + Send + 'static) -> Requests {
    let key = STANDARD.decode(SECRET).expect("it is base64");
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let mut ids = None;
    Box::new(move || {
        let body = match ids.take() {
            Some(sent) => Ids::put_into(&sent, DELIVERED),
            None => ids.insert(next()).put_into(SENT),
        };
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

/// What tells one message from the others, and whom it is for. Novu's own are of 24 hexadecimal digits.
pub struct Ids {
    message: String,
    run: String,
    /// What the run was triggered with.
    transaction: String,
    subscriber: String,
}

impl Ids {
    fn new() -> Self {
        let subscriber = Uuid::new_v4().as_u64_pair().0 % SUBSCRIBERS;
        Self::of(format!("txn_{}", id()), subscriber)
    }

    fn of(transaction: String, subscriber: u64) -> Self {
        Self {
            message: id(),
            run: id(),
            transaction,
            subscriber: format!("cust-{subscriber}"),
        }
    }

    fn put_into(&self, template: &str) -> String {
        let event = id();
        template
            .replace("66f0a1c4b7d2e90012ab0301", &self.message)
            .replace("66f0a1c4b7d2e90012ab0200", &self.run)
            .replace("txn_66f0a1c4b7d2e90012ab0100", &self.transaction)
            .replace("66f0a1c4b7d2e90012ad0003", &event)
            .replace("66f0a1c4b7d2e90012ad0004", &event)
            .replace("sg-7Kd2mQxTTu6n0Yp1", &self.message)
            .replace("cust-20417", &self.subscriber)
    }
}

fn id() -> String {
    Uuid::new_v4().simple().to_string()[..24].to_owned()
}
