//! What tests begin with: a notification that was told things in turn, by the minute.

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use futures_util::FutureExt;
use notification_ledger::domain::event::{
    Adopted, BounceType, Category, Classification, Context, Fact, Interaction, MessageRef,
    NotificationEvent, Priority, Report, Requested, Sealed,
};
use notification_ledger::domain::ids::{EventId, SubscriberId, WorkflowId};
use notification_ledger::domain::notification::{
    Action, Adoption, Notification, NotificationCommand, Refusal,
};
use notification_ledger::domain::precedence::PrecedenceRule;
use notification_ledger::domain::sealing::{Sealer, SealingError, Subject};
use notification_ledger::domain::state::{Message, Status, Summary};
use notification_ledger::domain::time::Timestamp;
use uuid::Uuid;

/// 2026-03-14T09:00:00Z
const NINE_O_CLOCK_MICROS: i64 = 1_773_478_800_000_000;

/// So many minutes past nine.
pub(crate) fn at(minute: i64) -> Timestamp {
    Timestamp::from_micros(NINE_O_CLOCK_MICROS + minute * 60_000_000).unwrap()
}

pub(crate) fn event_id(number: usize) -> EventId {
    EventId(Uuid::from_u128(number as u128))
}

/// A notification, and the events its story is made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Story {
    pub(crate) notification: Notification,
    pub(crate) events: Vec<NotificationEvent>,
}

/// Nothing happened yet.
pub(crate) fn nothing() -> Story {
    Story::default()
}

/// Requested at nine.
pub(crate) fn requested() -> Story {
    nothing().and(0, request())
}

impl Story {
    /// What `action` leads to; the story goes on with it.
    pub(crate) fn tell(
        &mut self,
        minute: i64,
        action: Action,
    ) -> Result<Vec<NotificationEvent>, Refusal> {
        self.tell_with(minute, action, None, &Arc::new(NoteTaker::default()))
    }

    pub(crate) fn tell_with(
        &mut self,
        minute: i64,
        action: Action,
        private: Option<&str>,
        sealer: &Arc<NoteTaker>,
    ) -> Result<Vec<NotificationEvent>, Refusal> {
        let command = NotificationCommand {
            // Room for an adoption's own event before it.
            event_id: event_id(2 * self.events.len() + 1),
            occurred_at: at(minute),
            private: private.map(Arc::from),
            action,
        };
        let services: Arc<dyn Sealer> = Arc::clone(sealer) as Arc<dyn Sealer>;
        let sink = EventSink::default();
        // The rules wait for nothing, so one poll is enough.
        let handled = self
            .notification
            .handle(command, &services, &sink)
            .now_or_never();
        handled.unwrap()?;
        let events = sink.collect().now_or_never().unwrap();
        self.events.extend(events.iter().cloned());
        Ok(events)
    }

    /// The story goes on with something that is not refused.
    pub(crate) fn and(mut self, minute: i64, action: Action) -> Self {
        self.tell(minute, action).unwrap();
        self
    }

    /// The names of the events that would follow.
    pub(crate) fn when(&self, minute: i64, action: Action) -> Result<Vec<&'static str>, Refusal> {
        let events = self.clone().tell(minute, action)?;
        Ok(events.iter().map(|event| event.body.event_name()).collect())
    }

    pub(crate) fn appends(&self, minute: i64, action: Action) -> usize {
        self.when(minute, action).unwrap().len()
    }

    pub(crate) fn summary(&self) -> Summary {
        self.summary_under(PrecedenceRule::default())
    }

    pub(crate) fn summary_under(&self, rule: PrecedenceRule) -> Summary {
        self.notification.summary(rule)
    }

    pub(crate) fn status(&self) -> Status {
        self.summary().status
    }

    /// The only message there is.
    pub(crate) fn message(&self) -> Message {
        self.message_under(PrecedenceRule::default())
    }

    pub(crate) fn message_under(&self, rule: PrecedenceRule) -> Message {
        let messages = self.summary_under(rule).messages;
        let [message] = <[Message; 1]>::try_from(messages).unwrap();
        message
    }

    pub(crate) fn message_keys(&self) -> Vec<String> {
        let messages = self.summary().messages;
        messages
            .into_iter()
            .map(|message| message.identity.key)
            .collect()
    }

    pub(crate) fn anomalies(&self) -> Vec<&'static str> {
        self.summary()
            .anomalies
            .iter()
            .map(|anomaly| anomaly.code)
            .collect()
    }
}

/// Seals by writing down whose key was asked for.
#[derive(Default)]
pub(crate) struct NoteTaker {
    pub(crate) sealed: Mutex<Vec<(Subject, EventId, String)>>,
    pub(crate) out_of_keys: bool,
}

impl fmt::Debug for NoteTaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoteTaker").finish_non_exhaustive()
    }
}

