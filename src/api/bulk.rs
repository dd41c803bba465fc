//! Many commands in one call: a JSON list, or a stream of lines of any length. The command line's
//! `import` is such a stream too, and takes the same way.
//!
//! Each item stands alone. Items about the same notification are carried out in their order, so
//! one may refer to a `request` before it; others run side by side and share group commits.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, StreamExt};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use utoipa::ToSchema;

use super::answers::{self, Answer};
use super::body::{self, CommandName, Wish};
use super::notifications::{Call, carry_out, success};
use super::request::{
    Caller, JSON, RequestId, check_idempotency_key, fingerprint, idempotency, media_type, read_body,
};
use super::schema::{Command, Commands};
use super::state::ApiState;
use crate::domain::ids::StreamId;
use crate::json::{self, Faults, Fields};
use crate::ledger::record::{Hash, Provenance, TenantPlace};
use crate::ledger::registry::Scope;
use crate::ledger::Idempotency;
use crate::problem::{Problem, ProblemDocument};

/// Most commands in one JSON call; also how many lines of a stream are worked on at once.
pub const COMMANDS_MAX: usize = 1000;
/// Commands of one call that are under way at the same time. More would only lengthen the queue
/// for everybody else.
const AT_ONCE: usize = 512;
/// Finished windows of results that may wait for a slow reader.
const RESULTS_WAITING: usize = 4;

/// The first pause before an item is tried again; each is twice as long as the one before. In all
/// it is about half a minute: long enough for a database to start again.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(250);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Media type of a stream of lines.
pub const NDJSON: &str = "application/x-ndjson";

/// The answer to a JSON list.
#[derive(Debug, Serialize, ToSchema)]
struct Results<'a> {
    results: Vec<ItemResult<'a>>,
}

/// One line of the answer.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum ItemResult<'a> {
    Done {
        index: usize,
        status: u16,
        notification_id: uuid::Uuid,
        version: i64,
        position: String,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        deduplicated: bool,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        replayed: bool,
    },
    Failed {
        index: usize,
        status: u16,
        problem: ProblemDocument<'a>,
    },
}

/// What became of one item.
pub(crate) struct Outcome {
    index: usize,
    pub(crate) result: Result<Success, Problem>,
}

pub(crate) struct Success {
    status: StatusCode,
    pub(crate) done: crate::ledger::Done<crate::domain::notification::Notification>,
    is_fact: bool,
}

/// What became of some lines of a stream, in their order.
pub(crate) struct Finished {
    /// The number of each line, counted from 1, empty lines included.
    pub(crate) lines: Vec<usize>,
    pub(crate) outcomes: Vec<Outcome>,
}

/// An item that was read.
struct Item {
    index: usize,
    target: Option<StreamId>,
    wish: Wish,
    is_fact: bool,
    idempotency: Option<Idempotency>,
}

/// On whose behalf the items run.
#[derive(Clone)]
pub(crate) struct Bulk {
    pub(crate) state: ApiState,
    pub(crate) provenance: Provenance,
    pub(crate) tenant: TenantPlace,
    pub(crate) request_id: String,
    /// The call's own idempotency key: each item gets one that follows from it.
    pub(crate) key: Option<String>,
    pub(crate) patience: Patience,
}

/// What happens to an item for which there is no room, or no database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// The caller is told, and decides.
    None,
    /// It is tried again for a while, if a second time can do no harm. What comes after it waits.
    Retry,
}

/// Carry out many commands
///
/// Up to 1,000 in a JSON list, or any number as lines of `application/x-ndjson`, answered by lines
/// in the same order while they still come in: read the answer while you send. Items are decided
/// in order, and each stands alone. The `problem` of an item has pointers into that item. Needs the
/// scope `write`.
#[utoipa::path(
    post,
    path = "/v1/commands",
    tag = "Commands",
    operation_id = "carry_out_commands",
    request_body(content((Commands = "application/json"), (Command = "application/x-ndjson"))),
    responses((
        status = 200,
        description = "What became of each command, in their order.",
        content((Results<'static> = "application/json"), (ItemResult<'static> = "application/x-ndjson")),
        headers(
            ("Ledger-Position" = String, description = "For `Ledger-Min-Position`: a read that sends it sees all of this."),
            ("Idempotent-Replayed" = String, description = "`true` if this is the first answer again."),
        ),
    )),
)]
pub async fn commands(
    State(state): State<ApiState>,
    caller: Caller,
    axum::Extension(request_id): axum::Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let bulk = Bulk {
        tenant: caller.tenant(&state, Scope::Write)?.clone(),
        request_id: request_id.0,
        key: idempotency(&headers, "", "", &[])?.map(|idempotency| idempotency.key),
        provenance: caller.provenance(None, None),
        state,
        patience: Patience::None,
    };
    match media_type(&headers).as_deref() {
        Some(JSON) => bulk.list(&headers, body).await,
        Some(NDJSON) => Ok(bulk.stream(body)),
        _ => Err(Problem::UnsupportedMediaType {
            expected: "application/json or application/x-ndjson",
        }),
    }
}

