//! How many of a tenant's messages reached which stage, how fast, and what share went wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::filters::Filters;
use super::freshness::projected;
use super::notifications::list_response;
use super::request::Caller;
use super::state::ApiState;
use crate::domain::time::Timestamp;
use crate::ledger::registry::Scope;
use crate::problem::Problem;
use crate::projections::Projection;
use crate::projections::metrics::query::{
    self, Counts, Dimension, Interval, Latencies, POINTS_MAX, Series, TooMany, Wanted,
};

/// How far back is looked, unless the caller says.
const RANGE_DEFAULT: Duration = Duration::from_hours(24);
const MINUTE_MICROS: i64 = 60 * 1_000_000;

/// Query of `GET /v1/metrics`.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only described: queries are read by hand")]
pub struct MetricsParameters {
    /// From this minute on; 24 hours before `to`, if left out.
    from: Option<Timestamp>,
    /// Up to the end of this minute; now, if left out.
    to: Option<Timestamp>,
    /// The length of one point's time.
    #[param(inline, default = "hour")]
    interval: Option<IntervalWord>,
    /// Counted apart by these; commas or repetition. All together, if left out.
    #[param(inline, style = Form, explode)]
    group_by: Option<Vec<DimensionWord>>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "only described")]
enum IntervalWord {
    Minute,
    Hour,
    Day,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "only described")]
enum DimensionWord {
    WorkflowId,
    Channel,
    ProviderId,
}

/// What was counted.
#[derive(Debug, Serialize, ToSchema)]
pub struct MetricsView {
    /// In whole minutes.
    pub from: Timestamp,
    pub to: Timestamp,
    #[schema(value_type = String, example = "hour")]
    pub interval: &'static str,
    #[schema(value_type = Vec<String>)]
    pub group_by: Vec<&'static str>,
    /// In the order of their groups.
    pub series: Vec<SeriesView>,
}

/// The counts of one group.
#[derive(Debug, Serialize, ToSchema)]
pub struct SeriesView {
    /// What its messages have in common; `null` where they say nothing.
    #[schema(value_type = BTreeMap<String, Option<String>>)]
    pub group: BTreeMap<&'static str, Option<String>>,
    /// One per interval, in order.
    pub points: Vec<PointView>,
    pub totals: TotalsView,
    pub latency_ms: LatencyView,
}

/// The counts of one interval.
#[derive(Debug, Serialize, ToSchema)]
pub struct PointView {
    /// The beginning of the interval.
    pub at: Timestamp,
    #[serde(flatten)]
    pub counts: CountsView,
}

/// How many messages reached which stage: each message once per stage, when it did.
#[derive(Debug, Serialize, ToSchema)]
pub struct CountsView {
    pub requested: i64,
    pub queued: i64,
    pub sent: i64,
    pub delivered: i64,
    pub bounced: i64,
    pub failed: i64,
    pub suppressed: i64,
    pub retracted: i64,
    pub seen: i64,
    pub read: i64,
}

/// The counts of the whole range.
#[derive(Debug, Serialize, ToSchema)]
pub struct TotalsView {
    #[serde(flatten)]
    pub counts: CountsView,
    /// Bounced and failed, of all that were sent or failed before; 0 to 1.
    pub error_rate: f64,
}

/// Milliseconds from the request to a stage, of the messages that reached it in the range.
#[derive(Debug, Serialize, ToSchema)]
pub struct LatencyView {
    pub sent: QuantilesView,
    pub delivered: QuantilesView,
}

/// Within 2 %; `null` without messages.
#[derive(Debug, Serialize, ToSchema)]
pub struct QuantilesView {
    #[schema(required)]
    pub p50: Option<f64>,
    #[schema(required)]
    pub p95: Option<f64>,
    #[schema(required)]
    pub p99: Option<f64>,
    pub count: i64,
}

