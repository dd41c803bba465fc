//! `workflow.*` and `preference.updated`: what changed at Novu itself.
//!
//! Repeats are recognised by their key, not by their time. So, unlike for messages, the time of
//! emission may stand in where the object has none for the change.

use std::fmt::Write;

use ring::digest::{SHA256, digest};
use serde_json::{Map, Value};

use super::mapping::{ObjectChange, Unmappable, optional, private, required, subject};
use super::wire::{self, Data, Envelope, Nested, PreferenceObject, WorkflowObject};
use crate::domain::ids::SubscriberId;
use crate::domain::integration::Change;
use crate::domain::time::Timestamp;

/// Bytes of a digest that go into a key: enough that two values of one object never collide.
const DIGEST_BYTES: usize = 16;
/// The level of preferences that hold for every workflow; also what stands for it in an id.
const GLOBAL: &str = "global";
const PROVIDER: &str = "novu";

/// The part of an event type after `workflow.`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkflowChange {
    Created,
    Updated,
    Published,
    Deleted,
}

impl WorkflowChange {
    pub(super) fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "created" => Self::Created,
            "updated" => Self::Updated,
            "published" => Self::Published,
            "deleted" => Self::Deleted,
            _ => return None,
        })
    }

    /// When it happened. A deleted workflow is sent as it was last stored: only the envelope
    /// tells when it was deleted.
    fn occurred_at(
        self,
        workflow: &WorkflowObject,
        emitted_at: Option<Timestamp>,
    ) -> Option<Timestamp> {
        let updated_at = workflow.updated_at.0;
        let times = match self {
            Self::Created => [workflow.created_at.0, updated_at, emitted_at],
            Self::Updated => [updated_at, emitted_at, None],
            Self::Published => [workflow.last_published_at.0, updated_at, emitted_at],
            Self::Deleted => [emitted_at, updated_at, None],
        };
        times.into_iter().flatten().next()
    }
}

/// Maps one change of a workflow.
///
/// # Errors
///
/// [`Unmappable`] when the workflow is not named, the change has no time, or a text can't be
/// recorded as it is.
pub(super) fn workflow(
    kind: WorkflowChange,
    event_type: String,
    envelope: Envelope,
    body: &str,
) -> Result<ObjectChange, Unmappable> {
    let (object, _) = changed(envelope.data, body)?;
    let content = content_digest(&object);
    let workflow: WorkflowObject = wire::read(object);
    let occurred_at = kind.occurred_at(&workflow, envelope.timestamp.0);
    let fact_key = workflow_key(kind, &event_type, &workflow, &content);
    Ok(ObjectChange {
        change: Change {
            provider: PROVIDER.to_owned(),
            change: event_type,
            object_id: required("data.object._id", workflow.id.0.clone())?,
            name: trigger_name(workflow)?,
            subscriber_id: None,
            delivery_id: None,
            fact_key,
        },
        occurred_at: occurred_at.ok_or(Unmappable::MissingField {
            field: "data.object.updatedAt",
        })?,
        private: Some(private(None, body)),
    })
}

/// One state of a workflow may be published again: then only the time of publishing differs.
fn workflow_key(
    kind: WorkflowChange,
    event_type: &str,
    workflow: &WorkflowObject,
    content: &str,
) -> String {
    let Some(updated_at) = workflow.updated_at.0 else {
        return format!("{event_type}|{content}");
    };
    match workflow.last_published_at.0 {
        Some(published_at) if kind == WorkflowChange::Published => {
            format!("{event_type}|{updated_at}|{published_at}")
        }
        Some(_) | None => format!("{event_type}|{updated_at}"),
    }
}

fn trigger_name(workflow: WorkflowObject) -> Result<Option<String>, Unmappable> {
    if let Some(name) = optional("data.object.workflowId", workflow.workflow_id.0)? {
        return Ok(Some(name));
    }
    let triggers = workflow.triggers.0;
    let first = triggers.into_iter().next().and_then(|trigger| trigger.0);
    let identifier = first.and_then(|trigger| trigger.identifier.0);
    optional("data.object.triggers[0].identifier", identifier)
}

/// Maps one change of a subscriber's preferences, for all workflows or for one.
///
/// # Errors
///
/// [`Unmappable`] when it is not said whose preference it is, or for what, or when.
pub(super) fn preference(
    event_type: String,
    envelope: Envelope,
    body: &str,
) -> Result<ObjectChange, Unmappable> {
    let (object, data) = changed(envelope.data, body)?;
    let fact_key = content_digest(&object);
    let preference: PreferenceObject = wire::read(object);
    let field = "data.subscriberId";
    let subscriber_id = SubscriberId::new(&required(field, data.subscriber_id.0)?)
        .map_err(|why| Unmappable::UnusableText { field, why })?;
    let (scope, name) = scope(preference)?;
    Ok(ObjectChange {
        change: Change {
            provider: PROVIDER.to_owned(),
            change: event_type,
            object_id: format!("{subscriber_id}/{scope}"),
            name,
            subscriber_id: Some(subscriber_id),
            delivery_id: None,
            fact_key,
        },
        occurred_at: envelope
            .timestamp
            .0
            .ok_or(Unmappable::MissingField { field: "timestamp" })?,
        private: Some(private(None, body)),
    })
}

