//! Rebuilding a projection's tables: begin, look, cancel.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::answers::{self, Answer, Turn};
use super::content::read_json_if_any;
use super::filters::{Filters, NoParameters};
use super::notifications::json_response;
use super::request::{Caller, idempotency};
use super::state::ApiState;
use crate::domain::time::Timestamp;
use crate::json::{Faults, Fields};
use crate::ledger::record::Partition;
use crate::problem::Problem;
use crate::projections::Projection;
use crate::projections::rebuild::{Phase, Rebuild, State as RebuildState};

/// A rebuild and how far it has come.
#[derive(Debug, Serialize, ToSchema)]
pub struct RebuildView {
    #[schema(example = "notifications")]
    pub projection: &'static str,
    pub rebuild_id: Uuid,
    /// `null` for all of them.
    #[schema(required)]
    pub partition: Option<i16>,
    #[schema(example = "running", pattern = "^(running|done|failed|cancelled)$")]
    pub state: &'static str,
    /// What a running one is at.
    #[schema(required, example = "filling")]
    pub phase: Option<&'static str>,
    /// Events in the new tables.
    pub done: i64,
    /// Of how many.
    pub total: i64,
    pub events_per_second: i64,
    /// Until every event is read; building indexes and swapping come on top.
    #[schema(required)]
    pub seconds_left: Option<i64>,
    /// New and old tables had the same rows. `null` until they were compared, or if they could not
    /// be: the old ones were of another version, or had stopped.
    #[schema(required)]
    pub checksum_equal: Option<bool>,
    /// Why it failed, and what to do.
    #[schema(required)]
    pub error: Option<String>,
    pub started_at: Timestamp,
    pub updated_at: Timestamp,
}

impl From<&Rebuild> for RebuildView {
    fn from(rebuild: &Rebuild) -> Self {
        let is_running = rebuild.state == RebuildState::Running;
        Self {
            projection: rebuild.projection.name(),
            rebuild_id: rebuild.rebuild_id,
            partition: rebuild.partition.map(|partition| partition.0),
            state: rebuild.state.name(),
            phase: Some(Phase::name(rebuild.phase)).filter(|_| is_running),
            done: rebuild.done,
            total: rebuild.total,
            events_per_second: rebuild.events_per_second(),
            seconds_left: rebuild.seconds_left(),
            checksum_equal: rebuild.checksum_equal,
            error: rebuild.error.clone(),
            started_at: rebuild.started_at,
            updated_at: rebuild.updated_at,
        }
    }
}

/// Query of a rebuild.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only described: queries are read by hand")]
pub struct RebuildParameters {
    /// Only this partition; all of them if left out.
    #[param(minimum = 0)]
    partition: Option<i16>,
}

/// Rebuild a projection
///
/// Makes its tables anew from the events while everybody reads the old ones, then swaps them. If
/// one is running, nothing is begun and the running one is shown. Needs an operator key.
#[utoipa::path(
    post,
    path = "/v1/admin/projections/{name}/rebuild",
    tag = "Administration",
    operation_id = "rebuild_projection",
    params(("name" = String, Path, description = "The projection.", example = "notifications"), RebuildParameters),
    responses((status = 202, description = "The rebuild that runs now.", body = RebuildView, headers(
        ("Idempotent-Replayed" = String, description = "`true` if this is the first answer again."),
    ))),
)]
pub async fn begin(
    State(state): State<ApiState>,
    caller: Caller,
    Named(projection): Named,
    mut query: Filters,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.operator(&state)?;
    let wanted = Wanted {
        projection: known(&projection)?,
        partition: partition(&state, &mut query),
    };
    query.finish()?;
    let body = read_json_if_any(&headers, body, &state.limits).await?;
    nothing(&body)?;
    let account = caller.account()?;
    let Some(key) = idempotency(&headers, "POST", &wanted.path(), &body)? else {
        return Ok(answer(&wanted.begin(&state).await?)?.response(false));
    };
    match answers::claim(&state, &account, &key).await? {
        Turn::Answered(response) => Ok(response),
        Turn::Claimed { since, earlier } => {
            // An earlier call under the same key may have begun it before it was interrupted.
            let begun = if earlier {
                wanted.begun(&state, since).await?
            } else {
                None
            };
            let rebuild = match begun {
                Some(begun) => begun,
                None => wanted.begin(&state).await?,
            };
            answers::keep(&state, &account, &key, answer(&rebuild)?).await
        }
    }
}

fn answer(rebuild: &RebuildView) -> Result<Answer, Problem> {
    Answer::new(StatusCode::ACCEPTED, rebuild)
}

