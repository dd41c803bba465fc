//! What happens to notifications: lives as they are lived, told to the ledger step by step.
//!
//! Every step is a request that anybody could send, and every line that is shown says what the
//! ledger answered to it.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};

use super::board::{Board, Step, What};
use super::caller::{Caller, Reply};
use super::cast::{Person, Route, Workflow};
use super::dice::Dice;
use super::novu::{Novu, NovuMessage};
use crate::api::request::IDEMPOTENCY_KEY;
use crate::clock::Surroundings;
use crate::domain::time::Timestamp;

/// What every story needs.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) caller: Caller,
    pub(super) novu: Novu,
    pub(super) surroundings: Surroundings,
    pub(super) board: Board,
}

/// How a life may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plot {
    /// As it should.
    Delivered,
    HardBounce,
    SoftBounce,
    /// The provider fails, and a later attempt works.
    Retried,
    /// The provider refuses it for good.
    Failed,
    Retracted,
    /// The retraction overtakes nothing any more.
    RetractedTooLate,
    Suppressed,
    /// The delivery is reported before the sending, and twice.
    OutOfOrder,
    /// The client times out and asks again.
    AskedTwice,
    /// Arrives, and is marked as spam.
    Complaint,
    /// Requested here, and reported by Novu.
    Novu,
    /// Novu sends something the ledger was never told about.
    Adopted,
}

/// With how often it comes up.
const PLOTS: &[(Plot, u64)] = &[
    (Plot::Delivered, 38),
    (Plot::HardBounce, 6),
    (Plot::SoftBounce, 4),
    (Plot::Retried, 8),
    (Plot::Failed, 3),
    (Plot::Retracted, 5),
    (Plot::RetractedTooLate, 4),
    (Plot::Suppressed, 5),
    (Plot::OutOfOrder, 6),
    (Plot::AskedTwice, 4),
    (Plot::Complaint, 2),
    (Plot::Novu, 9),
    (Plot::Adopted, 6),
];

/// About how many events a life comes to: what the plots above give on average.
pub(super) const EVENTS_PER_STORY: f64 = 4.6;

/// Reasons for which something is not sent on purpose.
const SUPPRESSIONS: &[(&str, u64)] = &[("preference", 6), ("rate_limit", 3), ("duplicate", 1)];

/// The story ends here: something was answered that it did not expect.
#[derive(Debug)]
struct Over;

type Told = Result<(), Over>;

/// One life, so far.
struct Story<'a> {
    stage: &'a Stage,
    dice: Dice,
    workflow: &'static Workflow,
    person: &'static Person,
    /// Empty until it is requested.
    id: String,
    shown: bool,
    anomalies: Vec<String>,
    /// Makes up ids that look like a provider's.
    salt: u64,
}

/// Tells one life from beginning to end, at its own pace.
pub(super) async fn tell(stage: &Stage, mut dice: Dice, shown: bool) {
    let plot = dice.weighted(PLOTS).unwrap_or(Plot::Delivered);
    let mut story = Story::new(stage, dice, shown);
    // However it ended, it was shown.
    let _ = story.tell(plot).await;
}

/// Tells one particular life without a pause, and answers with its id: a message that arrives
/// after it was retracted.
pub(super) async fn tell_of_a_late_retraction(stage: &Stage, dice: Dice) -> Option<String> {
    let mut story = Story::new(stage, dice, false);
    story.retracted_too_late(Duration::ZERO).await.ok()?;
    Some(story.id)
}

impl<'a> Story<'a> {
    fn new(stage: &'a Stage, mut dice: Dice, shown: bool) -> Self {
        Self {
            stage,
            workflow: Workflow::any(&mut dice),
            person: Person::any(&mut dice),
            salt: dice.next(),
            dice,
            id: String::new(),
            shown,
            anomalies: Vec::new(),
        }
    }

    async fn tell(&mut self, plot: Plot) -> Told {
        match plot {
            Plot::Delivered => self.delivered().await,
            Plot::HardBounce => self.hard_bounce().await,
            Plot::SoftBounce => self.soft_bounce().await,
            Plot::Retried => self.retried().await,
            Plot::Failed => self.failed().await,
            Plot::Retracted => self.retracted().await,
            Plot::RetractedTooLate => {
                let pause = self.dice.millis(1500, 4000);
                self.retracted_too_late(pause).await
            }
            Plot::Suppressed => self.suppressed().await,
            Plot::OutOfOrder => self.out_of_order().await,
            Plot::AskedTwice => self.asked_twice().await,
            Plot::Complaint => self.complaint().await,
            Plot::Novu => self.reported_by_novu().await,
            Plot::Adopted => self.adopted().await,
        }
    }

