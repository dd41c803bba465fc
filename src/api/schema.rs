//! Request bodies as the API's document shows them, and the words that fields take.
//!
//! Bodies are read by hand in `body.rs` and beside their handlers, so that every fault is found at
//! once; these structs only describe them. A test sends each one's full example to the service and
//! compares the fields with those that the service knows, so that the two can't drift apart.

#![expect(dead_code, reason = "of the structs here only the schemas are used")]

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::json;
use utoipa::openapi::schema::{
    AdditionalProperties, AnyOfBuilder, KnownFormat, ObjectBuilder, Schema, SchemaFormat,
    SchemaType, Type,
};
use utoipa::openapi::{Discriminator, OneOfBuilder, Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use super::body::CommandName;
use crate::domain::event::{
    Audience, BounceType, Category, Interaction, Priority, Severity, names,
};
use crate::domain::state::Status;
use crate::domain::time::Timestamp;
use crate::ledger::record::LedgerPosition;
use crate::ledger::registry::Scope;

/// `POST /v1/notifications`: one notification to one subscriber through one workflow.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(
    json!({"workflow_id": "welcome", "subscriber": {"id": "ada"}}),
    json!({
        "id": "019353f0-5f5c-7000-8000-5d4f2b7a9c11",
        "workflow_id": "order-shipped",
        "workflow_version": "12",
        "external_id": "order-4711",
        "subscriber": {
            "id": "ada",
            "email": "ada@example.com",
            "phone": "+4915112345678",
            "locale": "de-DE",
            "timezone": "Europe/Berlin",
            "channels": {"push": "ExponentPushToken[xxxxxxxxxxxxxxxxxxxxxx]"}
        },
        "channels": ["email", "push"],
        "payload": {"order": {"number": 4711, "total": "19.90"}},
        "category": "transactional",
        "priority": "high",
        "classification": {"error_code": "E-42", "audience": "customer", "severity": "low"},
        "scheduled_at": "2026-03-14T09:30:00Z",
        "expires_at": "9999-12-31T23:59:59.999999Z",
        "metadata": {"region": "eu", "team": "checkout"},
        "correlation_id": "checkout-8842",
        "causation_id": "order-4711-shipped"
    })
))]
pub struct RequestNotification {
    /// An id of your own. A second request with the same id is refused (409 `already_exists`).
    #[schema(nullable)]
    id: Option<Uuid>,
    workflow_id: Name,
    workflow_version: Option<Name>,
    subscriber: Subscriber,
    /// A reference of your own, to search by.
    external_id: Option<Name>,
    /// `email`, `sms`, `push`, `in_app`, `chat`, `webhook`, or slugs of your own; each once.
    #[schema(max_items = 32)]
    channels: Option<Vec<Slug>>,
    /// What the workflow fills in: at most 512 KiB unless configured otherwise. Sealed.
    #[schema(value_type = Option<Object>)]
    payload: Option<()>,
    #[schema(default = "transactional")]
    category: Option<Category>,
    #[schema(default = "normal")]
    priority: Option<Priority>,
    classification: Option<Classification>,
    scheduled_at: Option<Timestamp>,
    /// Later than `scheduled_at`.
    expires_at: Option<Timestamp>,
    #[schema(schema_with = metadata)]
    metadata: Option<BTreeMap<String, String>>,
    /// What belongs together: it stands in every event of this call.
    correlation_id: Option<Name>,
    /// What led to this.
    causation_id: Option<Name>,
}

/// Who is notified. All but `id` is sealed under the subscriber's own key.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct Subscriber {
    id: Name,
    #[schema(max_length = 4096)]
    email: Option<String>,
    #[schema(max_length = 4096)]
    phone: Option<String>,
    #[schema(max_length = 4096)]
    locale: Option<String>,
    #[schema(max_length = 4096)]
    timezone: Option<String>,
    /// Further addresses, by channel: at most 32.
    channels: Option<BTreeMap<String, String>>,
}

/// How you file the notification.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct Classification {
    error_code: Option<Name>,
    /// For whom an error is meant.
    audience: Option<Audience>,
    severity: Option<Severity>,
}

/// `POST /v1/notifications/{id}/queue`. May be left out.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({"queue": "bulk", "available_at": "2026-03-14T09:30:00Z"})))]
pub struct Queue {
    queue: Option<Name>,
    available_at: Option<Timestamp>,
}