/// Count messages
///
/// By stage and interval of time, with latencies and the share that went wrong. At most 10,000
/// points: intervals times groups. Needs the scope `read`.
#[utoipa::path(
    get,
    path = "/v1/metrics",
    tag = "Lists",
    operation_id = "get_message_metrics",
    params(MetricsParameters),
    responses((status = 200, description = "The counts.", body = MetricsView, headers(
        ("Ledger-Position" = String, description = "Everything up to here is counted."),
    ))),
)]
pub async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    mut filters: Filters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&state, Scope::Read)?;
    let wanted = wanted(state.surroundings.now(), &mut filters);
    filters.finish()?;
    let reached = projected(&state, tenant, &headers, Projection::Metrics).await?;
    let store = state.projections.store();
    let series = query::read(store, tenant, &wanted).await?;
    let series = series.map_err(|too_many| refused(&wanted, too_many))?;
    let view = MetricsView {
        from: wanted.from,
        to: wanted.to,
        interval: wanted.interval.as_str(),
        group_by: names(&wanted).collect(),
        series: series
            .into_iter()
            .map(|(group, series)| view(&wanted, group, &series))
            .collect(),
    };
    list_response(&view, reached)
}

fn wanted(now: Timestamp, filters: &mut Filters) -> Wanted {
    let (from, to) = filters.range();
    let interval = filters.word("interval", &Interval::WORDS, Interval::from_word);
    let group_by = filters.word_list("group_by", &Dimension::WORDS, Dimension::from_word);
    let micros = |time: Timestamp| time.as_micros();
    let day = i64::try_from(RANGE_DEFAULT.as_micros()).unwrap_or(i64::MAX);
    if to.is_none() && from.is_some_and(|from| from > now) {
        filters.fault("from", "is later than `to`, which is now if left out");
    }
    let to = to.map_or(micros(now), micros);
    let from = from.map_or((to - day).max(0), micros);
    let end = to + (MINUTE_MICROS - 1);
    Wanted {
        from: Timestamp::from_micros_clamped(from - from % MINUTE_MICROS),
        to: Timestamp::from_micros_clamped(end - end % MINUTE_MICROS),
        interval: interval.unwrap_or(Interval::Hour),
        group_by,
    }
}

fn refused(wanted: &Wanted, too_many: TooMany) -> Problem {
    let TooMany { intervals, series } = too_many;
    let interval = wanted.interval.as_str();
    match series {
        None => Problem::invalid(
            "?interval",
            format!(
                "by the {interval}, this range has {intervals} points; at most {POINTS_MAX} are shown"
            ),
        ),
        Some(series) => Problem::invalid(
            "?group_by",
            format!(
                "gives at least {series} series of {intervals} points each; at most {POINTS_MAX} \
                 points are shown"
            ),
        ),
    }
}

fn names(wanted: &Wanted) -> impl Iterator<Item = &'static str> {
    wanted.group_by.iter().map(|dimension| dimension.as_str())
}

fn view(wanted: &Wanted, group: Vec<String>, series: &Series) -> SeriesView {
    let none = Counts::default();
    let points = wanted.intervals().map(|at| PointView {
        at,
        counts: series.points.get(&at).unwrap_or(&none).into(),
    });
    let totals = series.points.values().fold(none, Counts::plus);
    let said = group
        .into_iter()
        .map(|name| Some(name).filter(|name| !name.is_empty()));
    SeriesView {
        group: names(wanted).zip(said).collect(),
        points: points.collect(),
        totals: TotalsView {
            counts: (&totals).into(),
            error_rate: totals.error_rate(),
        },
        latency_ms: LatencyView {
            sent: (&series.sent).into(),
            delivered: (&series.delivered).into(),
        },
    }
}

impl From<&Counts> for CountsView {
    fn from(counts: &Counts) -> Self {
        Self {
            requested: counts.requested,
            queued: counts.queued,
            sent: counts.sent,
            delivered: counts.delivered,
            bounced: counts.bounced,
            failed: counts.failed,
            suppressed: counts.suppressed,
            retracted: counts.retracted,
            seen: counts.seen,
            read: counts.read,
        }
    }
}

impl From<&Latencies> for QuantilesView {
    fn from(latencies: &Latencies) -> Self {
        Self {
            p50: latencies.quantile(0.5),
            p95: latencies.quantile(0.95),
            p99: latencies.quantile(0.99),
            count: latencies.count(),
        }
    }
}
