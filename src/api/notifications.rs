//! What is done with one notification: request it, act on it, report about it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use uuid::Uuid;

use super::body::{self, CommandName, Said, Wish};
use super::content::{read_json, read_json_if_any};
use super::request::{Caller, Id, idempotency, if_match};
use super::schema::{
    Bounced, Delivered, Failed, Interacted, Queue, Read, RequestNotification, Retract, Seen, Sent,
    Suppressed,
};
use super::state::ApiState;
use super::view::{self, JustSealed, NotificationView, Opened};
use crate::domain::ids::{EventId, Sequence, StreamId};
use crate::domain::notification::{Action, Notification, NotificationCommand};
use crate::domain::time::Timestamp;
use crate::json::{Faults, Fields};
use crate::ledger::record::{LedgerPosition, Provenance, StreamKey, TenantPlace};
use crate::ledger::registry::Scope;
use crate::ledger::{Beginning, Done, Idempotency, Order};
use crate::problem::Problem;

pub const LEDGER_POSITION: HeaderName = HeaderName::from_static("ledger-position");
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

const PATH: &str = "/v1/notifications";
/// What one notification's answer seldom exceeds.
const ANSWER_BYTES_USUAL: usize = 1536;

/// Request a notification
///
/// Begins the history of one notification to one subscriber. Needs the scope `write`.
#[utoipa::path(
    post,
    path = "/v1/notifications",
    tag = "Commands",
    operation_id = "request_notification",
    request_body = RequestNotification,
    responses((status = 201, description = "The notification.", body = NotificationView<'static>, headers(
        ("Location" = String, description = "Where the notification can be read."),
        ("ETag" = String, description = "The version, for `If-Match`."),
        ("Ledger-Position" = String, description = "For `Ledger-Min-Position`: a read that sends it sees this."),
        ("Idempotent-Replayed" = String, description = "`true` if this is the first answer again."),
    ))),
)]
pub async fn request(
    State(state): State<ApiState>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    let (Parts { headers, .. }, body) = request.into_parts();
    let tenant = caller.tenant(&state, Scope::Write)?;
    state.ledger.admit(tenant)?;
    let body = read_json(&headers, body, &state.limits).await?;
    let asked = Asked {
        command: CommandName::Request,
        id: None,
        path: PATH,
        body: &body,
    };
    asked.run(&state, &caller, tenant, &headers).await
}

/// Declares the calls on a notification that is there: all alike, but for their words.
macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident: $command:ident($body:ident), $path:tt, $tag:tt;)+) => {$(
        $(#[$doc])*
        #[utoipa::path(
            post,
            path = $path,
            tag = $tag,
            params(("id" = uuid::Uuid, Path, description = "The notification's id.")),
            request_body = $body,
            responses((status = 200, description = "The notification, right after.", body = NotificationView<'static>, headers(
                ("ETag" = String, description = "The version, for `If-Match`."),
                ("Ledger-Position" = String, description = "For `Ledger-Min-Position`: a read that sends it sees this."),
                ("Idempotent-Replayed" = String, description = "`true` if this is the first answer again."),
            ))),
        )]
        pub async fn $name(
            State(state): State<ApiState>,
            caller: Caller,
            Id(id): Id<StreamId>,
            request: Request,
        ) -> Result<Response, Problem> {
            act(&state, &caller, id, CommandName::$command, request).await
        }
    )+};
}

commands! {
    /// Queue a notification
    ///
    /// It waits to be handed over: after a request, or again after a failure that was reported
    /// `retryable`. Otherwise refused (409 `invalid_transition`). Needs the scope `write`.
    queue: Queue(Queue), "/v1/notifications/{id}/queue", "Commands";

    /// Retract a notification
    ///
    /// Withdraws it. Refused (409 `invalid_transition`) once every message has reached its end; a
    /// repeat is a success that changes nothing. Needs the scope `write`.
    retract: Retract(Retract), "/v1/notifications/{id}/retract", "Commands";

    /// Report: sent
    ///
    /// A message was handed over to a provider. Needs the scope `write`.
    sent: Sent(Sent), "/v1/notifications/{id}/sent", "Facts";

    /// Report: delivered
    ///
    /// A message reached the recipient's side. Needs the scope `write`.
    delivered: Delivered(Delivered), "/v1/notifications/{id}/delivered", "Facts";

    /// Report: bounced
    ///
    /// A message came back. Needs the scope `write`.
    bounced: Bounced(Bounced), "/v1/notifications/{id}/bounced", "Facts";

    /// Report: failed
    ///
    /// An attempt, or the whole hand-over, failed. Needs the scope `write`.
    failed: Failed(Failed), "/v1/notifications/{id}/failed", "Facts";

    /// Report: seen
    ///
    /// The recipient saw a message. Needs the scope `write`.
    seen: Seen(Seen), "/v1/notifications/{id}/seen", "Facts";

    /// Report: read
    ///
    /// The recipient read a message. Needs the scope `write`.
    read: Read(Read), "/v1/notifications/{id}/read", "Facts";

    /// Report: interacted
    ///
    /// The recipient did something else with a message. Needs the scope `write`.
    interacted: Interacted(Interacted), "/v1/notifications/{id}/interacted", "Facts";

    /// Report: suppressed
    ///
    /// A message was not sent on purpose. Needs the scope `write`.
    suppressed: Suppressed(Suppressed), "/v1/notifications/{id}/suppressed", "Facts";
}

