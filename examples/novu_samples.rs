//! Plays Novu: signs the recorded webhooks with the delivery service's own library, posts them to
//! a running ledger, and shows the history it made of them.
//!
//! ```text
//! cargo run --example novu_samples -- --key nlop_… [--url http://127.0.0.1:8080] [--tenant demo]
//! cargo run --example novu_samples -- --source-url http://…/webhooks/novu/… --secret whsec_… [--key nl_…]
//! ```
//!
//! With an operator's key and `--tenant`, the tenant is created if need be; with a tenant's own key
//! (scopes `admin` and `read`) leave `--tenant` out. A second run sends the same deliveries again,
//! and all of them are duplicates.

#![expect(clippy::print_stdout, reason = "what it prints is what it is for")]

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Parser;
use notification_ledger::clock::{Clock, System};
use reqwest::{Client, RequestBuilder, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use svix::webhooks::Webhook;

const MICROS_PER_SECOND: i64 = 1_000_000;

/// Posts Novu's recorded webhooks to a running ledger and shows what it made of them.
#[derive(Parser)]
struct Arguments {
    /// Where the ledger listens.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: Url,
    /// An API key: makes a webhook source if none is given, and reads the history.
    #[arg(long, env = "LEDGER_KEY", required_unless_present = "source_url")]
    key: Option<String>,
    /// With an operator's key: the tenant to act for. It is created if it does not exist.
    #[arg(long)]
    tenant: Option<String>,
    /// A webhook source that exists.
    #[arg(long, requires = "secret")]
    source_url: Option<Url>,
    /// That source's signing secret.
    #[arg(long, env = "NOVU_SECRET")]
    secret: Option<String>,
}

/// The recorded bodies, in the order Novu sent them.
#[derive(Deserialize)]
struct Samples {
    secret: String,
    vectors: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    file: String,
    id: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let samples = samples()?;
    let ledger = arguments.key.as_deref().map(|key| Api {
        client: Client::new(),
        url: &arguments.url,
        key,
        tenant: arguments.tenant.as_deref(),
    });
    let secret = arguments.secret.as_deref().unwrap_or(&samples.secret);
    let source_url = match (&arguments.source_url, &ledger) {
        (Some(url), _) => url.clone(),
        (None, Some(ledger)) => ledger.source(secret).await?,
        (None, None) => bail!("give --key, or --source-url and --secret"),
    };

    let notifications = post(&source_url, secret, &samples).await?;
    if let Some(ledger) = &ledger {
        for id in notifications {
            ledger.show(&id).await?;
        }
        ledger.show_changes().await?;
    }
    Ok(())
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/novu")
}

fn samples() -> anyhow::Result<Samples> {
    let path = folder().join("signature-vectors.json");
    let text = std::fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
    Ok(serde_json::from_slice(&text)?)
}

/// Posts every sample, signed now. Returns the notifications they belong to, in the order in which
/// they were first heard of.
async fn post(source: &Url, secret: &str, samples: &Samples) -> anyhow::Result<Vec<String>> {
    let signer = Webhook::new(secret)?;
    let client = Client::new();
    let mut notifications = Vec::new();
    println!("Posting {} webhooks to {source}\n", samples.vectors.len());
    for sample in &samples.vectors {
        let body = std::fs::read(folder().join("webhooks").join(&sample.file))?;
        let now = System.now().as_micros() / MICROS_PER_SECOND;
        let request = client
            .post(source.clone())
            .header("content-type", "application/json")
            .header("svix-id", &sample.id)
            .header("svix-timestamp", now.to_string())
            .header("svix-signature", signer.sign(&sample.id, now, &body)?)
            .body(body);
        let answer = answer(request).await?;
        let outcome = answer["outcome"].as_str().unwrap_or_default();
        let name = sample.file.trim_end_matches(".json");
        let id = answer["notification_id"].as_str().unwrap_or_default();
        println!("  {outcome:<12} {name:<30} {id}");
        if !id.is_empty() && notifications.iter().all(|known| known != id) {
            notifications.push(id.to_owned());
        }
    }
    Ok(notifications)
}

/// The ledger's API, on behalf of one tenant.
struct Api<'a> {
    client: Client,
    url: &'a Url,
    key: &'a str,
    tenant: Option<&'a str>,
}

