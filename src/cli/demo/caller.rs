//! A client of the service's own routes: the requests any client would send, without the network
//! in between.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use serde_json::Value;
use tower::ServiceExt;

use crate::api::notifications::IDEMPOTENT_REPLAYED;

/// Most of an answer that is read. Ours are a few KiB.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How often a busy service is asked again, and after which pause.
const ATTEMPTS_MAX: u32 = 20;
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Sends requests with one key.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    router: Router,
    authorization: HeaderValue,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    /// `null` if it was not JSON.
    pub(super) body: Value,
    /// The first answer to an idempotency key again.
    pub(super) replayed: bool,
}

impl Caller {
    pub(super) fn new(router: Router, authorization: HeaderValue) -> Self {
        Self {
            router,
            authorization,
        }
    }

    /// Posts JSON with the key.
    pub(super) async fn post(&self, path: &str, body: &Value, more: HeaderMap) -> Reply {
        let mut headers = more;
        headers.insert(header::AUTHORIZATION, self.authorization.clone());
        self.post_raw(path, body.to_string(), headers).await
    }

    /// Posts a text as it is, such as one that was signed.
    pub(super) async fn post_raw(&self, path: &str, body: String, mut headers: HeaderMap) -> Reply {
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        let mut attempt = 1;
        loop {
            let mut request = Request::new(Body::from(body.clone()));
            *request.method_mut() = http::Method::POST;
            *request.headers_mut() = headers.clone();
            if let Ok(uri) = path.parse() {
                *request.uri_mut() = uri;
            }
            let reply = self.send(request).await;
            if reply.status != StatusCode::SERVICE_UNAVAILABLE || attempt == ATTEMPTS_MAX {
                return reply;
            }
            attempt += 1;
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn send(&self, request: Request<Body>) -> Reply {
        // A router always answers; what went wrong is in the answer.
        let Ok(response) = self.router.clone().oneshot(request).await;
        let status = response.status();
        let replayed = is_true(response.headers(), &IDEMPOTENT_REPLAYED);
        let body = axum::body::to_bytes(response.into_body(), ANSWER_BYTES_MAX).await;
        let body = body
            .ok()
            .and_then(|body| serde_json::from_slice(&body).ok());
        Reply {
            status,
            body: body.unwrap_or_default(),
            replayed,
        }
    }
}

fn is_true(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get(name).is_some_and(|value| value == "true")
}
