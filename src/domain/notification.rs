//! One notification, from request to outcome.
//!
//! No clock, no randomness, no IO: times and ids arrive inside commands, so a stream replayed
//! next year gives the same state. A command may be refused; a fact never.
//!
//! The aggregate keeps what it was told, sorted, and nothing derived: the same set of events
//! is the same value in whatever order they came. What follows from them is in `state.rs`.

use std::sync::Arc;

use cqrs_es::event_sink::EventSink;
use cqrs_es::{Aggregate, DomainEvent};
use serde::{Deserialize, Serialize};

use super::event::{Adopted, Body, NotificationEvent, Queued, Report, Requested, Sealed, names};
use super::ids::{EventId, SubscriberId, WorkflowId};
use super::message::identify;
use super::precedence::PrecedenceRule;
use super::sealing::{Draft, Sealer, SealingError, Subject};
use super::state::{Status, Summary};
use super::stored::SCHEMA_VERSION;
use super::time::Timestamp;

/// Something on record: a part of an event that outlives it in the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnRecord<T> {
    pub event_id: EventId,
    pub occurred_at: Timestamp,
    pub sealed: Option<Sealed>,
    pub value: T,
}

/// Everything one notification was told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    pub(super) request: Option<OnRecord<Arc<Requested>>>,
    pub(super) adoption: Option<OnRecord<Adopted>>,
    pub(super) queued: Vec<OnRecord<Queued>>,
    /// By time, then content.
    pub(super) reports: Vec<OnRecord<Arc<Report>>>,
    pub(super) retraction: Option<OnRecord<()>>,
}

/// What somebody wants of a notification, or reports about it.
///
/// `private` is JSON to be sealed beside the event: an object whose fields belong to the
/// event's data.
#[derive(Clone, Debug)]
pub struct NotificationCommand {
    pub event_id: EventId,
    /// When it happened, or when the ledger was told.
    pub occurred_at: Timestamp,
    pub private: Option<Arc<str>>,
    pub action: Action,
}

#[derive(Clone, Debug)]
pub enum Action {
    Request(Arc<Requested>),
    Queue {
        queue: Option<String>,
        available_at: Option<Timestamp>,
    },
    Retract,
    Report {
        report: Arc<Report>,
        /// Begins the stream if there is none.
        adoption: Option<Adoption>,
    },
}

/// How a stream begins that the ledger did not start.
#[derive(Clone, Debug)]
pub struct Adoption {
    pub event_id: EventId,
    pub adopted: Adopted,
}

/// Why a command was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such notification")]
    NotFound,
    #[error("a notification with this id was requested before")]
    AlreadyExists,
    #[error("a {} notification can't be queued: {}", .current_status.as_str(), .reason)]
    NotQueueable {
        current_status: Status,
        reason: &'static str,
    },
    #[error("every message has reached its end, so there is nothing left to retract")]
    Settled { current_status: Status },
    #[error("the private part of the event could not be sealed")]
    Sealing(#[from] SealingError),
}

impl Notification {
    /// Decides which events follow from `command`, oldest first. Changes nothing.
    ///
    /// An empty list is a success: what was asked for is already on record.
    ///
    /// # Errors
    ///
    /// A [`Refusal`], for a command; a report about an existing notification is never refused.
    pub fn decide(&self, command: NotificationCommand) -> Result<Vec<Draft>, Refusal> {
        if !self.exists() && !command.action.begins_a_stream() {
            return Err(Refusal::NotFound);
        }
        match command.action.clone() {
            Action::Request(_) if self.request.is_some() => Err(Refusal::AlreadyExists),
            Action::Request(requested) => Ok(vec![self.draft(command, Body::Requested(requested))]),
            Action::Queue {
                queue,
                available_at,
            } => {
                let queued = Queued {
                    queue,
                    available_at,
                    answers: self.queueable()?,
                };
                // There is no private part that it could keep.
                let command = NotificationCommand {
                    private: None,
                    ..command
                };
                Ok(vec![self.draft(command, Body::Queued(queued))])
            }
            Action::Retract if self.retraction.is_some() => Ok(vec![]),
            Action::Retract => {
                self.retractable()?;
                Ok(vec![self.draft(command, Body::Retracted)])
            }
            // A fact has already happened, so no state refuses it; only its repeat is dropped.
            Action::Report { report, .. } if self.knows(&report, command.occurred_at) => Ok(vec![]),
            Action::Report { report, adoption } => {
                let adopted = adoption.filter(|_| !self.exists()).map(|adoption| Draft {
                    event: NotificationEvent {
                        event_id: adoption.event_id,
                        occurred_at: command.occurred_at,
                        sealed: None,
                        body: Body::Adopted(adoption.adopted),
                    },
                    private: None,
                });
                let reported = self.draft(command, Body::Reported(report));
                Ok(adopted.into_iter().chain([reported]).collect())
            }
        }
    }

