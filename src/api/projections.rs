//! How far the read tables are behind the ledger, for operators.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::filters::NoParameters;
use super::notifications::json_response;
use super::page::Page;
use super::request::Caller;
use super::state::ApiState;
use crate::domain::time::Timestamp;
use crate::problem::Problem;
use crate::projections::Projection;
use crate::projections::store::{self, Progress};

/// One projection.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProjectionView {
    #[schema(value_type = String, example = "notification_logs")]
    pub name: &'static str,
    /// What this release makes of the events. Tables of an older version are rebuilt, those of a
    /// newer one left alone.
    pub version: i32,
    pub partitions: Vec<CheckpointView>,
}

/// How far a projection has come in one partition.
#[derive(Debug, Serialize, ToSchema)]
pub struct CheckpointView {
    pub partition: i16,
    /// Of the last event in its tables.
    pub position: i64,
    /// Of the partition's last event.
    pub head: i64,
    pub lag_events: i64,
    /// How long the first event that is missing has been on record.
    pub lag_seconds: f64,
    pub state: CheckpointState,
    /// Why it does not go on.
    #[schema(required)]
    pub last_error: Option<String>,
    #[schema(required)]
    pub failed_at: Option<Timestamp>,
}

/// How a projection is getting on in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointState {
    /// It follows the ledger.
    Running,
    /// It stopped at an event. It is tried again now and then.
    Failed,
    /// An older release made its tables: they are rebuilt as soon as a service starts.
    Outdated,
    /// A newer release made its tables: this one leaves them alone.
    Newer,
}

/// List projections
///
/// How far each has come in each partition. Needs an operator key.
#[utoipa::path(
    get,
    path = "/v1/admin/projections",
    tag = "Administration",
    operation_id = "list_projections",
    responses((status = 200, description = "All of them: there is no second page.", body = Page<ProjectionView>)),
)]
pub async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    _: NoParameters,
) -> Result<Response, Problem> {
    caller.operator(&state)?;
    let now = state.surroundings.now();
    let mut by_projection: BTreeMap<Projection, Vec<CheckpointView>> = BTreeMap::new();
    for progress in state.projections.progress().await? {
        let projection = progress.checkpoint.projection;
        let view = CheckpointView::of(progress, now);
        by_projection.entry(projection).or_default().push(view);
    }
    let data = Projection::ALL.map(|projection| ProjectionView {
        name: projection.name(),
        version: projection.version(),
        partitions: by_projection.remove(&projection).unwrap_or_default(),
    });
    json_response(&Page {
        data: data.into(),
        next_cursor: None,
    })
}

impl CheckpointView {
    fn of(progress: Progress, now: Timestamp) -> Self {
        let Progress {
            checkpoint,
            failed_at,
            waiting_since,
        } = progress;
        let state = match checkpoint.state() {
            store::CheckpointState::Running => CheckpointState::Running,
            store::CheckpointState::Failed => CheckpointState::Failed,
            store::CheckpointState::Outdated => CheckpointState::Outdated,
            store::CheckpointState::Newer => CheckpointState::Newer,
        };
        let millis = waiting_since.map_or(0, |since| {
            now.unix_millis().saturating_sub(since.unix_millis())
        });
        #[expect(
            clippy::cast_precision_loss,
            reason = "exact to the millisecond for longer than anybody waits"
        )]
        let lag_seconds = millis as f64 / 1000.0;
        Self {
            partition: checkpoint.partition.0,
            position: checkpoint.position.0,
            head: checkpoint.head.0,
            lag_events: (checkpoint.head.0 - checkpoint.position.0).max(0),
            lag_seconds,
            state,
            last_error: checkpoint.last_error(),
            failed_at,
        }
    }
}