    async fn delivered(&mut self) -> Told {
        self.request().await?;
        self.pause(100, 600).await;
        self.queue("").await?;
        for route in self.workflow.routes {
            self.pause(200, 1500).await;
            self.sent(route, self.now(), "").await?;
            self.pause(400, 3000).await;
            self.arrived(route, self.now(), "").await?;
        }
        self.engagement().await
    }

    /// Some look at it, some of those read it, and some of those do what it says.
    async fn engagement(&mut self) -> Told {
        let route = self.main_route();
        for (what, fact, more, chance) in [
            (What::Seen, "seen", json!({}), 55),
            (What::Read, "read", json!({}), 70),
            (What::Clicked, "interacted", json!({ "kind": "clicked" }), 35),
        ] {
            if !self.dice.percent(chance) {
                break;
            }
            self.pause(800, 5000).await;
            self.report(what, fact, route, self.now(), more, "").await?;
        }
        Ok(())
    }

    async fn hard_bounce(&mut self) -> Told {
        let route = self.main_route();
        self.request().await?;
        self.pause(200, 1200).await;
        self.sent(route, self.now(), "").await?;
        self.pause(500, 2500).await;
        let bounce = json!({
            "bounce_type": "hard",
            "code": "550",
            "reason": "5.1.1 The address you sent to does not exist",
        });
        self.bounced(route, bounce, "550 no such address").await
    }

    async fn soft_bounce(&mut self) -> Told {
        let route = self.main_route();
        self.request().await?;
        self.pause(200, 1200).await;
        self.sent(route, self.now(), "").await?;
        self.pause(500, 1500).await;
        let bounce = json!({
            "bounce_type": "soft",
            "code": "452",
            "reason": "4.2.2 The mailbox is full",
        });
        self.bounced(route, bounce, "452 mailbox full, not the end").await?;
        self.pause(2000, 6000).await;
        self.arrived(route, self.now(), "after all").await
    }

    async fn retried(&mut self) -> Told {
        let route = self.main_route();
        self.request().await?;
        self.pause(100, 500).await;
        self.queue("").await?;
        let attempts = 1 + self.dice.below(2);
        for attempt in 1..=attempts {
            self.pause(300, 1200).await;
            let error = json!({
                "error": { "code": "timeout", "message": "the provider did not answer in 10 s" },
                "retryable": true,
                "attempt": attempt,
            });
            let detail = format!("attempt {attempt}: {} timed out", route.provider);
            self.report(What::Failed, "failed", route, self.now(), error, &detail).await?;
            self.pause(800, 2500).await;
            self.queue("again").await?;
        }
        self.pause(200, 900).await;
        let detail = format!("attempt {} worked", attempts + 1);
        self.sent(route, self.now(), &detail).await?;
        self.pause(400, 2000).await;
        self.arrived(route, self.now(), "").await
    }

    async fn failed(&mut self) -> Told {
        let route = self.main_route();
        self.request().await?;
        self.pause(100, 500).await;
        self.queue("").await?;
        self.pause(300, 1200).await;
        let error = json!({
            "error": { "code": "unauthorized", "message": "the provider refused our credentials" },
            "attempt": 1,
        });
        let detail = format!("{} refused our credentials", route.provider);
        self.report(What::Failed, "failed", route, self.now(), error, &detail).await
    }

    async fn retracted(&mut self) -> Told {
        self.request().await?;
        self.pause(200, 900).await;
        self.queue("").await?;
        self.pause(300, 1500).await;
        self.retract("the order was cancelled").await
    }

    async fn retracted_too_late(&mut self, pause: Duration) -> Told {
        let route = self.main_route();
        self.request().await?;
        tokio::time::sleep(pause / 4).await;
        self.queue("").await?;
        tokio::time::sleep(pause / 4).await;
        self.sent(route, self.now(), "").await?;
        tokio::time::sleep(pause / 4).await;
        self.retract("sent to the wrong people").await?;
        tokio::time::sleep(pause).await;
        self.arrived(route, self.now(), "although it was retracted").await
    }

    async fn suppressed(&mut self) -> Told {
        self.request().await?;
        self.pause(50, 400).await;
        let reason = self.dice.weighted(SUPPRESSIONS).unwrap_or("preference");
        let more = json!({ "reason": reason });
        let route = self.main_route();
        self.report(What::Suppressed, "suppressed", route, self.now(), more, reason).await
    }

