//! From an authentic body to a durable fact, or to the reason why there is none.
//!
//! Used for webhooks as they come in and for those that are taken out of quarantine. May run any
//! number of times with the same delivery: a fact that is on record appends nothing.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::correlate::{self, Occupant, Target};
use super::novu::mapping::{self, Mapped, MessageFact, ObjectChange};
use super::quarantine;
use crate::api::ApiState;
use crate::domain::event::Adopted;
use crate::domain::ids::{EventId, StreamId};
use crate::domain::integration::{Integration, IntegrationCommand};
use crate::domain::notification::{Action, Adoption, Notification, NotificationCommand};
use crate::domain::sealing::{SealingError, Subject};
use crate::domain::time::Timestamp;
use crate::ledger::record::{LedgerPosition, Provenance, TenantPlace};
use crate::ledger::registry::{SourceId, Unmatched};
use crate::ledger::{Beginning, CommandError, Done, Order};
use crate::problem::{Problem, internal};

/// What the provider is called in the record.
pub const PROVIDER: &str = "novu";

/// One authentic webhook, beside its body.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub tenant: TenantPlace,
    pub source_id: SourceId,
    /// The transport's own id, the same on every attempt: `novu:msg_…`.
    pub delivery_id: String,
    /// When it came in first. Stands for the time of a fact that has none.
    pub received_at: Timestamp,
    pub provenance: Arc<Provenance>,
    /// What becomes of a fact about a message nobody knows.
    pub unmatched: Unmatched,
}

/// What became of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Appended,
    /// It was on record already.
    Duplicate,
    Quarantined,
    /// Understood, and no business of the ledger's.
    Ignored,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Appended => "appended",
            Self::Duplicate => "duplicate",
            Self::Quarantined => "quarantined",
            Self::Ignored => "ignored",
        }
    }
}

/// What the provider, or whoever retried, is told. Everything it says is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Recorded {
    pub outcome: Outcome,
    /// Of a fact about a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub notification_id: Option<Uuid>,
    /// Where the fact's stream ends.
    #[serde(skip)]
    pub position: Option<LedgerPosition>,
}

impl Recorded {
    /// An outcome that left no trace in the record.
    pub fn nothing(outcome: Outcome) -> Self {
        Self {
            outcome,
            notification_id: None,
            position: None,
        }
    }

    fn done<A>(done: &Done<A>, notification_id: Option<Uuid>) -> Self {
        Self {
            outcome: if done.appended > 0 {
                Outcome::Appended
            } else {
                Outcome::Duplicate
            },
            notification_id,
            position: Some(done.stream.partition_position(done.tip)),
        }
    }
}

/// Whether there was a place for a webhook.
#[derive(Clone, Debug)]
pub enum Placed {
    Recorded(Recorded),
    /// Nothing is stored yet.
    Nowhere {
        reason: String,
        /// Whose key the body is to be sealed under.
        subject: Subject,
    },
}

/// Records what a body says, if that can be told and there is a place for it.
///
/// # Errors
///
/// A problem when the ledger can't do it now; the same may succeed later.
pub async fn place(state: &ApiState, delivery: &Delivery, body: &[u8]) -> Result<Placed, Problem> {
    state.ledger.admit(&delivery.tenant)?;
    match mapping::map(body) {
        Ok(Mapped::Message(fact)) => message(state, delivery, *fact).await,
        Ok(Mapped::Change(changed)) => change(state, delivery, *changed).await,
        Ok(Mapped::Ignored { event_type }) => {
            tracing::debug!(
                webhook.event_type = event_type,
                "a webhook is not ours to record"
            );
            Ok(Placed::Recorded(Recorded::nothing(Outcome::Ignored)))
        }
        Err(unmappable) => Ok(Placed::Nowhere {
            reason: unmappable.to_string(),
            subject: quarantine::subject_of(body),
        }),
    }
}

