//! The API's description: a document for programs, and a page for people. No key needed.
//!
//! The page is Swagger UI, which is part of the program: nothing is fetched from anywhere else,
//! and the browser is told to allow nothing else.

use std::sync::{Arc, LazyLock};

use axum::extract::Path;
use axum::response::{IntoResponse, Redirect, Response};
use bytes::Bytes;
use http::{HeaderValue, header};
use utoipa_swagger_ui::{Config, SwaggerFile, serve};

use super::content::JSON;
use super::observe::NOTHING_HERE;
use super::openapi;
use crate::problem::Problem;

/// What the page may load and do: its own files, its icons, which are inside the style sheet, and
/// calls of this service.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      img-src 'self' data:; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// Made once: it does not change while the program runs.
static DOCUMENT: LazyLock<Bytes> =
    LazyLock::new(|| openapi::document().to_json().unwrap_or_default().into());

static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
    // Relative to the page, so that it is found behind a proxy's prefix too.
    let config = Config::from("openapi.json")
        .use_base_layout()
        .deep_linking(true)
        .persist_authorization(false)
        .doc_expansion("list")
        // It would send the document's address to somebody else's server.
        .validator_url("none");
    Arc::new(config)
});

/// `GET /openapi.json`
pub async fn document() -> Response {
    let json = HeaderValue::from_static(JSON);
    ([(header::CONTENT_TYPE, json)], DOCUMENT.clone()).into_response()
}

/// `GET /docs`
pub async fn page() -> Result<Response, Problem> {
    let file = read("index.html")?;
    let page = String::from_utf8_lossy(&file.bytes);
    // The files are in a folder beside this page.
    let page = page
        .replace("href=\"./", "href=\"docs/")
        .replace("src=\"./", "src=\"docs/")
        .replace("href=\"index.css", "href=\"docs/index.css")
        .replace(
            "<title>Swagger UI</title>",
            "<title>Notification ledger: API</title>",
        );
    Ok(guarded(&file.content_type, page.into()))
}

/// `GET /docs/{file}`
pub async fn file(Path(name): Path<String>) -> Result<Response, Problem> {
    if matches!(name.as_str(), "" | "index.html") {
        return Ok(Redirect::permanent("../docs").into_response());
    }
    let file = read(&name)?;
    Ok(guarded(&file.content_type, file.bytes.into_owned().into()))
}

fn read(name: &str) -> Result<SwaggerFile<'static>, Problem> {
    let file = serve(name, Arc::clone(&CONFIG)).map_err(|_| NOTHING_HERE)?;
    file.ok_or(NOTHING_HERE)
}

fn guarded(content_type: &str, body: Bytes) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    if let Ok(content_type) = HeaderValue::from_str(content_type) {
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