/// `POST /v1/notifications/{id}/retract`
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({"reason": "The order was cancelled."})))]
pub struct Retract {
    /// At most 8 KiB. Sealed.
    #[schema(max_length = 8192)]
    reason: String,
}

/// Which message of the notification is meant. All that is known helps: reports that name the same
/// provider message are about one message. With nothing, the only message is meant.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct Message {
    /// `email`, `sms`, `push`, `in_app`, `chat`, `webhook`, or a slug of your own.
    channel: Option<Slug>,
    step_id: Option<Name>,
    provider_id: Option<Name>,
    provider_message_id: Option<Name>,
}

/// Declares the bodies of facts: what every fact has, and what is its own.
macro_rules! facts {
    ($($(#[$attribute:meta])* $name:ident { $($own:tt)* })+) => {$(
        #[derive(ToSchema)]
        $(#[$attribute])*
        #[serde(deny_unknown_fields)]
        pub struct $name {
            message: Option<Message>,
            /// When it happened; now, if left out.
            occurred_at: Option<Timestamp>,
            /// The provider's own report, of any form, at most 512 KiB. Sealed.
            #[schema(value_type = Option<Value>)]
            raw: Option<()>,
            $($own)*
        }
    )+};
}

facts! {
    /// `POST /v1/notifications/{id}/sent`. May be left out.
    #[schema(examples(json!({
        "message": {"channel": "email", "step_id": "send-email", "provider_id": "sendgrid", "provider_message_id": "sg-7Kd2"},
        "occurred_at": "2026-03-14T09:30:01Z",
        "raw": {"status": 202}
    })))]
    Sent {}

    /// `POST /v1/notifications/{id}/delivered`. May be left out.
    #[schema(examples(json!({
        "message": {"channel": "email", "step_id": "send-email", "provider_id": "sendgrid", "provider_message_id": "sg-7Kd2"},
        "occurred_at": "2026-03-14T09:30:04Z",
        "raw": {"event": "delivered"}
    })))]
    Delivered {}

    /// `POST /v1/notifications/{id}/bounced`. May be left out.
    #[schema(examples(json!({
        "message": {"channel": "email", "step_id": "send-email", "provider_id": "sendgrid", "provider_message_id": "sg-7Kd2"},
        "occurred_at": "2026-03-14T09:30:05Z",
        "bounce_type": "hard",
        "code": "550",
        "reason": "5.1.1 The mailbox does not exist.",
        "raw": {"event": "bounce"}
    })))]
    Bounced {
        /// `soft`: the provider goes on trying.
        #[schema(default = "unknown")]
        bounce_type: Option<BounceType>,
        code: Option<Name>,
        /// At most 8 KiB. Sealed.
        #[schema(max_length = 8192)]
        reason: Option<String>,
    }

    /// `POST /v1/notifications/{id}/failed`
    #[schema(examples(json!({
        "message": {"channel": "email", "step_id": "send-email", "provider_id": "sendgrid", "provider_message_id": "sg-7Kd2"},
        "occurred_at": "2026-03-14T09:30:02Z",
        "error": {"code": "timeout", "message": "The provider did not answer within 10 s."},
        "retryable": true,
        "final": false,
        "attempt": 1,
        "raw": null
    })))]
    Failed {
        error: FailureError,
        /// The notification may be queued again.
        #[schema(default = false)]
        retryable: Option<bool>,
        /// Nobody will try again by themselves. The opposite of `retryable` if left out.
        #[serde(rename = "final")]
        is_final: Option<bool>,
        #[schema(minimum = 1, maximum = 1_000_000)]
        attempt: Option<u32>,
    }

    /// `POST /v1/notifications/{id}/seen`. May be left out.
    #[schema(examples(json!({
        "message": {"channel": "in_app", "step_id": "inbox", "provider_id": "novu", "provider_message_id": "m-1"},
        "occurred_at": "2026-03-14T09:31:00Z",
        "raw": null
    })))]
    Seen {}

    /// `POST /v1/notifications/{id}/read`. May be left out.
    #[schema(examples(json!({
        "message": {"channel": "in_app", "step_id": "inbox", "provider_id": "novu", "provider_message_id": "m-1"},
        "occurred_at": "2026-03-14T09:31:02Z",
        "raw": null
    })))]
    Read {}

    /// `POST /v1/notifications/{id}/interacted`
    #[schema(examples(json!({
        "message": {"channel": "in_app", "step_id": "inbox", "provider_id": "novu", "provider_message_id": "m-1"},
        "occurred_at": "2026-03-14T09:31:09Z",
        "kind": "clicked",
        "raw": {"url": "https://example.com/orders/4711"}
    })))]
    Interacted {
        kind: Interaction,
    }

    /// `POST /v1/notifications/{id}/suppressed`
    #[schema(examples(json!({
        "message": {"channel": "sms", "step_id": "send-sms", "provider_id": "twilio", "provider_message_id": "SM-1"},
        "occurred_at": "2026-03-14T09:30:00Z",
        "reason": "preference",
        "raw": null
    })))]
    Suppressed {
        /// Why it was not sent, such as `preference`, `rate_limit`, `expired` or `duplicate`.
        reason: Name,
    }
}