async fn act(
    state: &ApiState,
    caller: &Caller,
    id: StreamId,
    command: CommandName,
    request: Request,
) -> Result<Response, Problem> {
    let (Parts { headers, .. }, body) = request.into_parts();
    let tenant = caller.tenant(state, Scope::Write)?;
    state.ledger.admit(tenant)?;
    let body = read_json_if_any(&headers, body, &state.limits).await?;
    let asked = Asked {
        command,
        id: Some(id),
        path: &format!("{PATH}/{id}/{}", command.as_str()),
        body: &body,
    };
    asked.run(state, caller, tenant, &headers).await
}

/// One call, as it came in.
struct Asked<'a> {
    command: CommandName,
    id: Option<StreamId>,
    path: &'a str,
    body: &'a [u8],
}

impl Asked<'_> {
    async fn run(
        self,
        state: &ApiState,
        caller: &Caller,
        tenant: &TenantPlace,
        headers: &HeaderMap,
    ) -> Result<Response, Problem> {
        let Said { wish, private } = read_call(state, self.command, self.body)?;
        let call = Call {
            provenance: &caller.provenance(None, None),
            tenant,
            idempotency: idempotency(headers, "POST", self.path, self.body)?,
            expected_version: if_match(headers)?,
        };
        let done = carry_out(state, &call, self.id, wish).await?;
        answer(state, self.command, &done, private).await
    }
}

/// The checked body of a single call.
fn read_call<'a>(
    state: &ApiState,
    command: CommandName,
    body: &'a [u8],
) -> Result<Said<'a>, Problem> {
    // Calls without anything to say may leave the body out.
    let body = if body.is_empty() && command != CommandName::Request {
        b"{}"
    } else {
        body
    };
    let mut faults = Faults::default();
    let said = Fields::of_body(body, &mut faults)?.and_then(|mut fields| {
        let said = body::read(
            command,
            &mut fields,
            state.limits.payload_bytes_max,
            &mut faults,
        );
        fields.finish(&mut faults);
        said
    });
    Ok(faults.or(said)?)
}

/// Who wants something, for which tenant, and under which conditions.
#[derive(Debug)]
pub struct Call<'a> {
    /// Where it comes from; what it belongs to, the wish itself says.
    pub provenance: &'a Provenance,
    pub tenant: &'a TenantPlace,
    pub idempotency: Option<Idempotency>,
    pub expected_version: Option<Sequence>,
}

/// Whether a caller's id says that it was made a moment ago: then hardly anybody has begun its stream. Of any
/// other id it is cheaper to look first than to hear from the writer that its stream is there.
fn is_fresh(id: StreamId, now: Timestamp) -> bool {
    const FRESH: Duration = Duration::from_secs(10);
    let made = id.0.get_timestamp().map(|made| {
        let (seconds, nanos) = made.to_unix();
        Duration::new(seconds, nanos).as_micros()
    });
    let now = u128::try_from(now.as_micros()).unwrap_or_default();
    // Clocks differ, to either side.
    made.is_some_and(|made| made.abs_diff(now) <= FRESH.as_micros())
}

/// Hands a wish to the ledger. Returns once it is durable.
pub async fn carry_out(
    state: &ApiState,
    call: &Call<'_>,
    id: Option<StreamId>,
    wish: Wish,
) -> Result<Done<Notification>, Problem> {
    let ids = &state.surroundings.ids;
    let given = id.or(wish.id.map(StreamId));
    let stream_id = given.unwrap_or_else(|| StreamId(ids.time_ordered()));
    tracing::Span::current().record("notification.id", tracing::field::display(stream_id));
    let provenance = Provenance {
        correlation_id: wish.correlation_id.as_deref().map(Into::into),
        causation_id: wish.causation_id.as_deref().map(Into::into),
        ..call.provenance.clone()
    };
    let order = Order {
        tenant: call.tenant.clone(),
        provenance: Arc::new(provenance),
        idempotency: call.idempotency.clone(),
        expected_version: call.expected_version,
    };
    let command = NotificationCommand {
        event_id: EventId(ids.time_ordered()),
        occurred_at: wish.occurred_at.unwrap_or_else(|| state.surroundings.now()),
        private: wish.private,
        action: wish.action,
    };
    let beginning = match (given, &command.action) {
        (None, _) => Beginning::JustMade,
        (Some(id), Action::Request(_)) if is_fresh(id, state.surroundings.now()) => {
            Beginning::Absent
        }
        (Some(_), _) => Beginning::Unknown,
    };
    Ok(state
        .ledger
        .execute::<Notification>(&order, stream_id, beginning, command)
        .await?)
}

