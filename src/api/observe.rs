//! The outermost layer: every request gets an id, a span, a count, and problems get their words.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use tower::{Layer, Service};
use tracing::Instrument;
use uuid::Uuid;

use super::arrival::Arrival;
use super::request::{IncomingTrace, REQUEST_ID, RequestId};
use super::state::ApiState;
use crate::problem::{Problem, render};
use crate::telemetry::{TraceParent, set_parent_from};

/// Longest request id taken over from a caller.
const REQUEST_ID_CHARS_MAX: usize = 128;

/// W3C Trace Context §3.2 and §3.3.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Puts [`observe`] around routes. A layer of its own, because axum's for functions boxes the
/// routes anew for every request.
#[derive(Clone, Debug)]
pub struct Observe {
    pub state: ApiState,
}

/// Routes with [`observe`] around them.
#[derive(Clone, Debug)]
pub struct Observed<S> {
    state: ApiState,
    routes: S,
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, routes: S) -> Observed<S> {
        Observed {
            state: self.state.clone(),
            routes,
        }
    }
}

impl<S> Service<Request> for Observed<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.routes.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // The one that is ready is used; its clone may not be yet.
        let clone = self.routes.clone();
        let routes = std::mem::replace(&mut self.routes, clone);
        let state = self.state.clone();
        Box::pin(async move { Ok(observe(&state, request, routes).await) })
    }
}

/// Runs a request inside its span, and writes out whatever problem it ends in.
async fn observe<S>(state: &ApiState, mut request: Request, routes: S) -> Response
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    let started = Instant::now();
    let _in_flight = state.metrics.http_in_flight();
    let id = request_id(state, &request);
    let trace = incoming_trace(&request);
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    let span = tracing::info_span!(
        "request",
        request.id = %id,
        http.method = %method,
        http.route = route,
        notification.id = tracing::field::Empty,
    );
    if let Some(parent) = &trace {
        let state = request
            .headers()
            .get(TRACESTATE)
            .and_then(|state| state.to_str().ok());
        set_parent_from(&span, parent, state);
    }
    request.extensions_mut().insert(RequestId(Arc::clone(&id)));
    request.extensions_mut().insert(IncomingTrace(trace));

    let response = answer(state, request, routes)
        .instrument(span.clone())
        .await;
    let mut response = render(in_our_words(response, &method), &id);
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let status = response.status();
    let took = started.elapsed();
    state
        .metrics
        .http_request(method.as_str(), route, status.as_u16(), took);
    let is_busy = matches!(
        response
            .extensions()
            .get::<Arc<Problem>>()
            .map(AsRef::as_ref),
        Some(Problem::Overloaded(_))
    );
    if is_busy {
        state.refusals.note();
    }
    log(&span, status, took, is_busy);
    response
}

/// The answer, in time and whatever happens.
///
/// Answers that are streams have all the time they need: only their beginning is waited for.
async fn answer<S>(state: &ApiState, request: Request, mut routes: S) -> Response
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    let (request, arrival) = Arrival::watch(request);
    let answering = async {
        let Ok(response) = routes.call(request).await;
        response
    };
    let answering = AssertUnwindSafe(answering).catch_unwind();
    let Ok(answered) = tokio::time::timeout(state.limits.request_timeout, answering).await else {
        // Nothing of a body that does not come is waited for any longer.
        return too_slow(arrival.as_ref()).into_response();
    };
    let response = answered.unwrap_or_else(|_| {
        tracing::error!("a request panicked");
        Problem::Internal.into_response()
    });
    if let Some(arrival) = arrival.filter(|_| response.status() != StatusCode::REQUEST_TIMEOUT) {
        arrival.finish().await;
    }
    response
}

fn too_slow(arrival: Option<&Arrival>) -> Problem {
    if arrival.is_some_and(Arrival::is_waiting) {
        return Problem::RequestTimeout;
    }
    tracing::warn!("a request took too long");
    Problem::Overloaded(
        "the request took too long. What it asked for may have been done all the same: to find \
         out, repeat it with the same Idempotency-Key",
    )
}

/// Turns what the router says by itself into what this service says.
fn in_our_words(response: Response, method: &Method) -> Response {
    if response.extensions().get::<Arc<Problem>>().is_some() {
        return response;
    }
    match response.status() {
        StatusCode::METHOD_NOT_ALLOWED if method == Method::OPTIONS => {
            // RFC 9110 §9.3.7: what can be done here is in `Allow`.
            keep_headers(&response, StatusCode::NO_CONTENT.into_response())
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            let method = method.to_string();
            keep_headers(
                &response,
                Problem::MethodNotAllowed { method }.into_response(),
            )
        }
        // A path that is no text is not there either.
        StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => NOTHING_HERE.into_response(),
        _ => response,
    }
}

/// Errors are told at `info` and above; everything else at `debug`, because a log line for each
/// of many thousand requests a second costs more than the requests. For the same reason those that a
/// busy service refuses are told together (see [`Refusals`](super::refusals::Refusals)).
fn log(span: &tracing::Span, status: StatusCode, took: std::time::Duration, is_busy: bool) {
    let status_code = status.as_u16();
    let duration_ms = took.as_secs_f64() * 1000.0;
    if is_busy {
        tracing::debug!(parent: span, status = status_code, duration_ms, "request refused: busy");
    } else if status.is_server_error() {
        tracing::warn!(parent: span, status = status_code, duration_ms, "request failed");
    } else if status.is_client_error() {
        tracing::info!(parent: span, status = status_code, duration_ms, "request refused");
    } else {
        tracing::debug!(parent: span, status = status_code, duration_ms, "request answered");
    }
}

/// The caller's own id, if it can be put in a header and a log line; else a new one.
fn request_id(state: &ApiState, request: &Request) -> Arc<str> {
    let given = request
        .headers()
        .get(REQUEST_ID)
        .and_then(|id| id.to_str().ok());
    let usable = given.filter(|id| {
        !id.is_empty()
            && id.len() <= REQUEST_ID_CHARS_MAX
            && id.bytes().all(|byte| byte.is_ascii_graphic())
    });
    usable.map_or_else(
        || {
            let id = state.surroundings.ids.time_ordered().hyphenated();
            Arc::from(&*id.encode_lower(&mut Uuid::encode_buffer()))
        },
        Arc::from,
    )
}

fn incoming_trace(request: &Request) -> Option<TraceParent> {
    let header = request.headers().get(TRACEPARENT)?.to_str().ok()?;
    TraceParent::parse(header).ok()
}

/// Another response, with what the headers of the first one say.
fn keep_headers(first: &Response, mut response: Response) -> Response {
    for (name, value) in first.headers() {
        if name != http::header::CONTENT_LENGTH {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

pub(super) const NOTHING_HERE: Problem =
    Problem::NotFound("there is nothing at this path; `/docs` lists what there is");

/// For paths that are not there.
pub async fn not_found() -> Problem {
    NOTHING_HERE
}
