//! The description of the whole API (`OpenAPI` 3.1), put together from what stands beside the
//! handlers, with what is the same everywhere added here.

use std::collections::BTreeMap;

use serde_json::json;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::schema::{Object, ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    Components, Content, ContentBuilder, HeaderBuilder, InfoBuilder, OpenApi, Ref, RefOr, Required,
    ResponseBuilder,
};
use utoipa::{PartialSchema, ToSchema};

use super::documented;
use super::schema::{Metadata, Moment, SLUG, text};
use crate::ledger::record::LedgerPosition;
use crate::problem::{Code, PROBLEM_JSON, ProblemDocument};
use crate::webhooks;

const DESCRIPTION: &str = "\
The complete, permanent and checkable history of every notification an organisation sends.

- Send a key with each call: `Authorization: Bearer <key>`. An operator's key names the tenant with \
`X-Tenant-Id`.
- Every error is `application/problem+json` (RFC 9457); its `code` is stable. What is wrong with a \
body is listed all at once.
- Any `POST` may be repeated safely under an `Idempotency-Key`, for ever.
- Times are RFC 3339 in UTC with microseconds. Positions in the ledger are tokens.
- Lists come in pages: `limit` and `cursor`, answered by `next_cursor`.";

/// What the calls are grouped by, in the order of the page.
const TAGS: [(&str, &str); 7] = [
    (
        "Commands",
        "Wishes about notifications. They are checked against the rules, and may be refused.",
    ),
    (
        "Facts",
        "Reports of what has happened. They are never refused; a repeat changes nothing.",
    ),
    (
        "Lists",
        "What there is, and how it went: kept up to date a moment behind the ledger.",
    ),
    ("Audit", "What happened, in order, and what was known when."),
    (
        "Webhooks",
        "Reports of providers, and what becomes of those that nobody understands.",
    ),
    ("Administration", "Tenants, keys, and the ledger itself."),
    ("Operation", "Whether the service is well. No key needed."),
];

const SCHEME: &str = "key";

/// The whole document.
pub fn document() -> OpenApi {
    let mut document = documented().merge(webhooks::documented()).into_openapi();
    document.info = InfoBuilder::new()
        .title("Notification ledger")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .build();
    document.tags = Some(
        TAGS.map(|(name, description)| {
            TagBuilder::new()
                .name(name)
                .description(Some(description))
                .build()
        })
        .into(),
    );
    let components = document.components.get_or_insert_with(Components::new);
    add_components(components);
    let schemas = components.schemas.clone();
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            let call = Call { path, method };
            complete(&call, operation);
            complete_body(&call, operation, &schemas);
        }
    }
    document
}

/// One call, as the rules for all calls see it.
struct Call<'a> {
    path: &'a str,
    method: &'static str,
}

impl Call<'_> {
    /// Takes a key.
    fn is_ours(&self) -> bool {
        self.path.starts_with("/v1/")
    }

    /// Is signed by a provider instead.
    fn is_signed(&self) -> bool {
        self.path.starts_with("/webhooks/")
    }

    /// Acts for one tenant, whatever key it takes.
    fn is_for_a_tenant(&self) -> bool {
        self.is_ours()
            && !self.path.starts_with("/v1/admin")
            && !self.path.starts_with("/v1/tenants")
    }

    /// Reads what was appended.
    fn reads_the_record(&self) -> bool {
        const READS: [&str; 4] = [
            "/v1/events",
            "/v1/notification-logs",
            "/v1/timeline",
            "/v1/metrics",
        ];
        self.method == "get"
            && (self.path.starts_with("/v1/notifications") || READS.contains(&self.path))
    }

    /// Is about one version of one notification.
    fn has_a_version(&self) -> bool {
        self.method == "post" && self.path.starts_with("/v1/notifications/")
    }

    /// Takes an idempotency key.
    fn may_be_claimed(&self) -> bool {
        self.method == "post" || self.path.starts_with("/v1/subscribers/")
    }

    /// Its body may be left out, if nothing in it is required.
    fn may_say_nothing(&self) -> bool {
        self.has_a_version() || self.path.ends_with("/retry")
    }
}

