//! Who gets notified of what: the people, the workflows and their payloads.
//!
//! None of it is real: addresses are in the domains and number ranges set aside for examples.

use serde_json::{Value, json};

use super::dice::Dice;

/// Somebody who gets notifications.
#[derive(Debug)]
pub(super) struct Person {
    pub(super) id: &'static str,
    pub(super) name: &'static str,
    locale: &'static str,
    timezone: &'static str,
}

/// One way a workflow reaches people.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) channel: &'static str,
    pub(super) step: &'static str,
    pub(super) provider: &'static str,
}

/// A reason to notify.
#[derive(Debug)]
pub(super) struct Workflow {
    pub(super) id: &'static str,
    version: &'static str,
    category: &'static str,
    priority: &'static str,
    /// Error code, audience and severity.
    classification: Option<[&'static str; 3]>,
    pub(super) routes: &'static [Route],
    payload: fn(&mut Dice) -> Value,
}

macro_rules! people {
    ($($id:literal $name:literal $locale:literal $timezone:literal;)*) => {
        &[$(Person { id: $id, name: $name, locale: $locale, timezone: $timezone }),*]
    };
}

const PEOPLE: &[Person] = people! {
    "ada.lovelace" "Ada Lovelace" "en-GB" "Europe/London";
    "alan.turing" "Alan Turing" "en-GB" "Europe/London";
    "annie.easley" "Annie Easley" "en-US" "America/New_York";
    "barbara.liskov" "Barbara Liskov" "en-US" "America/New_York";
    "chien.wu" "Chien-Shiung Wu" "zh-CN" "Asia/Shanghai";
    "edsger.dijkstra" "Edsger Dijkstra" "nl-NL" "Europe/Amsterdam";
    "emmy.noether" "Emmy Noether" "de-DE" "Europe/Berlin";
    "frances.allen" "Frances Allen" "en-US" "America/New_York";
    "grace.hopper" "Grace Hopper" "en-US" "America/New_York";
    "hedy.lamarr" "Hedy Lamarr" "de-AT" "Europe/Vienna";
    "john.backus" "John Backus" "en-US" "America/Los_Angeles";
    "karen.sparck" "Karen Spärck Jones" "en-GB" "Europe/London";
    "katherine.johnson" "Katherine Johnson" "en-US" "America/New_York";
    "konrad.zuse" "Konrad Zuse" "de-DE" "Europe/Berlin";
    "leslie.lamport" "Leslie Lamport" "en-US" "America/Los_Angeles";
    "margaret.hamilton" "Margaret Hamilton" "en-US" "America/New_York";
    "mary.jackson" "Mary Jackson" "en-US" "America/New_York";
    "niklaus.wirth" "Niklaus Wirth" "de-CH" "Europe/Zurich";
    "radia.perlman" "Radia Perlman" "en-US" "America/Los_Angeles";
    "rozsa.peter" "Rózsa Péter" "hu-HU" "Europe/Budapest";
    "shafi.goldwasser" "Shafi Goldwasser" "he-IL" "Asia/Jerusalem";
    "sophie.wilson" "Sophie Wilson" "en-GB" "Europe/London";
    "srinivasa.ramanujan" "Srinivasa Ramanujan" "ta-IN" "Asia/Kolkata";
    "tu.youyou" "Tu Youyou" "zh-CN" "Asia/Shanghai";
};

const EMAIL: Route = Route {
    channel: "email",
    step: "send-email",
    provider: "ses",
};
const MARKETING_EMAIL: Route = Route {
    channel: "email",
    step: "send-email",
    provider: "sendgrid",
};
const SMS: Route = Route {
    channel: "sms",
    step: "send-sms",
    provider: "twilio",
};
const PUSH: Route = Route {
    channel: "push",
    step: "send-push",
    provider: "fcm",
};
const IN_APP: Route = Route {
    channel: "in_app",
    step: "inbox",
    provider: "novu",
};
const CHAT: Route = Route {
    channel: "chat",
    step: "page-on-call",
    provider: "slack",
};

/// Each with how often it comes up.
const WORKFLOWS: &[(&Workflow, u64)] = &[
    (
        &Workflow {
            id: "order-confirmation",
            version: "7",
            category: "transactional",
            priority: "normal",
            classification: None,
            routes: &[EMAIL],
            payload: |dice| {
                json!({
                    "order": order(dice),
                    "total": price(dice),
                    "items": 1 + dice.below(5),
                })
            },
        },
        30,
    ),
    (
        &Workflow {
            id: "parcel-dispatched",
            version: "3",
            category: "transactional",
            priority: "normal",
            classification: None,
            routes: &[EMAIL, SMS],
            payload: |dice| {
                json!({
                    "order": order(dice),
                    "carrier": "Northwind Parcels",
                    "tracking": format!("NP{:010}", dice.below(10_000_000_000)),
                })
            },
        },
        20,
    ),
    (
        &Workflow {
            id: "password-reset",
            version: "2",
            category: "transactional",
            priority: "high",
            classification: None,
            routes: &[EMAIL],
            payload: |dice| json!({ "code": format!("{:06}", dice.below(1_000_000)) }),
        },
        15,
    ),
    (
        &Workflow {
            id: "new-login",
            version: "1",
            category: "transactional",
            priority: "high",
            classification: None,
            routes: &[PUSH, IN_APP],
            payload: |dice| {
                json!({
                    "device": "Firefox on Linux",
                    "address": format!("203.0.113.{}", 1 + dice.below(254)),
                })
            },
        },
        12,
    ),
    (
        &Workflow {
            id: "weekly-digest",
            version: "19",
            category: "marketing",
            priority: "low",
            classification: None,
            routes: &[MARKETING_EMAIL],
            payload: |dice| json!({ "issue": 200 + dice.below(20), "articles": 3 + dice.below(6) }),
        },
        10,
    ),
    (
        &Workflow {
            id: "payment-declined",
            version: "4",
            category: "escalation",
            priority: "high",
            classification: Some(["PAYMENT_DECLINED", "customer", "high"]),
            routes: &[EMAIL, IN_APP],
            payload: |dice| json!({ "order": order(dice), "amount": price(dice), "attempt": 2 }),
        },
        8,
    ),
    (
        &Workflow {
            id: "checkout-errors",
            version: "1",
            category: "escalation",
            priority: "critical",
            classification: Some(["CHECKOUT_5XX", "support", "critical"]),
            routes: &[CHAT],
            payload: |dice| json!({ "service": "checkout", "errors_per_minute": 40 + dice.below(300) }),
        },
        5,
    ),
];

impl Person {
    pub(super) fn any(dice: &mut Dice) -> &'static Self {
        let index = usize::try_from(dice.below(PEOPLE.len() as u64)).unwrap_or_default();
        &PEOPLE[index]
    }

