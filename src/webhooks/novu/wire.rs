//! Novu's shapes, as far as they are read.
//!
//! Much of what Novu sends is undocumented and changes between releases, so nothing here
//! refuses a body: an unknown field is passed over, and a field of an unexpected type counts
//! as absent. Which fields are essential is for the mapping to say. None of these types can be
//! printed: they hold what must not reach a log.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::mapping::Unmappable;
use crate::domain::time::Timestamp;
use crate::json::is_nested_deeper;

/// How deeply a body may be nested. `serde_json` reads 128 levels, and a body that is kept must
/// stay readable inside everything it will be wrapped in: the event's data, an answer, a page.
pub(super) const NESTING_MAX: usize = 96;

/// What every webhook has around the object it is about.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Envelope {
    #[serde(rename = "type")]
    pub(super) event_type: Lenient<String>,
    pub(super) data: Nested<Data>,
    /// When Novu emitted this envelope; a repeat of the same fact has another.
    pub(super) timestamp: Lenient<Timestamp>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Data {
    /// Read with [`read`] once the event type says what it is.
    pub(super) object: Lenient<Map<String, Value>>,
    pub(super) error: Lenient<Value>,
    pub(super) subscriber_id: Lenient<String>,
}

/// `data.object` of `message.*`. `status` is left out on purpose: it is a snapshot from before
/// the event, and lies.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct MessageObject {
    #[serde(rename = "_id")]
    pub(super) id: Lenient<String>,
    pub(super) transaction_id: Lenient<String>,
    pub(super) workflow_id: Lenient<String>,
    /// The same as `workflowId`, under its older name.
    pub(super) template_identifier: Lenient<String>,
    pub(super) step_id: Lenient<String>,
    pub(super) channel: Lenient<String>,
    pub(super) provider_id: Lenient<String>,
    pub(super) provider_response_id: Lenient<String>,
    pub(super) subscriber_id: Lenient<String>,
    /// Older builds: Novu's own id of the subscriber.
    #[serde(rename = "_subscriberId")]
    pub(super) internal_subscriber_id: Lenient<String>,
    /// Older builds: the whole subscriber, of whom only the id is read.
    pub(super) subscriber: Nested<Subscriber>,
    pub(super) error_id: Lenient<String>,
    pub(super) error_text: Lenient<String>,
    pub(super) created_at: Lenient<Timestamp>,
    pub(super) updated_at: Lenient<Timestamp>,
    pub(super) delivered_at: LastTime,
    pub(super) first_seen_date: Lenient<Timestamp>,
    pub(super) last_seen_date: Lenient<Timestamp>,
    pub(super) last_read_date: Lenient<Timestamp>,
    pub(super) archived_at: Lenient<Timestamp>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Subscriber {
    pub(super) subscriber_id: Lenient<String>,
}

/// `data.error` of `message.*`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct SendError {
    pub(super) message: Lenient<String>,
    pub(super) push: Nested<PushError>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct PushError {
    pub(super) reason: Lenient<String>,
}

/// `data.object` of `workflow.*`: the public workflow or, once deleted, the stored document.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct WorkflowObject {
    #[serde(rename = "_id")]
    pub(super) id: Lenient<String>,
    pub(super) workflow_id: Lenient<String>,
    pub(super) triggers: Lenient<Vec<Nested<Named>>>,
    pub(super) created_at: Lenient<Timestamp>,
    pub(super) updated_at: Lenient<Timestamp>,
    pub(super) last_published_at: Lenient<Timestamp>,
}

/// `data.object` of `preference.updated`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct PreferenceObject {
    pub(super) level: Lenient<String>,
    pub(super) workflow: Nested<Named>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Named {
    pub(super) id: Lenient<String>,
    pub(super) identifier: Lenient<String>,
}

