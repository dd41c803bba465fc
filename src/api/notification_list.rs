//! A tenant's notifications, found by what they are.
//!
//! Which ones fit, the read table says; each is then shown as the record has it, as of the event
//! with which it fits.

use axum::extract::State;
use axum::response::Response;
use futures_util::future::try_join_all;
use http::HeaderMap;
use serde_json::value::{RawValue, to_raw_value};
use utoipa::IntoParams;

use super::filters::Filters;
use super::freshness::projected;
use super::notifications::list_response;
use super::page::{Page, cut};
use super::request::Caller;
use super::schema::{Metadata, Name};
use super::state::ApiState;
use super::view::{self, ListedNotification};
use crate::domain::event::Category;
use crate::domain::notification::Notification;
use crate::domain::state::Status;
use crate::domain::time::Timestamp;
use crate::ledger::Until;
use crate::ledger::record::{Position, TenantPlace};
use crate::ledger::registry::Scope;
use crate::problem::{Problem, internal};
use crate::projections::Projection;
use crate::projections::notifications::query::{Found, Wanted, list as found};

/// Notifications that are read and shown at the same time. Each may have megabytes of sealed
/// reports, so a page is not read at once.
const TOGETHER: usize = 20;

/// Query of `GET /v1/notifications`.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only described: queries are read by hand")]
pub struct NotificationFilters {
    #[param(style = Form, explode, max_items = 100)]
    status: Option<Vec<Status>>,
    #[param(style = Form, explode, max_items = 100)]
    workflow_id: Option<Vec<Name>>,
    #[param(style = Form, explode, max_items = 100)]
    subscriber_id: Option<Vec<Name>>,
    #[param(style = Form, explode, max_items = 100)]
    category: Option<Vec<Category>>,
    #[param(style = Form, explode, max_items = 100)]
    external_id: Option<Vec<Name>>,
    /// `metadata[region]=eu`. Of several keys, all must fit; of several values of a key, one.
    #[param(style = DeepObject, explode, value_type = Option<Metadata>)]
    metadata: Option<Metadata>,
    /// Requested at this time or later.
    from: Option<Timestamp>,
    /// Requested before this time.
    to: Option<Timestamp>,
    /// Entries of a page.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// `next_cursor` of the page before, which had the same filters.
    cursor: Option<String>,
}

/// List notifications
///
/// Newest first, each as it stands. Filters take several values by repetition. Without payloads
/// and addresses. Needs the scope `read`.
#[utoipa::path(
    get,
    path = "/v1/notifications",
    tag = "Lists",
    operation_id = "list_notifications",
    params(NotificationFilters),
    responses((status = 200, description = "A page of notifications.", body = Page<ListedNotification<'static>>, headers(
        ("Ledger-Position" = String, description = "Everything up to here is in the list."),
    ))),
)]
pub async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    mut filters: Filters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&state, Scope::Read)?;
    let wanted = wanted(&mut filters);
    let (list, page) = filters.page::<Position>("notifications", tenant, &state.master);
    filters.finish()?;
    let reached = projected(&state, tenant, &headers, Projection::Notifications).await?;
    let store = state.projections.store();
    let mut rows = found(store, tenant, &wanted, page.after, page.limit + 1).await?;
    let next_cursor = cut(&mut rows, page.limit, |last| {
        list.cursor(&state.master, &last.first_position)
    });
    let mut data = Vec::with_capacity(rows.len());
    for rows in rows.chunks(TOGETHER) {
        let shown = rows.iter().map(|row| show(&state, tenant, *row));
        data.extend(try_join_all(shown).await?.into_iter().flatten());
    }
    list_response(&Page { data, next_cursor }, reached)
}

fn wanted(filters: &mut Filters) -> Wanted {
    let status = filters.words("status", Status::WORDS, Status::from_word);
    let workflow_id = filters.names("workflow_id");
    let subscriber_id = filters.names("subscriber_id");
    let category = filters.words("category", Category::WORDS, Category::from_word);
    let external_id = filters.names("external_id");
    let metadata = filters.metadata();
    let (from, to) = filters.range();
    Wanted {
        status,
        workflow_id,
        subscriber_id,
        category,
        external_id,
        metadata,
        from,
        to,
    }
}

/// As it stands in the list. `None` for a row whose record is gone: somebody took it from the
/// database.
async fn show(
    state: &ApiState,
    tenant: &TenantPlace,
    row: Found,
) -> Result<Option<Box<RawValue>>, Problem> {
    let stream = tenant.stream(row.notification_id);
    let until = Until::Version(row.version);
    let loaded = state.ledger.load::<Notification>(&stream, until).await?;
    let Some(loaded) = loaded else {
        return Ok(None);
    };
    let view = view::notification(state, &stream, &loaded.aggregate, loaded.tip, None).await?;
    let listed = to_raw_value(&view.listed()).map_err(|error| internal(&error))?;
    Ok(Some(listed))
}