/// There is nothing to say in a body, so it is left out or has no fields.
fn nothing(body: &[u8]) -> Result<(), Problem> {
    if body.is_empty() {
        return Ok(());
    }
    let mut faults = Faults::default();
    let fields = Fields::of_body(body, &mut faults)?;
    let read = fields.map(|fields| fields.finish(&mut faults));
    Ok(faults.or(read)?)
}

/// A rebuild somebody wants.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    projection: Projection,
    partition: Option<Partition>,
}

impl Wanted {
    /// What is asked for, in one way of writing it.
    fn path(self) -> String {
        let path = format!("/v1/admin/projections/{}/rebuild", self.projection.name());
        match self.partition {
            Some(partition) => format!("{path}?partition={partition}"),
            None => path,
        }
    }

    async fn begin(self, state: &ApiState) -> Result<RebuildView, Problem> {
        let wanted = [self.projection];
        let requested = state.projections.rebuild(&wanted, self.partition).await?;
        match requested.all().next() {
            Some(running) => Ok(RebuildView::from(running)),
            // Done and begun anew by somebody else, all within a moment.
            None => standing(state, self.projection).await,
        }
    }

    /// One like it that was begun since.
    async fn begun(
        self,
        state: &ApiState,
        since: Timestamp,
    ) -> Result<Option<RebuildView>, Problem> {
        let rebuilds = state.projections.rebuilds().await?;
        let begun = rebuilds.iter().find(|rebuild| {
            rebuild.projection == self.projection
                && rebuild.partition == self.partition
                && rebuild.started_at >= since
        });
        Ok(begun.map(RebuildView::from))
    }
}

/// Show a rebuild
///
/// The last one of a projection, and how far it has come. Needs an operator key.
#[utoipa::path(
    get,
    path = "/v1/admin/projections/{name}/rebuild",
    tag = "Administration",
    operation_id = "get_rebuild",
    params(("name" = String, Path, description = "The projection.", example = "notifications")),
    responses((status = 200, description = "The last rebuild.", body = RebuildView)),
)]
pub async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Named(projection): Named,
    _: NoParameters,
) -> Result<Response, Problem> {
    caller.operator(&state)?;
    json_response(&standing(&state, known(&projection)?).await?)
}

/// Cancel a rebuild
///
/// What it had built is dropped; the tables that people read stay as they are. If none is running,
/// the last one is shown as it ended. Needs an operator key.
#[utoipa::path(
    delete,
    path = "/v1/admin/projections/{name}/rebuild",
    tag = "Administration",
    operation_id = "cancel_rebuild",
    params(("name" = String, Path, description = "The projection.", example = "notifications")),
    responses((status = 200, description = "The last rebuild.", body = RebuildView)),
)]
pub async fn cancel(
    State(state): State<ApiState>,
    caller: Caller,
    Named(projection): Named,
    _: NoParameters,
) -> Result<Response, Problem> {
    caller.operator(&state)?;
    let projection = known(&projection)?;
    state.projections.cancel_rebuild(projection).await?;
    json_response(&standing(&state, projection).await?)
}

async fn standing(state: &ApiState, projection: Projection) -> Result<RebuildView, Problem> {
    let rebuilds = state.projections.rebuilds().await?;
    rebuilds
        .iter()
        .find(|rebuild| rebuild.projection == projection)
        .map(RebuildView::from)
        .ok_or(Problem::NotFound("this projection was never rebuilt"))
}

/// The `{name}` of a path.
#[derive(Clone, Debug)]
pub struct Named(String);

impl axum::extract::FromRequestParts<ApiState> for Named {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut http::request::Parts,
        state: &ApiState,
    ) -> Result<Self, Problem> {
        let path = axum::extract::Path::<String>::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(name)| Self(name))
            .map_err(|_| Problem::NotFound("there is nothing with this name"))
    }
}

fn known(name: &str) -> Result<Projection, Problem> {
    Projection::from_name(name).ok_or_else(|| {
        let name: String = name.chars().take(64).collect();
        let known: Vec<_> = Projection::ALL.into_iter().map(Projection::name).collect();
        Problem::invalid(
            "name",
            format!("`{name}` is no projection; there are: {}", known.join(", ")),
        )
    })
}

/// Only this one, if one is given.
fn partition(state: &ApiState, query: &mut Filters) -> Option<Partition> {
    let text = query.one("partition")?;
    let last = state.ledger_row.partitions - 1;
    let number = text.parse().ok();
    let number = number.filter(|number| (0..=last).contains(number));
    if number.is_none() {
        query.fault("partition", format!("must be a number from 0 to {last}"));
    }
    number.map(Partition)
}
