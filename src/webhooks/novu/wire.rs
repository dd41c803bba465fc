//! Novu's shapes, as far as they are read.
//!
//! Much of what Novu sends is undocumented and changes between releases, so nothing here
//! refuses a body: an unknown field is passed over, and a field of an unexpected type counts
//! as absent. Which fields are essential is for the mapping to say. None of these types can be
//! printed: they hold what must not reach a log.
//!
//! A body is read in one pass that keeps what is asked for and checks the rest: it is recorded as a
//! whole, so every text and number in it must be one that can be read again. Of a field that is there
//! twice, the last one counts.

use std::borrow::Cow;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::mapping::Unmappable;
use crate::domain::time::Timestamp;
use crate::json::is_nested_deeper;

/// How deeply a body may be nested. `serde_json` reads 128 levels, and a body that is kept must
/// stay readable inside everything it will be wrapped in: the event's data, an answer, a page.
pub(super) const NESTING_MAX: usize = 96;

/// Objects as they are declared: `field: Kind = "its name"`.
macro_rules! objects {
    ($(
        $(#[$about:meta])*
        struct $object:ident {
            $($(#[$said:meta])* $field:ident: $kind:ty = $name:literal,)+
        }
    )+) => {$(
        $(#[$about])*
        #[derive(Default)]
        pub(super) struct $object {
            $($(#[$said])* pub(super) $field: $kind,)+
        }

        impl<'de> Reading<'de> for $object {
            fn object<A: MapAccess<'de>>(mut fields: A) -> Result<Self, A::Error> {
                let mut object = Self::default();
                while let Some(Name(name)) = fields.next_key()? {
                    match &*name {
                        $($name => object.$field = fields.next_value_seed(Any::new())?,)+
                        _ => fields.next_value_seed(Any::<()>::new())?,
                    }
                }
                Ok(object)
            }
        }
    )+};
}

objects! {
    /// What every webhook has around the object it is about.
    struct Envelope {
        event_type: Lenient<String> = "type",
        data: Nested<Data> = "data",
        /// When Novu emitted this envelope; a repeat of the same fact has another.
        timestamp: Lenient<Timestamp> = "timestamp",
    }

    struct Data {
        /// As a message, since nearly all are about one. What else it may be, [`object`] reads.
        object: Nested<MessageObject> = "object",
        error: Option<SendError> = "error",
        subscriber_id: Lenient<String> = "subscriberId",
    }

    /// `data.object` of `message.*`. `status` is left out on purpose: it is a snapshot from before
    /// the event, and lies.
    struct MessageObject {
        id: Lenient<String> = "_id",
        transaction_id: Lenient<String> = "transactionId",
        workflow_id: Lenient<String> = "workflowId",
        /// The same as `workflowId`, under its older name.
        template_identifier: Lenient<String> = "templateIdentifier",
        step_id: Lenient<String> = "stepId",
        channel: Lenient<String> = "channel",
        provider_id: Lenient<String> = "providerId",
        provider_response_id: Lenient<String> = "providerResponseId",
        subscriber_id: Lenient<String> = "subscriberId",
        /// Older builds: Novu's own id of the subscriber.
        internal_subscriber_id: Lenient<String> = "_subscriberId",
        /// Older builds: the whole subscriber, of whom only the id is read.
        subscriber: Nested<Subscriber> = "subscriber",
        error_id: Lenient<String> = "errorId",
        error_text: Lenient<String> = "errorText",
        created_at: Lenient<Timestamp> = "createdAt",
        updated_at: Lenient<Timestamp> = "updatedAt",
        delivered_at: LastTime = "deliveredAt",
        first_seen_date: Lenient<Timestamp> = "firstSeenDate",
        last_seen_date: Lenient<Timestamp> = "lastSeenDate",
        last_read_date: Lenient<Timestamp> = "lastReadDate",
        archived_at: Lenient<Timestamp> = "archivedAt",
    }

    struct Subscriber {
        subscriber_id: Lenient<String> = "subscriberId",
    }

    /// `data.error` of `message.*`, if it is an object.
    struct ErrorObject {
        message: Lenient<String> = "message",
        push: Nested<PushError> = "push",
    }

    struct PushError {
        reason: Lenient<String> = "reason",
    }

    /// `data.object` of `workflow.*`: the public workflow or, once deleted, the stored document.
    struct WorkflowObject {
        id: Lenient<String> = "_id",
        workflow_id: Lenient<String> = "workflowId",
        triggers: Listed<Nested<Named>> = "triggers",
        created_at: Lenient<Timestamp> = "createdAt",
        updated_at: Lenient<Timestamp> = "updatedAt",
        last_published_at: Lenient<Timestamp> = "lastPublishedAt",
    }

    /// `data.object` of `preference.updated`.
    struct PreferenceObject {
        level: Lenient<String> = "level",
        workflow: Nested<Named> = "workflow",
    }

    struct Named {
        id: Lenient<String> = "id",
        identifier: Lenient<String> = "identifier",
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
    let mut json = serde_json::Deserializer::from_str(text);
    let envelope: Result<Nested<Envelope>, _> = Any::new().deserialize(&mut json);
    let whole = envelope.and_then(|envelope| json.end().map(|()| envelope));
    let envelope = whole.map_err(|error| Unmappable::NotJson {
        why: if error.is_eof() {
            "ends too early"
        } else {
            "breaks JSON's rules"
        },
    })?;
    envelope.0.ok_or(Unmappable::NotAnObject)
}

/// `data.object` with all its fields, of a body whose envelope could be read.
pub(super) fn object(text: &str) -> Option<Map<String, Value>> {
    let mut body: Value = serde_json::from_str(text).ok()?;
    match body.get_mut("data")?.get_mut("object")?.take() {
        Value::Object(fields) => Some(fields),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            None
        }
    }
}

/// Reads an object into one of the types above. Each of their fields takes any value, so there
/// is nothing to fail on.
pub(super) fn read<T: for<'de> Reading<'de>>(fields: Map<String, Value>) -> T {
    let read: Result<T, _> = Any::new().deserialize(Value::Object(fields));
    read.unwrap_or_default()
}

/// What a type makes of any JSON value there may be: of what it does not expect, its default.
pub(super) trait Reading<'de>: Default {
    fn text(_text: &str) -> Self {
        Self::default()
    }

    /// Of a truth value or a number.
    fn scalar() -> Self {
        Self::default()
    }

    fn list<A: SeqAccess<'de>>(mut items: A) -> Result<Self, A::Error> {
        while items.next_element_seed(Any::<()>::new())?.is_some() {}
        Ok(Self::default())
    }

    fn object<A: MapAccess<'de>>(mut fields: A) -> Result<Self, A::Error> {
        while let Some(Name(_)) = fields.next_key()? {
            fields.next_value_seed(Any::<()>::new())?;
        }
        Ok(Self::default())
    }
}

/// Reads any value as a type.
struct Any<T>(PhantomData<T>);

impl<T> Any<T> {
    fn new() -> Self {
        Self(PhantomData)
    }
}

impl<'de, T: Reading<'de>> DeserializeSeed<'de> for Any<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Reading<'de>> Visitor<'de> for Any<T> {
    type Value = T;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<T, E> {
        Ok(T::scalar())
    }

    fn visit_i64<E>(self, _: i64) -> Result<T, E> {
        Ok(T::scalar())
    }

    fn visit_u64<E>(self, _: u64) -> Result<T, E> {
        Ok(T::scalar())
    }

    fn visit_f64<E>(self, _: f64) -> Result<T, E> {
        Ok(T::scalar())
    }

    fn visit_str<E>(self, text: &str) -> Result<T, E> {
        Ok(T::text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<T, A::Error> {
        T::list(items)
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
        T::object(fields)
    }
}

/// A field's name; a copy only where it has escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Passed over.
impl Reading<'_> for () {}

/// `null` is nothing.
impl<'de, T: Reading<'de>> Reading<'de> for Option<T> {
    fn text(text: &str) -> Self {
        Some(T::text(text))
    }

    fn scalar() -> Self {
        Some(T::scalar())
    }

    fn list<A: SeqAccess<'de>>(items: A) -> Result<Self, A::Error> {
        T::list(items).map(Some)
    }

    fn object<A: MapAccess<'de>>(fields: A) -> Result<Self, A::Error> {
        T::object(fields).map(Some)
    }
}

