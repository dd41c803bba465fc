//! The steps of a life: each is a request that anybody could send, and each line that is shown
//! says what the ledger answered to it.

use http::HeaderMap;
use serde_json::{Value, json};

use super::board::{Board, Step, What};
use super::caller::{Caller, Reply};
use super::cast::{Person, Route, Workflow};
use super::dice::Dice;
use super::novu::{Novu, NovuMessage};
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

/// The story ends here: something was answered that it did not expect.
#[derive(Debug)]
pub(super) struct Over;

pub(super) type Told = Result<(), Over>;

/// One life, so far.
pub(super) struct Story<'a> {
    pub(super) stage: &'a Stage,
    pub(super) dice: Dice,
    pub(super) workflow: &'static Workflow,
    pub(super) person: &'static Person,
    /// Empty until it is requested.
    pub(super) id: String,
    shown: bool,
    anomalies: Vec<String>,
    /// Makes up ids that look like a provider's.
    pub(super) salt: u64,
}

impl<'a> Story<'a> {
    pub(super) fn new(stage: &'a Stage, mut dice: Dice, shown: bool) -> Self {
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

    pub(super) async fn request(&mut self) -> Told {
        let body = self.workflow.request(self.person, &mut self.dice);
        self.send_request(&body, HeaderMap::new()).await
    }

    pub(super) async fn send_request(&mut self, body: &Value, headers: HeaderMap) -> Told {
        let reply = self
            .stage
            .caller
            .post("/v1/notifications", body, headers)
            .await;
        if let Some(id) = reply.body["id"]
            .as_str()
            .filter(|_| reply.status.is_success())
        {
            id.clone_into(&mut self.id);
        }
        let id = self.id.clone();
        self.answered(What::Requested, &reply, &id)
    }

    pub(super) async fn queue(&mut self, detail: &str) -> Told {
        let body = json!({ "queue": "default" });
        let reply = self.command("queue", &body).await;
        self.answered(What::Queued, &reply, detail)
    }

    pub(super) async fn retract(&mut self, reason: &str) -> Told {
        let reply = self.command("retract", &json!({ "reason": reason })).await;
        self.answered(What::Retracted, &reply, reason)
    }

    pub(super) async fn sent(&mut self, route: &Route, at: Timestamp, detail: &str) -> Told {
        let detail = via(route, detail);
        self.report(What::Sent, "sent", route, at, json!({}), &detail)
            .await
    }

    pub(super) async fn arrived(&mut self, route: &Route, at: Timestamp, detail: &str) -> Told {
        let detail = via(route, detail);
        self.report(What::Delivered, "delivered", route, at, json!({}), &detail)
            .await
    }

    pub(super) async fn bounced(&mut self, route: &Route, bounce: Value, detail: &str) -> Told {
        self.report(What::Bounced, "bounced", route, self.now(), bounce, detail)
            .await
    }

    /// Reports a fact about one message.
    pub(super) async fn report(
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

    pub(super) async fn new_webhook(
        &mut self,
        what: What,
        event: &str,
        message: &NovuMessage,
    ) -> Told {
        let delivery = format!("msg_{:016x}", self.dice.next());
        self.webhook(what, event, &delivery, message).await
    }

    pub(super) async fn webhook(
        &mut self,
        what: What,
        event: &str,
        delivery: &str,
        message: &NovuMessage,
    ) -> Told {
        let Stage { caller, novu, .. } = self.stage;
        let mut reply = novu
            .deliver(caller, delivery, event, message, self.now())
            .await;
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
            self.show(
                What::Repeat,
                &format!("{} again: nothing appended", what.word()),
            );
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

    pub(super) async fn pause(&mut self, from_ms: u64, to_ms: u64) {
        tokio::time::sleep(self.dice.millis(from_ms, to_ms)).await;
    }

    pub(super) fn now(&self) -> Timestamp {
        self.stage.surroundings.now()
    }

    pub(super) fn main_route(&self) -> &'static Route {
        &self.workflow.routes[0]
    }

    pub(super) fn provider_message_id(&self, route: &Route) -> String {
        format!("{}-{:016x}", route.provider, self.salt)
    }
}

fn via(route: &Route, detail: &str) -> String {
    let via = format!("{} via {}", route.channel, route.provider);
    if detail.is_empty() {
        via
    } else {
        format!("{via}, {detail}")
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
