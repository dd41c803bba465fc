//! The references that answer HTTP, each as a process of its own.
//!
//! Nothing is checked but that the body is the JSON that was expected: no keys, no tenants, no
//! idempotency, no telemetry.

use std::io::Write;

use anyhow::Result;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::serve::ListenerExt;
use axum::{Json, Router};
use clap::{Args, ValueEnum};
use serde::de::DeserializeOwned;
use sqlx::postgres::{PgPool, PgPoolOptions};
use uuid::Uuid;

use super::group::{self, Group};
use super::request::{Recorded, Requested};
use super::stock::{self, Command, Stock};

/// As many as the ledger has by default.
const DATABASE_CONNECTIONS: u32 = 10;

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Kind {
    /// Reads the JSON and answers.
    Bare,
    /// One INSERT a request.
    Insert,
    /// One task that commits what waits.
    Group,
    /// `postgres-es`.
    Stock,
    /// `postgres-es` with a view.
    StockView,
}

/// Runs one of the references until it is killed.
#[derive(Debug, Args)]
pub struct Arguments {
    kind: Kind,
    /// An empty database of its own. `group` knows `sqlite://PATH`, too.
    #[arg(long)]
    database_url: String,
}

type Answer = Result<(StatusCode, Json<Recorded>), StatusCode>;

pub async fn run(arguments: Arguments) -> Result<()> {
    let url = &arguments.database_url;
    let router = match arguments.kind {
        Kind::Bare => Router::new().route("/v1/notifications", post(bare)),
        Kind::Insert => {
            group::prepare(url).await?;
            let pool = PgPoolOptions::new()
                .max_connections(DATABASE_CONNECTIONS)
                .connect(url)
                .await?;
            Router::new()
                .route("/v1/notifications", post(insert))
                .with_state(pool)
        }
        Kind::Group => {
            group::prepare(url).await?;
            let group = Group::start(url).await?;
            Router::new()
                .route("/v1/notifications", post(wait_for_group))
                .with_state(group)
        }
        Kind::Stock | Kind::StockView => {
            stock::prepare(url).await?;
            let stock = Stock::open(url, arguments.kind == Kind::StockView).await;
            Router::new()
                .route("/v1/notifications", post(request))
                .route("/v1/notifications/{id}/queue", post(queue))
                .route("/v1/notifications/{id}/sent", post(sent))
                .route("/v1/notifications/{id}/delivered", post(delivered))
                .with_state(stock)
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", listener.local_addr()?)?;
    out.flush()?;
    let listener = listener.tap_io(|stream| {
        // Without it, answers would wait for each other.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router).await?;
    Ok(())
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, StatusCode> {
    serde_json::from_slice(body).map_err(|_| StatusCode::BAD_REQUEST)
}

fn recorded(status: StatusCode, id: Uuid) -> Answer {
    Ok((status, Json(Recorded { id })))
}

fn failed(error: impl std::fmt::Display) -> StatusCode {
    eprintln!("{error:#}");
    StatusCode::INTERNAL_SERVER_ERROR
}

/// The id and the text to keep, of a body that was read.
fn kept(body: &Bytes) -> Result<(Uuid, String), StatusCode> {
    let requested: Requested = read(body)?;
    let text = String::from_utf8(body.to_vec()).map_err(failed)?;
    Ok((requested.id.unwrap_or_else(Uuid::now_v7), text))
}

async fn bare(body: Bytes) -> Answer {
    let requested: Requested = read(&body)?;
    recorded(
        StatusCode::CREATED,
        requested.id.unwrap_or_else(Uuid::now_v7),
    )
}

async fn insert(State(pool): State<PgPool>, body: Bytes) -> Answer {
    const INSERT: &str = "INSERT INTO reference_rows (id, data) VALUES ($1, $2)";
    let (id, text) = kept(&body)?;
    sqlx::query(INSERT)
        .bind(id)
        .bind(text)
        .execute(&pool)
        .await
        .map_err(failed)?;
    recorded(StatusCode::CREATED, id)
}

async fn wait_for_group(State(group): State<Group>, body: Bytes) -> Answer {
    let (id, text) = kept(&body)?;
    group.insert(id, text).await.map_err(failed)?;
    recorded(StatusCode::CREATED, id)
}

async fn request(State(stock): State<Stock>, body: Bytes) -> Answer {
    let requested: Requested = read(&body)?;
    let id = requested.id.unwrap_or_else(Uuid::now_v7);
    stock
        .execute(id, Command::Request(requested))
        .await
        .map_err(failed)?;
    recorded(StatusCode::CREATED, id)
}

async fn queue(State(stock): State<Stock>, Path(id): Path<Uuid>, body: Bytes) -> Answer {
    follow(&stock, id, Command::Queue(read(&body)?)).await
}

async fn sent(State(stock): State<Stock>, Path(id): Path<Uuid>, body: Bytes) -> Answer {
    follow(&stock, id, Command::Sent(read(&body)?)).await
}

async fn delivered(State(stock): State<Stock>, Path(id): Path<Uuid>, body: Bytes) -> Answer {
    follow(&stock, id, Command::Delivered(read(&body)?)).await
}

async fn follow(stock: &Stock, id: Uuid, command: Command) -> Answer {
    stock.execute(id, command).await.map_err(failed)?;
    recorded(StatusCode::OK, id)
}
