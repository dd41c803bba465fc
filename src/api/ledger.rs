//! What this ledger is, and how far each of its partitions has come.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::filters::NoParameters;
use super::notifications::json_response;
use super::request::Caller;
use super::state::ApiState;
use super::view::hex;
use crate::domain::time::Timestamp;
use crate::ledger::record::Head;
use crate::problem::Problem;

/// The newest migration of this release. No process begins to serve a ledger that is at another one.
const SCHEMA: i64 = 11;

/// What this ledger is.
#[derive(Debug, Serialize, ToSchema)]
pub struct LedgerView {
    pub ledger_id: Uuid,
    #[schema(example = "postgresql")]
    pub backend: &'static str,
    /// Of the service that answers.
    #[schema(example = "0.1.0")]
    pub version: &'static str,
    /// Number of the newest migration.
    #[schema(example = 4)]
    pub schema: i64,
    pub created_at: Timestamp,
    pub partitions: Vec<HeadView>,
}

/// The end of one partition.
#[derive(Debug, Serialize, ToSchema)]
pub struct HeadView {
    pub partition: i16,
    /// Of the last event; 0 if there is none.
    pub position: i64,
    /// The chain hash of the last event, in hexadecimal.
    #[schema(min_length = 64, max_length = 64)]
    pub hash: String,
    /// Changes when the ledger is restored from a backup.
    pub epoch: Uuid,
    /// When the last event was recorded; when the ledger was created, if there is none.
    pub recorded_at: Timestamp,
}

impl From<Head> for HeadView {
    fn from(head: Head) -> Self {
        Self {
            partition: head.partition.0,
            position: head.position.0,
            hash: hex(&head.hash),
            epoch: head.epoch,
            recorded_at: head.recorded_at,
        }
    }
}

/// Show the ledger
///
/// Its id, versions, and the head of each partition. Write the heads down somewhere else: whoever
/// has them can tell later that no event before was altered. Needs an operator key.
#[utoipa::path(
    get,
    path = "/v1/admin/ledger",
    tag = "Administration",
    operation_id = "get_ledger",
    responses((status = 200, description = "The ledger.", body = LedgerView)),
)]
pub async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    _: NoParameters,
) -> Result<Response, Problem> {
    caller.operator(&state)?;
    let heads = state.ledger.heads().await?;
    json_response(&LedgerView {
        ledger_id: state.ledger_row.ledger_id,
        backend: state.database.backend(),
        version: env!("CARGO_PKG_VERSION"),
        schema: SCHEMA,
        created_at: state.ledger_row.created_at,
        partitions: heads.into_iter().map(HeadView::from).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_the_newest_migration() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/sqlite");
        let numbers = std::fs::read_dir(folder).unwrap().map(|file| {
            let name = file.unwrap().file_name().into_string().unwrap();
            name.split('_').next().unwrap().parse::<i64>().unwrap()
        });

        assert_eq!(numbers.max(), Some(SCHEMA));
    }
}