    /// As a request names them. The ledger seals all of it but the id.
    pub(super) fn subscriber(&self) -> Value {
        json!({
            "id": self.id,
            "email": format!("{}@example.com", self.id),
            "phone": format!("+1202555{:04}", 100 + self.name.len() % 100),
            "locale": self.locale,
            "timezone": self.timezone,
        })
    }
}

impl Workflow {
    pub(super) fn any(dice: &mut Dice) -> &'static Self {
        dice.weighted(WORKFLOWS).unwrap_or(WORKFLOWS[0].0)
    }

    /// One that sends mail before anything else.
    pub(super) fn any_by_mail(dice: &mut Dice) -> &'static Self {
        let any = Self::any(dice);
        if any.routes[0].channel == EMAIL.channel {
            any
        } else {
            WORKFLOWS[0].0
        }
    }

    /// The body that requests a notification.
    pub(super) fn request(&self, person: &Person, dice: &mut Dice) -> Value {
        let channels: Vec<_> = self.routes.iter().map(|route| route.channel).collect();
        let mut body = json!({
            "workflow_id": self.id,
            "workflow_version": self.version,
            "subscriber": person.subscriber(),
            "channels": channels,
            "category": self.category,
            "priority": self.priority,
            "payload": (self.payload)(dice),
            "external_id": format!("{}-{}", self.id, dice.below(1_000_000)),
            "metadata": { "team": "storefront", "region": "eu-central" },
        });
        if let Some([error_code, audience, severity]) = self.classification {
            body["classification"] = json!({
                "error_code": error_code,
                "audience": audience,
                "severity": severity,
            });
        }
        body
    }
}

fn order(dice: &mut Dice) -> String {
    format!("NW-{}", 10_000 + dice.below(90_000))
}

fn price(dice: &mut Dice) -> String {
    format!("{}.{:02} EUR", 5 + dice.below(240), dice.below(100))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nobody_is_listed_twice() {
        let ids: BTreeSet<_> = PEOPLE.iter().map(|person| person.id).collect();

        assert_eq!(ids.len(), PEOPLE.len());
    }

    #[test]
    fn every_workflow_reaches_people_and_the_first_by_mail() {
        assert!(
            WORKFLOWS
                .iter()
                .all(|(workflow, _)| !workflow.routes.is_empty())
        );

        let mut dice = Dice::new(3);
        for _ in 0..100 {
            assert_eq!(Workflow::any_by_mail(&mut dice).routes[0].channel, "email");
        }
    }
}