/// What a preference holds for, and what people call it.
fn scope(preference: PreferenceObject) -> Result<(String, Option<String>), Unmappable> {
    if preference.level.0.as_deref() == Some(GLOBAL) {
        return Ok((GLOBAL.to_owned(), None));
    }
    let workflow = preference.workflow.0.unwrap_or_default();
    let id = required("data.object.workflow.id", workflow.id.0)?;
    let name = optional("data.object.workflow.identifier", workflow.identifier.0)?;
    Ok((id, name))
}

/// The object that changed, with all its fields, and what stands beside it.
fn changed(data: Nested<Data>, body: &str) -> Result<(Map<String, Value>, Data), Unmappable> {
    let (_, data) = subject(data)?;
    let field = "data.object";
    let object = wire::object(body).ok_or(Unmappable::MissingField { field })?;
    Ok((object, data))
}

/// A short name for what an object says, whatever the order of its fields.
fn content_digest(object: &Map<String, Value>) -> String {
    let mut canonical = Value::Object(object.clone());
    canonical.sort_all_objects();
    let digest = digest(&SHA256, canonical.to_string().as_bytes());
    let mut key = String::new();
    for byte in digest.as_ref().iter().take(DIGEST_BYTES) {
        // Writing to a text can't fail.
        let _ = write!(key, "{byte:02x}");
    }
    key
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::mapping::{Mapped, map};
    use super::super::samples::{body, body_with};
    use super::*;

    fn mapped(body: &[u8]) -> ObjectChange {
        match map(body).unwrap() {
            Mapped::Change(change) => *change,
            other => panic!("not a change: {other:?}"),
        }
    }

    fn key(name: &str, change: impl FnOnce(&mut Value)) -> String {
        mapped(&body_with(name, change)).change.fact_key
    }

    fn refusal(name: &str, change: impl FnOnce(&mut Value)) -> Unmappable {
        map(&body_with(name, change)).unwrap_err()
    }

    #[test]
    fn the_same_change_in_another_envelope_has_the_same_key() {
        for name in [
            "workflow.updated",
            "workflow.deleted",
            "preference.updated.global",
        ] {
            let again = key(name, |body| {
                body["id"] = json!("evt_another");
                body["timestamp"] = json!("2026-04-01T00:00:00Z");
            });
            assert_eq!(again, key(name, |_| {}));
        }
    }

    #[test]
    fn a_workflow_published_again_unchanged_is_another_change() {
        let again = key("workflow.published", |body| {
            body["data"]["object"]["lastPublishedAt"] = json!("2026-03-15T08:15:00Z");
        });

        assert_ne!(again, key("workflow.published", |_| {}));
    }

    #[test]
    fn an_edited_workflow_tells_its_changes_apart_without_times_too() {
        let edit = |name: &str| {
            key("workflow.updated", |body| {
                body["data"]["object"]["updatedAt"] = Value::Null;
                body["data"]["object"]["name"] = json!(name);
            })
        };

        assert_eq!(edit("A"), edit("A"));
        assert_ne!(edit("A"), edit("B"));
    }

    #[test]
    fn the_order_of_fields_does_not_change_a_preference() {
        let sorted = key("preference.updated.workflow", |body| {
            body.sort_all_objects();
        });

        assert_eq!(
            sorted,
            mapped(&body("preference.updated.workflow")).change.fact_key
        );
        let other = key("preference.updated.workflow", |body| {
            body["data"]["object"]["channels"]["email"] = json!(true);
        });
        assert_ne!(sorted, other);
    }

    #[test]
    fn a_change_that_lacks_what_it_is_about_is_refused() {
        let missing = |field| Unmappable::MissingField { field };
        let preference = "preference.updated.workflow";

        assert_eq!(
            refusal("workflow.updated", |body| body["data"]["object"]["_id"] =
                Value::Null),
            missing("data.object._id")
        );
        assert_eq!(
            refusal(preference, |body| body["data"]["subscriberId"] =
                Value::Null),
            missing("data.subscriberId")
        );
        assert_eq!(
            refusal(preference, |body| body["data"]["object"]["workflow"] =
                Value::Null),
            missing("data.object.workflow.id")
        );
        assert_eq!(
            refusal(preference, |body| body["timestamp"] = Value::Null),
            missing("timestamp")
        );
    }
}