fn operations(item: &mut PathItem) -> Vec<(&'static str, &mut Operation)> {
    [
        ("get", item.get.as_mut()),
        ("post", item.post.as_mut()),
        ("patch", item.patch.as_mut()),
        ("delete", item.delete.as_mut()),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation?)))
    .collect()
}

/// Adds the headers and errors that a call shares with others.
fn complete(call: &Call<'_>, operation: &mut Operation) {
    let mut parameters = Vec::new();
    let mut errors = vec!["Internal"];
    if call.is_ours() {
        operation.security = Some(vec![SecurityRequirement::new(SCHEME, [""; 0])]);
        errors.extend(["Unauthenticated", "Forbidden", "Invalid", "Unavailable"]);
        if call.is_for_a_tenant() {
            parameters.push("X-Tenant-Id");
        }
        if call.path.contains('{') || call.is_for_a_tenant() {
            errors.push("NotFound");
        }
        if call.may_be_claimed() {
            parameters.push("Idempotency-Key");
        }
        if call.reads_the_record() {
            parameters.push("Ledger-Min-Position");
        }
        if call.has_a_version() {
            parameters.push("If-Match");
            errors.push("VersionMismatch");
        }
        let creates = matches!(call.path, "/v1/notifications" | "/v1/tenants");
        if call.has_a_version() || (creates && call.method == "post") {
            errors.push("Conflict");
        }
    }
    if call.is_signed() {
        errors.extend([
            "Unauthenticated",
            "NotFound",
            "RequestTimeout",
            "TooLarge",
            "Paused",
        ]);
    } else if operation.request_body.is_some() {
        errors.extend([
            "MalformedJson",
            "RequestTimeout",
            "TooLarge",
            "UnsupportedMediaType",
        ]);
    }
    parameters.extend(["Request-Id", "traceparent"]);
    let shared = parameters
        .into_iter()
        .map(|name| RefOr::Ref(Ref::new(format!("#/components/parameters/{name}"))));
    operation.parameters.get_or_insert_default().extend(shared);
    for name in errors {
        if let Some((_, status, _)) = ERRORS.iter().find(|(known, _, _)| *known == name) {
            let reference = RefOr::Ref(Ref::from_response_name(name));
            let responses = &mut operation.responses.responses;
            responses.entry((*status).to_owned()).or_insert(reference);
        }
    }
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            response
                .headers
                .insert("Request-Id".to_owned(), request_id().into());
        }
    }
}

/// Says of a body whether it may be left out, and shows each of its examples.
fn complete_body(
    call: &Call<'_>,
    operation: &mut Operation,
    schemas: &BTreeMap<String, RefOr<Schema>>,
) {
    let Some(RefOr::T(body)) = &mut operation.request_body else {
        return;
    };
    for content in body.content.values_mut() {
        let RefOr::T(content) = content else { continue };
        let Some(schema) = described(content, schemas) else {
            continue;
        };
        if call.may_say_nothing() && schema.required.is_empty() {
            body.required = Some(Required::False);
        }
        // One alone is shown anyway.
        if schema.examples.len() > 1 {
            let examples = (1..).zip(&schema.examples).map(|(number, example)| {
                let example = ExampleBuilder::new().value(Some(example.clone())).build();
                (format!("example {number}"), RefOr::T(example))
            });
            content.examples = examples.collect();
        }
    }
}

/// The object that a content refers to.
fn described<'a>(
    content: &Content,
    schemas: &'a BTreeMap<String, RefOr<Schema>>,
) -> Option<&'a Object> {
    let Some(RefOr::Ref(reference)) = &content.schema else {
        return None;
    };
    let (_, name) = reference.ref_location.rsplit_once('/')?;
    match schemas.get(name)? {
        RefOr::T(Schema::Object(object)) => Some(object),
        _ => None,
    }
}