    async fn out_of_order(&mut self) -> Told {
        let route = self.main_route();
        self.request().await?;
        self.pause(200, 1000).await;
        let sent_at = self.now();
        self.pause(500, 1500).await;
        let delivered_at = self.now();
        self.arrived(route, delivered_at, "reported before the sending").await?;
        self.pause(500, 2500).await;
        self.sent(route, sent_at, "reported late").await?;
        self.pause(300, 1500).await;
        self.arrived(route, delivered_at, "reported twice").await
    }

    async fn asked_twice(&mut self) -> Told {
        let mut headers = HeaderMap::new();
        let key = format!("demo-{:016x}", self.dice.next());
        if let Ok(key) = HeaderValue::from_str(&key) {
            headers.insert(IDEMPOTENCY_KEY, key);
        }
        let body = self.workflow.request(self.person, &mut self.dice);
        self.send_request(&body, headers.clone()).await?;
        self.pause(300, 900).await;
        self.send_request(&body, headers).await?;
        let route = self.main_route();
        self.pause(300, 900).await;
        self.sent(route, self.now(), "").await?;
        self.pause(500, 2500).await;
        self.arrived(route, self.now(), "").await
    }

    async fn complaint(&mut self) -> Told {
        let route = self.main_route();
        self.request().await?;
        self.pause(300, 900).await;
        self.sent(route, self.now(), "").await?;
        self.pause(500, 2500).await;
        self.arrived(route, self.now(), "").await?;
        self.pause(2000, 6000).await;
        let complaint = json!({ "bounce_type": "complaint", "code": "abuse" });
        self.bounced(route, complaint, "marked as spam").await
    }

    async fn reported_by_novu(&mut self) -> Told {
        self.request().await?;
        self.pause(200, 900).await;
        // Our id doubles as Novu's.
        self.life_in_novu(self.id.clone()).await
    }

    async fn adopted(&mut self) -> Told {
        let transaction = format!("txn_{:024x}", u128::from(self.dice.next()));
        self.life_in_novu(transaction).await
    }

    async fn life_in_novu(&mut self, transaction_id: String) -> Told {
        let route = self.main_route();
        let mut message = NovuMessage {
            id: format!("{:024x}", u128::from(self.salt)),
            transaction_id,
            provider_message_id: self.provider_message_id(route),
            workflow: self.workflow,
            route,
            person: self.person,
            created_at: self.now(),
            delivered_at: None,
            seen_at: None,
            read_at: None,
            error: None,
        };
        let delivery = format!("msg_{:016x}", self.dice.next());
        self.webhook(What::Sent, "message.sent", &delivery, &message).await?;
        if self.dice.percent(15) {
            // Novu did not get our answer.
            self.pause(500, 1500).await;
            self.webhook(What::Sent, "message.sent", &delivery, &message).await?;
        }
        self.pause(500, 2500).await;
        if route.channel == "email" && self.dice.percent(15) {
            message.error = Some(["mail_bounced", "550 5.1.1 no such address"]);
            return self.new_webhook(What::Bounced, "message.failed", &message).await;
        }
        message.delivered_at = Some(self.now());
        self.new_webhook(What::Delivered, "message.delivered", &message).await?;
        if self.dice.percent(60) {
            self.pause(1000, 5000).await;
            message.seen_at = Some(self.now());
            self.new_webhook(What::Seen, "message.seen", &message).await?;
        }
        if message.seen_at.is_some() && self.dice.percent(60) {
            self.pause(500, 3000).await;
            message.read_at = Some(self.now());
            self.new_webhook(What::Read, "message.read", &message).await?;
        }
        Ok(())
    }

    async fn request(&mut self) -> Told {
        let body = self.workflow.request(self.person, &mut self.dice);
        self.send_request(&body, HeaderMap::new()).await
    }

    async fn send_request(&mut self, body: &Value, headers: HeaderMap) -> Told {
        let reply = self.stage.caller.post("/v1/notifications", body, headers).await;
        if let Some(id) = reply.body["id"].as_str().filter(|_| reply.status.is_success()) {
            id.clone_into(&mut self.id);
        }
        let id = self.id.clone();
        self.answered(What::Requested, &reply, &id)
    }

    async fn queue(&mut self, detail: &str) -> Told {
        let body = json!({ "queue": "default" });
        let reply = self.command("queue", &body).await;
        self.answered(What::Queued, &reply, detail)
    }