impl Api<'_> {
    fn at(&self, path: &str) -> anyhow::Result<Url> {
        let base = self.url.as_str().trim_end_matches('/');
        Ok(format!("{base}{path}").parse()?)
    }

    fn as_tenant(&self, request: RequestBuilder) -> RequestBuilder {
        let request = request.bearer_auth(self.key);
        match self.tenant {
            Some(tenant) => request.header("x-tenant-id", tenant),
            None => request,
        }
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        answer(self.as_tenant(self.client.get(self.at(path)?))).await
    }

    /// The address of a source that takes webhooks signed with `secret`. Made once, however often
    /// this runs.
    async fn source(&self, secret: &str) -> anyhow::Result<Url> {
        if let Some(tenant) = self.tenant {
            self.create_tenant(tenant).await?;
        }
        let new = json!({ "provider": "novu", "name": "recorded samples", "secrets": [secret] });
        let request = self
            .as_tenant(self.client.post(self.at("/v1/webhook-sources")?))
            .header("idempotency-key", "novu-samples")
            .json(&new);
        let source = answer(request).await?;
        let id = source["id"].as_str().context("the source has no id")?;
        // Not its public address, which need not be reachable from here.
        self.at(&format!("/webhooks/novu/{id}"))
    }

    async fn create_tenant(&self, tenant: &str) -> anyhow::Result<()> {
        let request = self
            .client
            .post(self.at("/v1/tenants")?)
            .bearer_auth(self.key);
        let response = request.json(&json!({ "id": tenant })).send().await?;
        match response.status() {
            StatusCode::CREATED | StatusCode::CONFLICT => Ok(()),
            status => bail!(
                "the tenant was not created: {status}: {}",
                response.text().await?
            ),
        }
    }

    /// Prints one notification: how it stands, its messages, its history.
    async fn show(&self, id: &str) -> anyhow::Result<()> {
        let notification = self.get(&format!("/v1/notifications/{id}")).await?;
        let history = self.get(&format!("/v1/notifications/{id}/events")).await?;
        println!(
            "\nNotification {id}: {} for {} through {}",
            text(&notification["status"]),
            text(&notification["subscriber"]["id"]),
            text(&notification["workflow_id"]),
        );
        for message in list(&notification["messages"]) {
            println!(
                "  {:<8} {:<10} {:<10} {}",
                text(&message["channel"]),
                text(&message["status"]),
                text(&message["provider_id"]),
                text(&message["last_error"]["message"]),
            );
        }
        println!();
        for event in list(&history["data"]) {
            let data = &event["data"];
            println!(
                "  {:>3}  {}  {:<25} {:<8} {}",
                text(&event["sequence"]),
                text(&event["occurred_at"]),
                text(&event["type"]),
                text(&data["message"]["channel"]),
                text(
                    data.get("kind")
                        .or(data.get("bounce_type"))
                        .unwrap_or(&Value::Null)
                ),
            );
        }
        for anomaly in list(&notification["anomalies"]) {
            println!(
                "  !    {}: {}",
                text(&anomaly["code"]),
                text(&anomaly["detail"])
            );
        }
        Ok(())
    }

    /// Prints what changed at Novu itself.
    async fn show_changes(&self) -> anyhow::Result<()> {
        let page = self
            .get("/v1/events?types=integration.changed&limit=200")
            .await?;
        println!("\nChanges at Novu");
        for event in list(&page["data"]) {
            println!(
                "  {:>3}  {}  {:<25} {}",
                text(&event["sequence"]),
                text(&event["occurred_at"]),
                text(&event["data"]["change"]),
                text(&event["data"]["object_id"]),
            );
        }
        Ok(())
    }
}

/// The JSON of a successful answer.
async fn answer(request: RequestBuilder) -> anyhow::Result<Value> {
    let response = request.send().await?;
    let (status, url) = (response.status(), response.url().clone());
    let text = response.text().await?;
    if !status.is_success() {
        bail!("{url} answered {status}: {text}");
    }
    serde_json::from_str(&text).with_context(|| format!("{url} answered no JSON"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A value as people read it; `-` for none.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
