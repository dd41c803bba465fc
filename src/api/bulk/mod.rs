//! Many commands in one call: a JSON list, or a stream of lines of any length. The command line's
//! `import` is such a stream too, and takes the same way.
//!
//! Each item stands alone. Items about the same notification are carried out in their order, so
//! one may refer to a `request` before it; others run side by side and share group commits.

mod items;
mod lines;
mod results;
mod stream;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode, header};
use serde_json::value::RawValue;

pub(crate) use items::{Bulk, Patience};
pub(crate) use results::{Finished, Outcome};

use super::answers::{self, Answer};
use super::content::{JSON, media_type, read_body, require_plain};
use super::request::{Caller, RequestId, idempotency, idempotency_key};
use super::schema::{Command, Commands};
use super::state::ApiState;
use crate::json::{Faults, Fields};
use crate::ledger::registry::Scope;
use crate::problem::Problem;
use results::{ItemResult, Results, last_position};

/// Most commands in one JSON call; also how many lines of a stream are worked on at once.
pub const COMMANDS_MAX: usize = 1000;

/// Media type of a stream of lines.
pub const NDJSON: &str = "application/x-ndjson";

const PATH: &str = "/v1/commands";

/// Carry out many commands
///
/// Up to 1,000 in a JSON list, or any number as lines of `application/x-ndjson`, answered by lines
/// in the same order while they still come in: read the answer while you send. Items are decided
/// in order, and each stands alone. The `problem` of an item has pointers into that item. Needs the
/// scope `write`.
#[utoipa::path(
    post,
    path = "/v1/commands",
    tag = "Commands",
    operation_id = "carry_out_commands",
    request_body(content((Commands = "application/json"), (Command = "application/x-ndjson"))),
    responses((
        status = 200,
        description = "What became of each command, in their order.",
        content((Results<'static> = "application/json"), (ItemResult<'static> = "application/x-ndjson")),
        headers(
            ("Ledger-Position" = String, description = "For `Ledger-Min-Position`: a read that sends it sees all of this. Not with lines."),
            ("Idempotent-Replayed" = String, description = "`true` if this is the first answer again. Not with lines."),
        ),
    )),
)]
pub async fn commands(
    State(state): State<ApiState>,
    caller: Caller,
    axum::Extension(request_id): axum::Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let bulk = Bulk {
        tenant: caller.tenant(&state, Scope::Write)?.clone(),
        request_id: request_id.0,
        key: idempotency_key(&headers)?.map(ToOwned::to_owned),
        provenance: caller.provenance(None, None),
        state,
        patience: Patience::None,
    };
    require_plain(&headers)?;
    if headers.contains_key(header::IF_MATCH) {
        let message = "is about one notification, and this call about many";
        return Err(Problem::invalid("If-Match", message));
    }
    match media_type(&headers).as_deref() {
        Some(JSON) => list(bulk, &headers, body).await,
        Some(NDJSON) => Ok(stream::answer(bulk, body)),
        _ => Err(Problem::UnsupportedMediaType {
            expected: "application/json or application/x-ndjson",
        }),
    }
}

/// All commands in one JSON document.
async fn list(bulk: Bulk, headers: &HeaderMap, body: Body) -> Result<Response, Problem> {
    let limits = &bulk.state.limits;
    let body = read_body(
        headers,
        body,
        limits.bulk_body_bytes_max,
        limits.body_timeout,
    )
    .await?;
    let commands = commands_in(&body)?;
    let claim = idempotency(headers, "POST", PATH, &body)?;
    // Interrupted, the call can be run again: its items have keys of their own.
    let work = async {
        let items = (0..)
            .zip(commands)
            .map(|(index, command)| bulk.read(index, command));
        let outcomes = bulk.carry_out(items.collect()).await;
        let results = outcomes
            .iter()
            .map(|outcome| outcome.shown(&bulk.request_id));
        let results = results.collect();
        let answer = Answer::new(StatusCode::OK, &Results { results })?;
        // What failed for want of a database or room may succeed when the call is repeated.
        let is_unfinished = outcomes.iter().any(Outcome::may_pass);
        Ok(answer
            .with_position(last_position(&outcomes))
            .unfinished(is_unfinished))
    };
    answers::once(&bulk.state, &bulk.tenant, claim, work).await
}

/// The items of `{"commands": [...]}`.
fn commands_in(body: &[u8]) -> Result<Vec<&RawValue>, Problem> {
    let mut faults = Faults::default();
    let commands = Fields::of_body(body, &mut faults)?.and_then(|mut fields| {
        let commands = fields.required("commands", &mut faults, |fields, name, faults| {
            fields.items(name, COMMANDS_MAX, faults)
        });
        fields.finish(&mut faults);
        commands
    });
    let commands = faults.or(commands)?;
    if commands.count > COMMANDS_MAX {
        return Err(Problem::TooLarge {
            what: "/commands".to_owned(),
            size: format!("{} commands", commands.count),
            limit: COMMANDS_MAX,
            unit: "commands; send more as application/x-ndjson",
        });
    }
    Ok(commands.kept)
}