async fn message(
    state: &ApiState,
    delivery: &Delivery,
    fact: MessageFact,
) -> Result<Placed, Problem> {
    let target = correlate::target(&state.ledger, &delivery.tenant, &fact).await?;
    let Some(destination) = destination(state, delivery, target).await? else {
        let subscriber_id = fact.report.context.subscriber_id;
        return Ok(Placed::Nowhere {
            reason: "no notification is known to which the message belongs, and the source keeps \
                     such webhooks for a person"
                .to_owned(),
            subject: subscriber_id.map_or(Subject::Stream, Subject::Subscriber),
        });
    };
    let Destination {
        stream_id,
        adopting,
        is_new,
    } = destination;
    tracing::Span::current().record("notification.id", tracing::field::display(stream_id));
    let command = reporting(state, delivery, fact, adopting);
    let beginning = if is_new {
        Beginning::Absent
    } else {
        Beginning::Unknown
    };
    let ledger = &state.ledger;
    let done = ledger
        .execute::<Notification>(&order(delivery), stream_id, beginning, command)
        .await?;
    Ok(Placed::Recorded(Recorded::done(&done, Some(stream_id.0))))
}

/// Where a fact is appended.
struct Destination {
    stream_id: StreamId,
    /// The fact may begin the stream.
    adopting: bool,
    /// It does, unless another one gets ahead.
    is_new: bool,
}

/// `None` if there is no stream and the source does not want one.
async fn destination(
    state: &ApiState,
    delivery: &Delivery,
    target: Target,
) -> Result<Option<Destination>, Problem> {
    let known = |stream_id| Destination {
        stream_id,
        adopting: false,
        is_new: false,
    };
    Ok(match (target, delivery.unmatched) {
        (Target::Known(id), _) => Some(known(id)),
        (Target::Adoptable { stream_id, is_new }, Unmatched::Adopt) => Some(Destination {
            stream_id,
            adopting: true,
            is_new,
        }),
        (Target::Adoptable { is_new: true, .. }, Unmatched::Quarantine) => None,
        // It may have been begun while the source adopted.
        (Target::Adoptable { stream_id: id, .. }, Unmatched::Quarantine) => {
            let occupant = correlate::occupant(&state.ledger, &delivery.tenant, id).await?;
            (occupant == Occupant::Notification).then(|| known(id))
        }
    })
}

fn reporting(
    state: &ApiState,
    delivery: &Delivery,
    fact: MessageFact,
    adopting: bool,
) -> NotificationCommand {
    let ids = &state.surroundings.ids;
    let mut report = fact.report;
    report.delivery_id = Some(delivery.delivery_id.clone());
    let adoption = adopting.then(|| Adoption {
        event_id: EventId(ids.time_ordered()),
        adopted: Adopted {
            provider: PROVIDER.to_owned(),
            transaction_id: fact.transaction_id,
        },
    });
    NotificationCommand {
        event_id: EventId(ids.time_ordered()),
        occurred_at: fact.occurred_at.unwrap_or(delivery.received_at),
        private: fact.private,
        action: Action::Report {
            report: Arc::new(report),
            adoption,
        },
    }
}

async fn change(
    state: &ApiState,
    delivery: &Delivery,
    changed: ObjectChange,
) -> Result<Placed, Problem> {
    let stream_id = correlate::object_stream(&delivery.tenant.tenant_id, &changed.change);
    let occupant = correlate::occupant(&state.ledger, &delivery.tenant, stream_id).await?;
    if occupant == Occupant::Notification {
        // Callers choose the ids of their notifications, so one may have been chosen to be here.
        let subscriber_id = changed.change.subscriber_id;
        return Ok(Placed::Nowhere {
            reason: format!("a notification has the id {stream_id}, which is the object's"),
            subject: subscriber_id.map_or(Subject::Stream, Subject::Subscriber),
        });
    }
    let mut change = changed.change;
    change.delivery_id = Some(delivery.delivery_id.clone());
    let command = IntegrationCommand {
        event_id: EventId(state.surroundings.ids.time_ordered()),
        occurred_at: changed.occurred_at,
        change,
        private: changed.private,
    };
    let ledger = &state.ledger;
    let done = ledger
        .execute::<Integration>(&order(delivery), stream_id, Beginning::Unknown, command)
        .await
        .map_err(|error: CommandError<SealingError>| match error {
            CommandError::Refused(error) => internal(&error),
            CommandError::Ledger(error) => error.into(),
        })?;
    Ok(Placed::Recorded(Recorded::done(&done, None)))
}

fn order(delivery: &Delivery) -> Order {
    Order {
        tenant: delivery.tenant.clone(),
        provenance: Arc::clone(&delivery.provenance),
        idempotency: None,
        expected_version: None,
    }
}