/// What a text says, or nothing if it is `null`, absent, of another type, or says something else.
pub(super) struct Lenient<T>(pub(super) Option<T>);

/// What is written as a text.
pub(super) trait FromText: Sized {
    fn from_text(text: &str) -> Option<Self>;
}

impl FromText for String {
    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl FromText for Timestamp {
    fn from_text(text: &str) -> Option<Self> {
        Self::parse(text).ok()
    }
}

impl<T: FromText> Reading<'_> for Lenient<T> {
    fn text(text: &str) -> Self {
        Self(T::from_text(text))
    }
}

/// An object, or nothing if it is anything else.
pub(super) struct Nested<T>(pub(super) Option<T>);

impl<'de, T: Reading<'de>> Reading<'de> for Nested<T> {
    fn object<A: MapAccess<'de>>(fields: A) -> Result<Self, A::Error> {
        Ok(Self(Some(T::object(fields)?)))
    }
}

/// The items of a list; none if it is anything else.
pub(super) struct Listed<T>(pub(super) Vec<T>);

impl<'de, T: Reading<'de>> Reading<'de> for Listed<T> {
    fn list<A: SeqAccess<'de>>(mut items: A) -> Result<Self, A::Error> {
        let mut listed = Vec::new();
        while let Some(item) = items.next_element_seed(Any::new())? {
            listed.push(item);
        }
        Ok(Self(listed))
    }
}