/// The answer to a command: the notification right after it. What the command said in private need
/// not be opened to be shown.
async fn answer(
    state: &ApiState,
    command: CommandName,
    done: &Done<Notification>,
    private: Opened<'_>,
) -> Result<Response, Problem> {
    let just_sealed = done
        .just_appended()
        .map(|event_id| JustSealed { event_id, private });
    let mut view =
        view::notification(state, &done.stream, &done.aggregate, done.tip, just_sealed).await?;
    view.deduplicated = done.appended == 0 && command.is_fact();
    let mut response = shown(&view, done.stream.partition_position(done.tip))?;
    if command == CommandName::Request {
        *response.status_mut() = StatusCode::CREATED;
        let mut id = Uuid::encode_buffer();
        let id = done.stream.stream_id.0.hyphenated().encode_lower(&mut id);
        if let Ok(location) = HeaderValue::try_from([PATH, "/", id].concat()) {
            response.headers_mut().insert(header::LOCATION, location);
        }
    }
    if done.replayed {
        response
            .headers_mut()
            .insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// A notification as an answer, with its version and its place in the ledger.
pub(super) fn shown(
    view: &NotificationView<'_>,
    position: LedgerPosition,
) -> Result<Response, Problem> {
    let mut response = json_response(view)?;
    let headers = response.headers_mut();
    if let Ok(position) = HeaderValue::try_from(position.to_string()) {
        headers.insert(LEDGER_POSITION, position);
    }
    if let Ok(version) = HeaderValue::try_from(format!("\"{}\"", view.listed.version)) {
        headers.insert(header::ETAG, version);
    }
    Ok(response)
}

/// A JSON answer. Unlike `axum::Json`, a value that does not serialise is a problem like others.
pub fn json_response<T: Serialize>(value: &T) -> Result<Response, Problem> {
    let mut body = Vec::with_capacity(ANSWER_BYTES_USUAL);
    serde_json::to_writer(&mut body, value).map_err(|error| crate::problem::internal(&error))?;
    let mut response = Response::new(Body::from(body));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

/// A JSON answer from a projection that has come to a position.
pub fn list_response<T: Serialize>(
    value: &T,
    reached: LedgerPosition,
) -> Result<Response, Problem> {
    let mut response = json_response(value)?;
    if let Ok(position) = HeaderValue::from_str(&reached.to_string()) {
        response.headers_mut().insert(LEDGER_POSITION, position);
    }
    Ok(response)
}

impl StreamKey {
    /// Where the stream's tip is in the ledger.
    pub fn partition_position(&self, tip: crate::ledger::record::Tip) -> LedgerPosition {
        LedgerPosition {
            partition: self.partition,
            position: tip.position,
        }
    }
}

/// The status of a command that was carried out.
pub fn success(action: &Action) -> StatusCode {
    match action {
        Action::Request(_) => StatusCode::CREATED,
        Action::Queue { .. } | Action::Retract | Action::Report { .. } => StatusCode::OK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_id_that_says_it_was_just_made_is_fresh() {
        let made = Uuid::parse_str("0195954e-7bb8-7000-8000-00000000002a").unwrap();
        let (seconds, nanos) = made.get_timestamp().unwrap().to_unix();
        let made_at = i64::try_from(seconds * 1_000_000).unwrap() + i64::from(nanos / 1000);
        let after = |seconds: i64| Timestamp::from_micros_clamped(made_at + seconds * 1_000_000);

        for seconds in [-10, 0, 10] {
            assert!(is_fresh(StreamId(made), after(seconds)), "{seconds}");
        }
        for seconds in [-11, 11, 86_400] {
            assert!(!is_fresh(StreamId(made), after(seconds)), "{seconds}");
        }
        for other in [Uuid::nil(), Uuid::max(), Uuid::from_u128(4 << 76 | 2 << 62)] {
            assert!(!is_fresh(StreamId(other), after(0)), "{other}");
        }
    }
}