    /// There is at least one event.
    pub fn exists(&self) -> bool {
        self.request.is_some() || self.adoption.is_some()
    }

    pub fn request(&self) -> Option<&OnRecord<Arc<Requested>>> {
        self.request.as_ref()
    }

    pub fn adoption(&self) -> Option<&OnRecord<Adopted>> {
        self.adoption.as_ref()
    }

    /// In the order they were queued.
    pub fn queued(&self) -> &[OnRecord<Queued>] {
        &self.queued
    }

    pub fn retraction(&self) -> Option<&OnRecord<()>> {
        self.retraction.as_ref()
    }

    /// By time, then content.
    pub fn reports(&self) -> &[OnRecord<Arc<Report>>] {
        &self.reports
    }

    /// Whom it is for: as requested, else as the earliest report that says so.
    pub fn subscriber_id(&self) -> Option<&SubscriberId> {
        let requested = self
            .request
            .as_ref()
            .map(|request| &request.value.subscriber_id);
        requested.or_else(|| self.first_in_context(|report| report.context.subscriber_id.as_ref()))
    }

    /// Through which workflow: as requested, else as the earliest report that says so.
    pub fn workflow_id(&self) -> Option<&WorkflowId> {
        let requested = self
            .request
            .as_ref()
            .map(|request| &request.value.workflow_id);
        requested.or_else(|| self.first_in_context(|report| report.context.workflow_id.as_ref()))
    }

    /// The transaction it belongs to: as its adoption says, else as the earliest report that
    /// names one. `None` for a notification that was requested here and reported without one.
    pub fn transaction_id(&self) -> Option<&str> {
        let adopted = self
            .adoption
            .as_ref()
            .and_then(|adoption| adoption.value.transaction_id.as_ref());
        adopted
            .or_else(|| self.first_in_context(|report| report.context.transaction_id.as_ref()))
            .map(String::as_str)
    }

    /// Through which channel the message went that an event reports on, as far as any report on it
    /// says. `None` also for an event that is not a report.
    pub fn channel_of(&self, event_id: EventId) -> Option<String> {
        let place = self
            .reports
            .iter()
            .position(|report| report.event_id == event_id)?;
        let references: Vec<_> = self
            .reports
            .iter()
            .map(|report| &report.value.message)
            .collect();
        let mut found = identify(&references);
        let message = *found.assigned.get(place)?;
        found.messages.get_mut(message)?.channel.take()
    }

    /// What follows from everything on record, under a rule.
    pub fn summary(&self, rule: PrecedenceRule) -> Summary {
        Summary::of(self, rule)
    }