/// The last readable time of a list; a bare time is a list of one.
#[derive(Default)]
pub(super) struct LastTime(pub(super) Option<Timestamp>);

impl<'de> Reading<'de> for LastTime {
    fn text(text: &str) -> Self {
        Self(FromText::from_text(text))
    }

    fn list<A: SeqAccess<'de>>(mut items: A) -> Result<Self, A::Error> {
        let mut last = None;
        while let Some(Lenient(time)) = items.next_element_seed(Any::new())? {
            last = time.or(last);
        }
        Ok(Self(last))
    }
}

/// `data.error` of `message.*`: an object; a bare text is its message.
#[derive(Default)]
pub(super) struct SendError(pub(super) ErrorObject);

impl<'de> Reading<'de> for SendError {
    fn text(text: &str) -> Self {
        Self(ErrorObject {
            message: Lenient::text(text),
            ..ErrorObject::default()
        })
    }

    fn object<A: MapAccess<'de>>(fields: A) -> Result<Self, A::Error> {
        ErrorObject::object(fields).map(Self)
    }
}

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

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self(Vec::new())
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

    #[test]
    fn the_last_of_two_fields_counts_and_nothing_of_the_first() {
        let body = r#"{"type": "a", "data": {"object": {"_id": "m1"}, "subscriberId": "s"},
            "data": {"object": {"_id": 1, "_id": "m2", "ch\u0061nnel": "sms", "channel": 7}},
            "type": "b"}"#;

        let envelope = read_envelope(body).ok().unwrap();

        let data = envelope.data.0.unwrap();
        let object = data.object.0.unwrap();
        assert_eq!(envelope.event_type.0.as_deref(), Some("b"));
        assert_eq!(data.subscriber_id.0, None);
        assert_eq!(object.id.0.as_deref(), Some("m2"));
        assert_eq!(object.channel.0, None);
        let whole = super::object(body).unwrap();
        assert_eq!(Value::Object(whole), json!({"_id": "m2", "channel": 7}));
    }

    /// What is kept is read as a whole some day.
    #[test]
    fn what_is_passed_over_must_be_readable_all_the_same() {
        let refusal = |value: &str| {
            let body = format!(r#"{{"type": "message.sent", "x": [{{"y": {value}}}]}}"#);
            assert_eq!(
                read_envelope(&body).is_ok(),
                serde_json::from_str::<Value>(&body).is_ok(),
                "{value}"
            );
            read_envelope(&body).err()
        };

        for good in [
            "1e300",
            "-0",
            "\"\\ud83d\\ude00\"",
            "{\"\\u0061\": null}",
            "true",
        ] {
            assert_eq!(refusal(good), None, "{good}");
        }
        for bad in [
            "1e999",
            "\"\\ud800\"",
            "{\"\\ud800\": 1}",
            "\"\u{1}\"",
            "01",
            "nul",
        ] {
            let why = "breaks JSON's rules";
            assert_eq!(refusal(bad), Some(Unmappable::NotJson { why }), "{bad}");
        }
    }
}