impl Bulk {
    /// All commands in one JSON document.
    async fn list(self, headers: &HeaderMap, body: Body) -> Result<Response, Problem> {
        let limits = &self.state.limits;
        let body = read_body(headers, body, limits.bulk_body_bytes_max, limits.body_timeout).await?;
        let commands = commands_in(&body)?;
        let claim = idempotency(headers, "POST", "/v1/commands", &body)?;
        // Interrupted, the call can be run again: its items have keys of their own.
        let work = async {
            let items = commands
                .iter()
                .enumerate()
                .map(|(index, command)| self.read(index, command))
                .collect();
            let outcomes = self.carry_out(items).await;
            let results: Vec<_> =
                outcomes.iter().map(|outcome| outcome.shown(&self.request_id)).collect();
            let answer = Answer::new(StatusCode::OK, &Results { results })?;
            Ok(answer.with_position(last_position(&outcomes)))
        };
        answers::once(&self.state, &self.tenant, claim, work).await
    }

    /// One command a line, as many as there are; results in the same order, as they come.
    fn stream(self, body: Body) -> Response {
        let (results, finished) = mpsc::channel::<Finished>(RESULTS_WAITING);
        let request_id = self.request_id.clone();
        // Runs inside the response's body: if the caller leaves, no further line is read.
        let work = async move { self.work_off(body, results).await };
        let output = stream::unfold((finished, Box::pin(work), false), |(mut finished, mut work, mut over)| async move {
            loop {
                tokio::select! {
                    biased;
                    window = finished.recv() => {
                        return window.map(|window| (window, (finished, work, over)));
                    }
                    () = &mut work, if !over => over = true,
                }
            }
        });
        let output = output.map(move |window| Ok::<_, Infallible>(window.shown(&request_id)));
        (
            [(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON))],
            Body::from_stream(output),
        )
            .into_response()
    }

    /// Reads lines and carries them out, window by window, until they end or nobody listens to
    /// the results.
    pub(crate) async fn work_off(&self, body: Body, results: mpsc::Sender<Finished>) {
        let limits = self.state.limits;
        let mut lines = Lines::new(body, limits.body_bytes_max);
        let mut index = 0;
        loop {
            let window = match tokio::time::timeout(limits.body_timeout, lines.window()).await {
                Ok(window) => window,
                Err(_) => Window::Broken(Problem::RequestTimeout),
            };
            let (numbers, items, over) = match window {
                Window::Lines(lines) => {
                    let numbers: Vec<_> = lines.iter().map(|line| line.number).collect();
                    let items: Vec<_> = (index..)
                        .zip(lines)
                        .map(|(index, line)| self.read_line(index, line.content))
                        .collect();
                    (numbers, items, false)
                }
                Window::Broken(problem) => {
                    let broken = Outcome {
                        index,
                        result: Err(problem),
                    };
                    (vec![lines.number + 1], vec![Err(broken)], true)
                }
                Window::End => return,
            };
            index += items.len();
            let finished = Finished {
                lines: numbers,
                outcomes: self.carry_out(items).await,
            };
            if results.send(finished).await.is_err() || over {
                return;
            }
        }
    }

    fn read_line(&self, index: usize, line: Content) -> Result<Item, Outcome> {
        let result = match line {
            Content::Text(text) => match json::document(&text) {
                Ok(command) => return self.read(index, command),
                Err(unreadable) => Err(unreadable.into()),
            },
            Content::TooLong { bytes_max } => Err(Problem::TooLarge {
                what: "the line".to_owned(),
                size: format!("more than {bytes_max} bytes"),
                limit: bytes_max,
                unit: "bytes",
            }),
        };
        Err(Outcome { index, result })
    }

    fn read(&self, index: usize, command: &RawValue) -> Result<Item, Outcome> {
        self.try_read(index, command).map_err(|problem| Outcome {
            index,
            result: Err(problem),
        })
    }

    fn try_read(&self, index: usize, command: &RawValue) -> Result<Item, Problem> {
        let mut faults = Faults::default();
        let parts = Fields::of(command, "", &mut faults).and_then(|mut fields| {
            let parts = self.read_fields(&mut fields, &mut faults);
            fields.finish(&mut faults);
            parts
        });
        let (name, target, own_key, wish) = faults.or(parts)?;
        // An item's own key outlives the call: it may come again in another one.
        let key = match (own_key, &self.key) {
            (Some(own), _) => Some(format!("item:{own}")),
            (None, Some(call)) => Some(format!("{call}#{index}")),
            (None, None) => None,
        };
        Ok(Item {
            index,
            target,
            wish,
            is_fact: name.is_fact(),
            idempotency: key.map(|key| Idempotency {
                key,
                fingerprint: item_fingerprint(command),
            }),
        })
    }

    fn read_fields(
        &self,
        fields: &mut Fields<'_>,
        faults: &mut Faults,
    ) -> Option<(CommandName, Option<StreamId>, Option<String>, Wish)> {
        let name = fields.required("type", faults, |fields, name, faults| {
            fields.word(name, &CommandName::WORDS, CommandName::from_word, faults)
        });
        let own_key: Option<String> = fields.value("idempotency_key", "a text", faults);
        if let Some(Err(message)) = own_key.as_deref().map(check_idempotency_key) {
            faults.add(fields.pointer("idempotency_key"), message);
        }
        let name = name?;
        let target = if name == CommandName::Request {
            None
        } else {
            let id = fields.required("notification_id", faults, |fields, name, faults| {
                fields.value(name, "a UUID", faults)
            });
            id.map(StreamId)
        };
        let payload_bytes_max = self.state.limits.payload_bytes_max;
        let wish = body::read(name, fields, payload_bytes_max, faults)?;
        Some((name, target, own_key, wish))
    }

    /// Carries out what could be read. Results are in the order of the items.
    async fn carry_out(&self, items: Vec<Result<Item, Outcome>>) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(items.len());
        let mut chains: Vec<Vec<Item>> = Vec::new();
        let mut chain_of: HashMap<StreamId, usize> = HashMap::new();
        for item in items {
            match item {
                Err(outcome) => outcomes.push(outcome),
                Ok(item) => match item.target.or(item.wish.id.map(StreamId)) {
                    None => chains.push(vec![item]),
                    Some(stream) => {
                        let chain = *chain_of.entry(stream).or_insert_with(|| {
                            chains.push(Vec::new());
                            chains.len() - 1
                        });
                        chains[chain].push(item);
                    }
                },
            }
        }
        let mut running = stream::iter(chains)
            .map(|chain| self.carry_out_chain(chain))
            .buffer_unordered(AT_ONCE);
        while let Some(finished) = running.next().await {
            outcomes.extend(finished);
        }
        outcomes.sort_by_key(|outcome| outcome.index);
        outcomes
    }

    async fn carry_out_chain(&self, chain: Vec<Item>) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(chain.len());
        for item in chain {
            outcomes.push(Outcome {
                index: item.index,
                result: self.carry_out_item(item).await,
            });
        }
        outcomes
    }

    async fn carry_out_item(&self, item: Item) -> Result<Success, Problem> {
        let call = Call {
            provenance: &self.provenance,
            tenant: &self.tenant,
            idempotency: item.idempotency,
            expected_version: None,
        };
        let status = success(&item.wish.action);
        // A fact that is on record is recognised by what it says.
        let repeatable = item.is_fact || call.idempotency.is_some();
        let spare = (self.patience == Patience::Retry).then(|| item.wish.clone());
        let mut result = carry_out(&self.state, &call, item.target, item.wish).await;
        if let Some(wish) = spare {
            let mut pause = RETRY_PAUSE_MIN;
            while pause < RETRY_PAUSE_MAX
                && result.as_ref().is_err_and(|problem| may_retry(problem, repeatable))
            {
                tokio::time::sleep(pause).await;
                pause *= 2;
                result = carry_out(&self.state, &call, item.target, wish.clone()).await;
            }
        }
        result.map(|done| Success {
            status,
            done,
            is_fact: item.is_fact,
        })
    }
}