    fn first_in_context<'a, T: Ord>(
        &'a self,
        part: impl Fn(&'a Report) -> Option<&'a T>,
    ) -> Option<&'a T> {
        self.reports
            .iter()
            .filter_map(|report| part(&report.value).map(|value| (report.occurred_at, value)))
            .min()
            .map(|(_, value)| value)
    }

    /// The same fact is on record: the same delivery, or all that is said was said before of the
    /// same message at the same time (without a time: ever).
    ///
    /// A report that says more than the one on record is no repeat, though the fact is the same:
    /// dropping it would lose an id that later reports go by. It counts once all the same.
    fn knows(&self, report: &Report, occurred_at: Timestamp) -> bool {
        self.reports.iter().any(|known| {
            let same_delivery =
                report.delivery_id.is_some() && known.value.delivery_id == report.delivery_id;
            let same_time = report.untimed || known.occurred_at == occurred_at;
            same_delivery || (same_time && report.adds_nothing_to(&known.value))
        })
    }

    /// The failures that queueing answers: none the first time.
    fn queueable(&self) -> Result<Vec<EventId>, Refusal> {
        let summary = self.summary(PrecedenceRule::default());
        let refuse = |reason| {
            Err(Refusal::NotQueueable {
                current_status: summary.status,
                reason,
            })
        };
        if self.retraction.is_some() {
            return refuse("it was retracted");
        }
        if summary.status == Status::Requested && self.queued.is_empty() {
            return Ok(summary.unanswered_failures);
        }
        if summary.unanswered_failures.is_empty() {
            return refuse(
                "only a requested one, or one whose failure was reported `retryable`, can be",
            );
        }
        Ok(summary.unanswered_failures)
    }

    fn retractable(&self) -> Result<(), Refusal> {
        let summary = self.summary(PrecedenceRule::default());
        let settled = !summary.messages.is_empty()
            && summary
                .messages
                .iter()
                .all(|message| message.status.is_end());
        if settled {
            return Err(Refusal::Settled {
                current_status: summary.status,
            });
        }
        Ok(())
    }

    fn draft(&self, command: NotificationCommand, body: Body) -> Draft {
        // Who was named first stays the owner of the keys, since a report may name somebody else.
        // But a request holds its own subscriber's address, which must go when they do.
        let owner = match &body {
            Body::Requested(requested) => Some(&requested.subscriber_id),
            Body::Reported(report) => self
                .subscriber_id()
                .or(report.context.subscriber_id.as_ref()),
            Body::Adopted(_) | Body::Queued(_) | Body::Retracted => self.subscriber_id(),
        };
        let subject = owner.map_or(Subject::Stream, |id| Subject::Subscriber(id.clone()));
        Draft {
            private: command.private.map(|text| (subject, text)),
            event: NotificationEvent {
                event_id: command.event_id,
                occurred_at: command.occurred_at,
                sealed: None,
                body,
            },
        }
    }
}

impl Action {
    fn begins_a_stream(&self) -> bool {
        match self {
            Self::Request(_) => true,
            Self::Report { adoption, .. } => adoption.is_some(),
            Self::Queue { .. } | Self::Retract => false,
        }
    }
}

/// Keeps the one that happened first; events of one kind that come once need no more.
fn keep_first<T>(slot: &mut Option<OnRecord<T>>, new: OnRecord<T>) {
    let order = |record: &OnRecord<T>| (record.occurred_at, record.event_id);
    if slot.as_ref().is_none_or(|old| order(&new) < order(old)) {
        *slot = Some(new);
    }
}

impl Aggregate for Notification {
    const TYPE: &'static str = "notification";
    type Command = NotificationCommand;
    type Event = NotificationEvent;
    type Error = Refusal;
    type Services = Arc<dyn Sealer>;

    async fn handle(
        &mut self,
        command: Self::Command,
        sealer: &Self::Services,
        sink: &EventSink<Self>,
    ) -> Result<(), Self::Error> {
        for draft in self.decide(command)? {
            let event = draft.seal(sealer.as_ref()).await?;
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: Self::Event) {
        let NotificationEvent {
            event_id,
            occurred_at,
            sealed,
            body,
        } = event;
        macro_rules! on_record {
            ($value:expr) => {
                OnRecord {
                    event_id,
                    occurred_at,
                    sealed,
                    value: $value,
                }
            };
        }
        match body {
            Body::Requested(requested) => keep_first(&mut self.request, on_record!(requested)),
            Body::Adopted(adopted) => keep_first(&mut self.adoption, on_record!(adopted)),
            Body::Retracted => keep_first(&mut self.retraction, on_record!(())),
            Body::Queued(queued) => {
                let new = on_record!(queued);
                let order = |old: &OnRecord<Queued>| (old.occurred_at, old.event_id);
                let place = self.queued.partition_point(|old| order(old) <= order(&new));
                self.queued.insert(place, new);
            }
            Body::Reported(report) => {
                let new = on_record!(report);
                let place = self.reports.partition_point(|old| {
                    (old.occurred_at, &old.value, old.event_id)
                        <= (new.occurred_at, &new.value, new.event_id)
                });
                self.reports.insert(place, new);
            }
        }
    }
}

impl DomainEvent for NotificationEvent {
    fn event_type(&self) -> String {
        self.body.event_name().to_owned()
    }

    fn event_version(&self) -> String {
        SCHEMA_VERSION.to_string()
    }
}

impl NotificationEvent {
    /// Begins a stream, or could have.
    pub fn is_first(&self) -> bool {
        matches!(self.body.event_name(), names::REQUESTED | names::ADOPTED)
    }
}