/// What went wrong.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct FailureError {
    code: Option<Name>,
    /// At most 8 KiB. Sealed.
    #[schema(max_length = 8192)]
    message: String,
}

/// `POST /v1/commands`: up to 1,000 commands.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({
    "commands": [
        {
            "type": "request",
            "id": "019353f0-5f5c-7000-8000-5d4f2b7a9c12",
            "workflow_id": "welcome",
            "subscriber": {"id": "ada"},
            "idempotency_key": "import-1"
        },
        {
            "type": "delivered",
            "notification_id": "019353f0-5f5c-7000-8000-5d4f2b7a9c12",
            "message": {"channel": "email"},
            "idempotency_key": "import-2"
        }
    ]
})))]
pub struct Commands {
    #[schema(max_items = 1000)]
    commands: Vec<Command>,
}

/// One command of many: the body of its own call, with its `type`, the notification it is about,
/// and an idempotency key if it may come again.
pub struct Command;

impl Command {
    /// The schema of one type of command, named as a component.
    fn of(name: CommandName) -> (String, Schema) {
        let (body, title) = match name {
            CommandName::Request => (RequestNotification::schema(), "RequestCommand"),
            CommandName::Queue => (Queue::schema(), "QueueCommand"),
            CommandName::Retract => (Retract::schema(), "RetractCommand"),
            CommandName::Sent => (Sent::schema(), "SentCommand"),
            CommandName::Delivered => (Delivered::schema(), "DeliveredCommand"),
            CommandName::Bounced => (Bounced::schema(), "BouncedCommand"),
            CommandName::Failed => (Failed::schema(), "FailedCommand"),
            CommandName::Seen => (Seen::schema(), "SeenCommand"),
            CommandName::Read => (Read::schema(), "ReadCommand"),
            CommandName::Interacted => (Interacted::schema(), "InteractedCommand"),
            CommandName::Suppressed => (Suppressed::schema(), "SuppressedCommand"),
        };
        let RefOr::T(Schema::Object(mut object)) = body else {
            return (title.to_owned(), Schema::default());
        };
        let uuid = ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)));
        object.description = None;
        object.examples.clear();
        object
            .properties
            .insert("type".to_owned(), words(&[name.as_str()]).into());
        object.required.push("type".to_owned());
        if name != CommandName::Request {
            object
                .properties
                .insert("notification_id".to_owned(), uuid.into());
            object.required.push("notification_id".to_owned());
        }
        let key = ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(1))
            .max_length(Some(255))
            .description(Some(
                "Kept for ever, so that an interrupted import can be run again.",
            ));
        object
            .properties
            .insert("idempotency_key".to_owned(), key.into());
        (title.to_owned(), Schema::Object(object))
    }
}

impl PartialSchema for Command {
    fn schema() -> RefOr<Schema> {
        let mut types = OneOfBuilder::new().description(Some(
            "One command of many: the body of its own call, with its `type`, the notification it \
             is about, and an idempotency key if it may come again.",
        ));
        let mut discriminator = Discriminator::new("type");
        for name in CommandName::WORDS
            .iter()
            .filter_map(|word| CommandName::from_word(word))
        {
            let (title, _) = Self::of(name);
            let place = format!("#/components/schemas/{title}");
            types = types.item(Ref::new(place.clone()));
            discriminator
                .mapping
                .insert(name.as_str().to_owned(), place);
        }
        types.discriminator(Some(discriminator)).into()
    }
}

impl ToSchema for Command {
    fn name() -> Cow<'static, str> {
        "Command".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        for name in CommandName::WORDS
            .iter()
            .filter_map(|word| CommandName::from_word(word))
        {
            let (title, schema) = Self::of(name);
            schemas.push((title, schema.into()));
        }
        RequestNotification::schemas(schemas);
        Failed::schemas(schemas);
    }
}