/// Where there was no room, nothing was done. Where the database failed, nobody knows.
fn may_retry(problem: &Problem, repeatable: bool) -> bool {
    match problem {
        Problem::Overloaded(_) => true,
        Problem::Unavailable(_) => repeatable,
        _ => false,
    }
}

impl Finished {
    /// The results as lines.
    fn shown(&self, request_id: &str) -> Bytes {
        let mut text = Vec::new();
        for outcome in &self.outcomes {
            // A result is text and numbers; there is nothing that could fail to serialise.
            let _ = serde_json::to_writer(&mut text, &outcome.shown(request_id));
            text.push(b'\n');
        }
        text.into()
    }
}

impl Outcome {
    fn shown<'a>(&'a self, request_id: &'a str) -> ItemResult<'a> {
        match &self.result {
            Ok(Success {
                status,
                done,
                is_fact,
            }) => ItemResult::Done {
                index: self.index,
                status: status.as_u16(),
                notification_id: done.stream.stream_id.0,
                version: done.tip.sequence.0,
                position: done.stream.partition_position(done.tip).to_string(),
                deduplicated: *is_fact && done.appended == 0,
                replayed: done.replayed,
            },
            Err(problem) => ItemResult::Failed {
                index: self.index,
                status: problem.status().as_u16(),
                problem: problem.document(request_id),
            },
        }
    }
}

