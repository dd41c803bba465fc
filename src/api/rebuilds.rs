//! Rebuilding a projection's tables: begin, look, cancel.

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::notifications::json_response;
use super::request::{Caller, Parameters};
use super::state::ApiState;
use crate::domain::time::Timestamp;
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
#[derive(Debug, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RebuildParameters {
    /// Only this partition; all of them if left out.
    #[param(value_type = Option<i16>, minimum = 0)]
    #[serde(default, deserialize_with = "super::request::given")]
    partition: Option<String>,
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
    responses((status = 202, description = "The rebuild that runs now.", body = RebuildView)),
)]
pub async fn begin(
    State(state): State<ApiState>,
    caller: Caller,
    Named(projection): Named,
    Parameters(query): Parameters<RebuildParameters>,
) -> Result<Response, Problem> {
    caller.operator(&state)?;
    let projection = known(&projection)?;
    let partition = query
        .partition
        .map(|text| partition(&state, &text))
        .transpose()?;
    let requested = state.projections.rebuild(&[projection], partition).await?;
    let running = match requested.all().next() {
        Some(running) => RebuildView::from(running),
        // One projection was asked for, so there is one.
        None => standing(&state, projection).await?,
    };
    let mut response = json_response(&running)?;
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
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
    _headers: HeaderMap,
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

fn partition(state: &ApiState, text: &str) -> Result<Partition, Problem> {
    let last = state.ledger_row.partitions - 1;
    let number = text.parse().ok();
    number
        .filter(|number| (0..=last).contains(number))
        .map(Partition)
        .ok_or_else(|| Problem::invalid("?partition", format!("must be a number from 0 to {last}")))
}