    async fn retract(&mut self, reason: &str) -> Told {
        let reply = self.command("retract", &json!({ "reason": reason })).await;
        self.answered(What::Retracted, &reply, reason)
    }

    async fn sent(&mut self, route: &Route, at: Timestamp, detail: &str) -> Told {
        let detail = self.via(route, detail);
        self.report(What::Sent, "sent", route, at, json!({}), &detail).await
    }

    async fn arrived(&mut self, route: &Route, at: Timestamp, detail: &str) -> Told {
        let detail = self.via(route, detail);
        self.report(What::Delivered, "delivered", route, at, json!({}), &detail).await
    }

    async fn bounced(&mut self, route: &Route, bounce: Value, detail: &str) -> Told {
        self.report(What::Bounced, "bounced", route, self.now(), bounce, detail).await
    }

    /// Reports a fact about one message.
    async fn report(
        &mut self,
        what: What,
        fact: &str,
        route: &Route,
        at: Timestamp,
        mut body: Value,
        detail: &str,
    ) -> Told {
        body["occurred_at"] = json!(at);
        body["message"] = json!({
            "channel": route.channel,
            "step_id": route.step,
            "provider_id": route.provider,
            "provider_message_id": self.provider_message_id(route),
        });
        let reply = self.command(fact, &body).await;
        self.answered(what, &reply, detail)
    }

    async fn command(&self, command: &str, body: &Value) -> Reply {
        let path = format!("/v1/notifications/{}/{command}", self.id);
        self.stage.caller.post(&path, body, HeaderMap::new()).await
    }

    async fn new_webhook(&mut self, what: What, event: &str, message: &NovuMessage) -> Told {
        let delivery = format!("msg_{:016x}", self.dice.next());
        self.webhook(what, event, &delivery, message).await
    }

    async fn webhook(
        &mut self,
        what: What,
        event: &str,
        delivery: &str,
        message: &NovuMessage,
    ) -> Told {
        let Stage { caller, novu, .. } = self.stage;
        let mut reply = novu.deliver(caller, delivery, event, message, self.now()).await;
        let mut detail = "as Novu's webhook says".to_owned();
        if let Some(id) = reply.body["notification_id"].as_str() {
            if self.id.is_empty() {
                detail = format!("adopted: {id}");
            }
            id.clone_into(&mut self.id);
        }
        // A webhook's answer says it in its own word.
        if reply.body["outcome"] == "duplicate" {
            reply.body["deduplicated"] = json!(true);
        }
        self.answered(what, &reply, &detail)
    }

    /// Shows what the ledger made of a step.
    fn answered(&mut self, what: What, reply: &Reply, detail: &str) -> Told {
        if !reply.status.is_success() {
            let code = reply.body["code"].as_str().unwrap_or("no problem document");
            let detail = format!("{}: {} {code}", what.word(), reply.status.as_u16());
            self.show(What::Refused, &detail);
            return Err(Over);
        }
        if reply.replayed || reply.body["deduplicated"] == true {
            self.show(What::Repeat, &format!("{} again: nothing appended", what.word()));
        } else {
            self.show(what, detail);
        }
        for code in anomalies(&reply.body) {
            if !self.anomalies.contains(&code) {
                self.show(What::Anomaly, &code);
                self.anomalies.push(code);
            }
        }
        Ok(())
    }

    fn show(&self, what: What, detail: &str) {
        let step = Step {
            at: self.now(),
            what,
            workflow: self.workflow.id,
            person: self.person.name,
            detail,
        };
        self.stage.board.step(&step, self.shown);
    }

    async fn pause(&mut self, from_ms: u64, to_ms: u64) {
        tokio::time::sleep(self.dice.millis(from_ms, to_ms)).await;
    }

    fn now(&self) -> Timestamp {
        self.stage.surroundings.now()
    }

    fn main_route(&self) -> &'static Route {
        &self.workflow.routes[0]
    }

    fn via(&self, route: &Route, detail: &str) -> String {
        let via = format!("{} via {}", route.channel, route.provider);
        if detail.is_empty() { via } else { format!("{via}, {detail}") }
    }

    fn provider_message_id(&self, route: &Route) -> String {
        format!("{}-{:016x}", route.provider, self.salt)
    }
}

fn anomalies(notification: &Value) -> Vec<String> {
    let list = notification["anomalies"].as_array();
    list.into_iter()
        .flatten()
        .filter_map(|anomaly| anomaly["code"].as_str())
        .map(ToOwned::to_owned)
        .collect()
}