fn item_fingerprint(command: &RawValue) -> Hash {
    fingerprint(&[b"item", command.get().as_bytes()])
}

/// A read that waits for this position sees everything the call wrote.
fn last_position(outcomes: &[Outcome]) -> Option<String> {
    outcomes
        .iter()
        .filter_map(|outcome| outcome.result.as_ref().ok())
        .map(|success| success.done.stream.partition_position(success.done.tip))
        .max()
        .map(|position| position.to_string())
}

/// The items of `{"commands": [...]}`.
fn commands_in(body: &[u8]) -> Result<Vec<&RawValue>, Problem> {
    let document = json::document(body)?;
    let mut faults = Faults::default();
    let commands = Fields::of(document, "", &mut faults).and_then(|mut fields| {
        let commands = fields.required("commands", &mut faults, |fields, name, faults| {
            let list = fields.raw(name, faults)?;
            let items = serde_json::from_str::<Vec<&RawValue>>(list.get()).ok();
            if items.is_none() {
                faults.add(fields.pointer(name), "must be a list of commands");
            }
            items
        });
        fields.finish(&mut faults);
        commands
    });
    let commands = faults.or(commands)?;
    if commands.len() > COMMANDS_MAX {
        return Err(Problem::TooLarge {
            what: "/commands".to_owned(),
            size: format!("{} commands", commands.len()),
            limit: COMMANDS_MAX,
            unit: "commands; send more as application/x-ndjson",
        });
    }
    Ok(commands)
}

/// A line of a stream.
struct Line {
    number: usize,
    content: Content,
}

enum Content {
    Text(Bytes),
    TooLong { bytes_max: usize },
}

/// What has arrived.
enum Window {
    Lines(Vec<Line>),
    Broken(Problem),
    End,
}

/// Cuts a body into lines, without keeping more than one line and one piece in memory.
struct Lines {
    body: Body,
    line_bytes_max: usize,
    buffer: BytesMut,
    /// Of the last line that was complete, counted from 1.
    number: usize,
    /// The current line was too long: what follows is thrown away up to its end.
    skipping: bool,
    ended: bool,
}

impl Lines {
    fn new(body: Body, line_bytes_max: usize) -> Self {
        Self {
            body,
            line_bytes_max,
            buffer: BytesMut::new(),
            number: 0,
            skipping: false,
            ended: false,
        }
    }

    /// The lines that are complete; waits for at least one. Empty lines are none.
    async fn window(&mut self) -> Window {
        let mut lines = Vec::new();
        loop {
            while lines.len() < COMMANDS_MAX {
                let Some(line) = self.next_line() else { break };
                lines.push(line);
            }
            if !lines.is_empty() {
                return Window::Lines(lines);
            }
            if self.ended {
                return Window::End;
            }
            match self.body.frame().await {
                None => self.ended = true,
                Some(Err(_)) => {
                    return Window::Broken(Problem::MalformedJson(
                        "the body ended before it was complete".to_owned(),
                    ));
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    fn next_line(&mut self) -> Option<Line> {
        let bytes_max = self.line_bytes_max;
        loop {
            let end = self.buffer.iter().position(|byte| *byte == b'\n');
            let text = match end {
                Some(end) => {
                    let text = self.buffer.split_to(end + 1);
                    text.freeze().slice(..end)
                }
                None if self.buffer.len() > bytes_max => {
                    self.buffer.clear();
                    if std::mem::replace(&mut self.skipping, true) {
                        return None;
                    }
                    return Some(Line {
                        number: self.number + 1,
                        content: Content::TooLong { bytes_max },
                    });
                }
                None if self.ended && !self.buffer.is_empty() => self.buffer.split().freeze(),
                None => return None,
            };
            self.number += 1;
            if self.skipping {
                // The rest of a line that has had its answer.
                self.skipping = false;
                continue;
            }
            if text.len() > bytes_max {
                return Some(Line {
                    number: self.number,
                    content: Content::TooLong { bytes_max },
                });
            }
            if !text.iter().all(u8::is_ascii_whitespace) {
                return Some(Line {
                    number: self.number,
                    content: Content::Text(text),
                });
            }
        }
    }
}