#[async_trait]
impl Sealer for NoteTaker {
    async fn seal(
        &self,
        subject: &Subject,
        event_id: EventId,
        text: &str,
    ) -> Result<Sealed, SealingError> {
        if self.out_of_keys {
            return Err(SealingError("the master key is wrong".into()));
        }
        let note = (subject.clone(), event_id, text.to_owned());
        self.sealed.lock().unwrap().push(note);
        Ok(Sealed("1.Zm9v.YmFy".into()))
    }
}

pub(crate) fn request() -> Action {
    request_for("cust-20417")
}

pub(crate) fn request_for(subscriber_id: &str) -> Action {
    Action::Request(Arc::new(the_request(subscriber_id)))
}

/// As short as a request can be.
pub(crate) fn the_request(subscriber_id: &str) -> Requested {
    Requested {
        workflow_id: WorkflowId::new("parcel-dispatched").unwrap(),
        workflow_version: None,
        subscriber_id: SubscriberId::new(subscriber_id).unwrap(),
        external_id: None,
        channels: vec![],
        category: Category::Transactional,
        priority: Priority::Normal,
        classification: Classification::default(),
        scheduled_at: None,
        expires_at: None,
        metadata: [].into(),
    }
}

pub(crate) fn queue() -> Action {
    Action::Queue {
        queue: None,
        available_at: None,
    }
}

pub(crate) fn retract() -> Action {
    Action::Retract
}

/// A report, to be changed with `Report { …, ..said(…) }`.
pub(crate) fn said(fact: Fact, message: MessageRef) -> Report {
    Report {
        message,
        untimed: false,
        delivery_id: None,
        context: Context::default(),
        fact,
    }
}

pub(crate) fn reported(report: Report) -> Action {
    Action::Report {
        report: Arc::new(report),
        adoption: None,
    }
}

/// A report by a provider that may know more streams than the ledger.
pub(crate) fn adopting(report: Report) -> Action {
    Action::Report {
        report: Arc::new(report),
        adoption: Some(Adoption {
            event_id: event_id(0),
            adopted: the_adoption(),
        }),
    }
}

pub(crate) fn the_adoption() -> Adopted {
    Adopted {
        provider: "novu".to_owned(),
        transaction_id: Some("txn_66f0a1c4b7d2e90012ab0100".to_owned()),
    }
}

/// About the e-mail.
pub(crate) fn email(fact: Fact) -> Action {
    reported(said(fact, channel("email")))
}

/// About the text message.
pub(crate) fn sms(fact: Fact) -> Action {
    reported(said(fact, channel("sms")))
}

pub(crate) fn channel(channel: &str) -> MessageRef {
    MessageRef {
        channel: Some(channel.to_owned()),
        ..MessageRef::default()
    }
}

/// As a worker names it that has the provider's answer.
pub(crate) fn sendgrid(provider_message_id: &str) -> MessageRef {
    MessageRef {
        provider_message_id: Some(provider_message_id.to_owned()),
        provider_id: Some("sendgrid".to_owned()),
        ..channel("email")
    }
}

/// As Novu names it.
pub(crate) fn novu(message_id: &str, provider_message_id: &str) -> MessageRef {
    MessageRef {
        message_id: Some(message_id.to_owned()),
        step_id: Some("send-email".to_owned()),
        ..sendgrid(provider_message_id)
    }
}

pub(crate) const SENT: Fact = Fact::Sent;
pub(crate) const DELIVERED: Fact = Fact::Delivered;
pub(crate) const SEEN: Fact = Fact::Seen;
pub(crate) const READ: Fact = Fact::Read;

pub(crate) fn bounced(bounce_type: BounceType) -> Fact {
    Fact::Bounced {
        bounce_type,
        code: None,
    }
}

pub(crate) fn failed(retryable: bool, is_final: bool) -> Fact {
    Fact::Failed {
        code: None,
        retryable,
        is_final,
        attempt: None,
    }
}

/// A failure for good.
pub(crate) fn gave_up() -> Fact {
    failed(false, true)
}

pub(crate) fn attempt_failed(attempt: u32) -> Fact {
    Fact::Failed {
        code: Some(format!("42{attempt}")),
        retryable: true,
        is_final: false,
        attempt: Some(attempt),
    }
}

pub(crate) fn interacted(kind: Interaction) -> Fact {
    Fact::Interacted { kind }
}

pub(crate) fn suppressed() -> Fact {
    Fact::Suppressed {
        reason: "preference".to_owned(),
    }
}

/// One of each kind of fact.
pub(crate) fn every_kind_of_fact() -> [Fact; 8] {
    [
        SENT,
        DELIVERED,
        bounced(BounceType::Hard),
        gave_up(),
        SEEN,
        READ,
        interacted(Interaction::Clicked),
        suppressed(),
    ]
}