/// `POST /v1/tenants`
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({"id": "globex", "name": "Globex Corporation", "partition": 0})))]
pub struct CreateTenant {
    /// A slug. It can't be changed later.
    id: Slug,
    name: Option<Name>,
    /// The slice of the ledger it is to live in; follows from the id if left out.
    #[schema(minimum = 0)]
    partition: Option<i16>,
}

/// `POST /v1/keys`
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(
    json!({"tenant_id": "acme", "name": "checkout", "scopes": ["read", "write"], "operator": false}),
    json!({"name": "second operator", "operator": true})
))]
pub struct CreateKey {
    /// Whose key it is: with an operator key, unless `X-Tenant-Id` says so.
    tenant_id: Option<Slug>,
    name: Option<Name>,
    /// What the key may do; `read` and `write` if left out. None implies another.
    #[schema(max_items = 16)]
    scopes: Option<Vec<Scope>>,
    /// The key is an operator's: for all tenants, and without scopes.
    #[schema(default = false)]
    operator: Option<bool>,
}

/// A name or an id.
pub struct Name;

/// A word of your own, or of ours.
pub struct Slug;

/// The stored name of a kind of event.
pub struct EventType;

/// A time or a position.
pub struct Moment;

/// Metadata to search for.
pub struct Metadata;

/// Declares the schema of a type: its name as a component, and what it is.
macro_rules! schemas {
    ($($type:ty = $name:literal, $schema:expr;)+) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                $schema.into()
            }
        }

        impl ToSchema for $type {
            fn name() -> Cow<'static, str> {
                $name.into()
            }
        }
    )+};
}

schemas! {
    Name = "Name", text()
        .min_length(Some(1))
        .max_length(Some(256))
        .pattern(Some(r"^[^\x00-\x1f\x7f-\x9f]+$"))
        .description(Some("1 to 256 characters, none of them a control character."));
    Slug = "Slug", text().pattern(Some(SLUG));
    EventType = "EventType", words(&names::ALL);
    Status = "Status", words(Status::WORDS);
    Category = "Category", words(Category::WORDS);
    Priority = "Priority", words(Priority::WORDS);
    Audience = "Audience", words(Audience::WORDS).description(Some("For whom an error is meant."));
    Severity = "Severity", words(Severity::WORDS);
    BounceType = "BounceType", words(BounceType::WORDS);
    Interaction = "Interaction", words(Interaction::WORDS);
    Scope = "Scope", words(&Scope::ALL.map(Scope::as_str));
    Metadata = "Metadata", ObjectBuilder::new()
        .additional_properties(Some(AdditionalProperties::from(RefOr::T(text().into()))));
    Moment = "Moment", AnyOfBuilder::new()
        .item(Ref::from_schema_name("Timestamp"))
        .item(Ref::from_schema_name("Position"));
    Timestamp = "Timestamp", text()
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
        .description(Some(
            "RFC 3339, from 1970 to 9999. Any offset is read; answers are in UTC with \
             microseconds, so that the text sorts like the time.",
        ))
        .examples([json!("2026-03-14T09:30:00.412000Z")]);
    LedgerPosition = "Position", text()
        .pattern(Some("^[0-9]+-[0-9]+$"))
        .description(Some("A place in the ledger. A token: what it is made of may change."))
        .examples([json!("3-1042")]);
}

/// What a slug looks like.
pub(super) const SLUG: &str = "^[a-z0-9][a-z0-9._-]{0,62}$";

pub(super) fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn words(words: &[&str]) -> ObjectBuilder {
    text().enum_values(Some(words.iter().copied()))
}

pub(super) fn sources() -> Schema {
    words(&["api", "novu", "worker", "import"]).into()
}

pub(super) fn actor_kinds() -> Schema {
    words(&["key", "source", "operator", "system"]).into()
}

fn metadata() -> Schema {
    let value = text().max_length(Some(512));
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Object, Type::Null]))
        .max_properties(Some(50))
        .additional_properties(Some(AdditionalProperties::from(RefOr::T(value.into()))))
        .description(Some(
            "At most 50 entries of up to 512 characters. Not sealed: no personal data here.",
        ))
        .into()
}

pub(super) fn interaction_times() -> Schema {
    let at = Ref::from_schema_name("Timestamp");
    let times = Interaction::WORDS
        .iter()
        .fold(ObjectBuilder::new(), |object, word| {
            object.property(*word, at.clone())
        });
    times.description(Some("When each was last done.")).into()
}
