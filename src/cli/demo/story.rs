//! What happens to notifications: lives as they are lived, told to the ledger step by step.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use serde_json::json;

use super::board::What;
use super::cast::Workflow;
use super::dice::Dice;
use super::novu::NovuMessage;
use super::steps::{Stage, Story, Told};
use crate::api::request::IDEMPOTENCY_KEY;

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

/// Why people think better of it.
const SECOND_THOUGHTS: &[(&str, u64)] = &[
    ("no longer relevant", 3),
    ("requested by mistake", 2),
    ("withdrawn by support", 1),
];

/// About how many events a life comes to: what the plots above give on average.
pub(super) const EVENTS_PER_STORY: f64 = 4.6;

/// Reasons for which something is not sent on purpose.
const SUPPRESSIONS: &[(&str, u64)] = &[("preference", 6), ("rate_limit", 3), ("duplicate", 1)];

impl Plot {
    /// Only mail goes wrong in this way.
    fn is_about_mail(self) -> bool {
        matches!(self, Self::HardBounce | Self::SoftBounce | Self::Complaint)
    }
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

impl Story<'_> {
    async fn tell(&mut self, plot: Plot) -> Told {
        if plot.is_about_mail() {
            self.workflow = Workflow::any_by_mail(&mut self.dice);
        }
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
            (
                What::Clicked,
                "interacted",
                json!({ "kind": "clicked" }),
                35,
            ),
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
        self.bounced(route, bounce, "452 mailbox full, not the end")
            .await?;
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
            self.report(What::Failed, "failed", route, self.now(), error, &detail)
                .await?;
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
        self.report(What::Failed, "failed", route, self.now(), error, &detail)
            .await
    }

    async fn retracted(&mut self) -> Told {
        self.request().await?;
        self.pause(200, 900).await;
        self.queue("").await?;
        self.pause(300, 1500).await;
        let reason = self
            .dice
            .weighted(SECOND_THOUGHTS)
            .unwrap_or("no longer relevant");
        self.retract(reason).await
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
        self.arrived(route, self.now(), "although it was retracted")
            .await
    }

    async fn suppressed(&mut self) -> Told {
        self.request().await?;
        self.pause(50, 400).await;
        let reason = self.dice.weighted(SUPPRESSIONS).unwrap_or("preference");
        let more = json!({ "reason": reason });
        let route = self.main_route();
        self.report(
            What::Suppressed,
            "suppressed",
            route,
            self.now(),
            more,
            reason,
        )
        .await
    }

    async fn out_of_order(&mut self) -> Told {
        let route = self.main_route();
        self.request().await?;
        self.pause(200, 1000).await;
        let sent_at = self.now();
        self.pause(500, 1500).await;
        let delivered_at = self.now();
        self.arrived(route, delivered_at, "reported before the sending")
            .await?;
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
        self.webhook(What::Sent, "message.sent", &delivery, &message)
            .await?;
        if self.dice.percent(15) {
            // Novu did not get our answer.
            self.pause(500, 1500).await;
            self.webhook(What::Sent, "message.sent", &delivery, &message)
                .await?;
        }
        self.pause(500, 2500).await;
        if route.channel == "email" && self.dice.percent(15) {
            message.error = Some(["mail_bounced", "550 5.1.1 no such address"]);
            return self
                .new_webhook(What::Bounced, "message.failed", &message)
                .await;
        }
        message.delivered_at = Some(self.now());
        self.new_webhook(What::Delivered, "message.delivered", &message)
            .await?;
        if self.dice.percent(60) {
            self.pause(1000, 5000).await;
            message.seen_at = Some(self.now());
            self.new_webhook(What::Seen, "message.seen", &message)
                .await?;
        }
        if message.seen_at.is_some() && self.dice.percent(60) {
            self.pause(500, 3000).await;
            message.read_at = Some(self.now());
            self.new_webhook(What::Read, "message.read", &message)
                .await?;
        }
        Ok(())
    }
}