impl SendError {
    /// An error is an object; a bare text is its message.
    pub(super) fn from_value(value: Value) -> Self {
        match value {
            Value::Object(fields) => read(fields),
            Value::String(message) => Self {
                message: Lenient(Some(message)),
                ..Self::default()
            },
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => Self::default(),
        }
    }
}

/// Reads the envelope.
///
/// # Errors
///
/// [`Unmappable`] when the text is no JSON object, or nested too deeply to be kept.
pub(super) fn read_envelope(text: &str) -> Result<Envelope, Unmappable> {
    if is_nested_deeper(text, NESTING_MAX) {
        return Err(Unmappable::NestedTooDeeply);
    }
    let value: Value = serde_json::from_str(text).map_err(|error| Unmappable::NotJson {
        why: if error.is_eof() {
            "ends too early"
        } else {
            "breaks JSON's rules"
        },
    })?;
    match value {
        Value::Object(fields) => Ok(read(fields)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(Unmappable::NotAnObject)
        }
    }
}

/// Reads an object into one of the types above. Each of their fields takes any value, so there
/// is nothing to fail on.
pub(super) fn read<T: DeserializeOwned + Default>(fields: Map<String, Value>) -> T {
    T::deserialize(Value::Object(fields)).unwrap_or_default()
}

/// A value, or nothing if it is `null`, absent or of another type.
pub(super) struct Lenient<T>(pub(super) Option<T>);

/// An object, or nothing if it is anything else. Serde alone would also take an array, field
/// by field.
pub(super) struct Nested<T>(pub(super) Option<T>);

/// The last readable time of a list; a bare time is a list of one.
#[derive(Default)]
pub(super) struct LastTime(pub(super) Option<Timestamp>);

impl<T> Default for Lenient<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Default for Nested<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Option::<Value>::deserialize(deserializer)?;
        Ok(Self(value.and_then(|value| T::deserialize(value).ok())))
    }
}

impl<'de, T: DeserializeOwned + Default> Deserialize<'de> for Nested<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Lenient::<Map<String, Value>>::deserialize(deserializer)?;
        Ok(Self(fields.0.map(read)))
    }
}

impl<'de> Deserialize<'de> for LastTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let time = |value| Timestamp::deserialize(value).ok();
        Ok(Self(match Value::deserialize(deserializer)? {
            Value::Array(times) => times.into_iter().rev().find_map(time),
            other => time(other),
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(value: Value) -> MessageObject {
        let Value::Object(fields) = value else {
            panic!("not an object")
        };
        read(fields)
    }

    fn time(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn a_field_of_another_type_counts_as_absent_and_harms_no_other() {
        let object = message(json!({
            "_id": "m1",
            "channel": 7,
            "stepId": null,
            "subscriber": ["not an object"],
            "createdAt": "yesterday",
            "updatedAt": "2026-03-14T09:30:00Z",
            "neverHeardOf": {"it": []},
        }));

        assert_eq!(object.id.0.as_deref(), Some("m1"));
        assert_eq!(object.channel.0, None);
        assert_eq!(object.step_id.0, None);
        assert!(object.subscriber.0.is_none());
        assert_eq!(object.created_at.0, None);
        assert_eq!(object.updated_at.0, Some(time("2026-03-14T09:30:00Z")));
    }

    #[test]
    fn the_last_readable_delivery_time_counts() {
        let delivered_at = |value: Value| message(json!({ "deliveredAt": value })).delivered_at.0;
        let noon = "2026-03-14T12:00:00Z";

        assert_eq!(
            delivered_at(json!(["2026-03-14T09:30:00Z", noon])),
            Some(time(noon))
        );
        assert_eq!(
            delivered_at(json!([noon, "soon", 7, null])),
            Some(time(noon))
        );
        assert_eq!(delivered_at(json!(noon)), Some(time(noon)));
        for nothing in [
            json!([]),
            json!(null),
            json!({}),
            json!(["soon"]),
            json!("soon"),
        ] {
            assert_eq!(delivered_at(nothing), None);
        }
    }
}