/// Errors by their name here, their status, and what they mean.
const ERRORS: [(&str, &str, &[Code]); 13] = [
    ("MalformedJson", "400", &[Code::MalformedJson]),
    ("Unauthenticated", "401", &[Code::Unauthenticated]),
    ("Forbidden", "403", &[Code::Forbidden]),
    ("NotFound", "404", &[Code::NotFound]),
    ("RequestTimeout", "408", &[Code::RequestTimeout]),
    (
        "Conflict",
        "409",
        &[Code::InvalidTransition, Code::AlreadyExists],
    ),
    ("VersionMismatch", "412", &[Code::VersionMismatch]),
    ("TooLarge", "413", &[Code::TooLarge]),
    ("UnsupportedMediaType", "415", &[Code::UnsupportedMediaType]),
    (
        "Invalid",
        "422",
        &[Code::Invalid, Code::IdempotencyKeyReused],
    ),
    ("Internal", "500", &[Code::Internal]),
    (
        "Unavailable",
        "503",
        &[Code::Overloaded, Code::ProjectionBehind, Code::Unavailable],
    ),
    (
        "Paused",
        "503",
        &[Code::Paused, Code::Overloaded, Code::Unavailable],
    ),
];

fn add_components(components: &mut Components) {
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "An API key: `nl_…` of a tenant, or `nlop_…` of an operator.",
        ))
        .build();
    components.add_security_scheme(SCHEME, SecurityScheme::Http(scheme));
    for parameter in parameters() {
        components
            .parameters
            .insert(parameter.name.clone(), parameter.into());
    }
    let mut schemas = Vec::new();
    ProblemDocument::schemas(&mut schemas);
    // Only parameters are these, and of those nobody asks.
    schemas.push((Moment::name().into_owned(), Moment::schema()));
    schemas.push((Metadata::name().into_owned(), Metadata::schema()));
    schemas.push((
        ProblemDocument::name().into_owned(),
        ProblemDocument::schema(),
    ));
    components.schemas.extend(schemas);
    for (name, _, codes) in ERRORS {
        let problem = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name(ProblemDocument::name())))
            .build();
        let meanings = codes
            .iter()
            .map(|code| format!("`{}`: {}.", code.as_str(), code.title()));
        let mut response = ResponseBuilder::new()
            .description(meanings.collect::<Vec<_>>().join(" "))
            .content(PROBLEM_JSON, problem)
            .header("Request-Id", request_id());
        if matches!(name, "Unavailable" | "Paused") {
            let seconds = ObjectBuilder::new().schema_type(Type::Integer);
            let retry_after = HeaderBuilder::new()
                .schema(Some(seconds))
                .description(Some("Seconds to wait."));
            response = response.header("Retry-After", retry_after.build());
        }
        components
            .responses
            .insert(name.to_owned(), response.build().into());
    }
}

fn request_id() -> utoipa::openapi::Header {
    HeaderBuilder::new()
        .schema(Some(text()))
        .description(Some("The request's own id, or the one that was sent."))
        .build()
}

/// Headers that many calls take.
fn parameters() -> [Parameter; 6] {
    let header = |name: &str, schema: RefOr<Schema>, description: &str| {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .schema(Some(schema))
            .description(Some(description))
            .build()
    };
    [
        header(
            "X-Tenant-Id",
            text().pattern(Some(SLUG)).into(),
            "The tenant to act for, with an operator's key. A tenant's key needs none.",
        ),
        header(
            "Idempotency-Key",
            text().min_length(Some(1)).max_length(Some(255)).into(),
            "Makes the call safe to repeat: the same key with the same body gets the first answer \
             again, with another body 422 `idempotency_key_reused`. Kept as long as the ledger. \
             1 to 255 printable characters.",
        ),
        header(
            "If-Match",
            text().examples([json!("\"3\"")]).into(),
            "The notification's version, in quotes: 412 `version_mismatch` if it has moved.",
        ),
        header(
            "Ledger-Min-Position",
            LedgerPosition::schema(),
            "The `Ledger-Position` of a write: waits until the read sees it, up to 5 s, then 503 \
             `projection_behind`.",
        ),
        header(
            "Request-Id",
            text().max_length(Some(128)).into(),
            "An id of your own for this request, for the logs.",
        ),
        header(
            "traceparent",
            text()
                .examples([json!(
                    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
                )])
                .into(),
            "The trace this belongs to (W3C Trace Context); kept in the events.",
        ),
    ]
}
