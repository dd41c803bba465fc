//! What became of items, and how callers are told.

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::notification::Notification;
use crate::ledger::Done;
use crate::problem::{Problem, ProblemDocument};

/// What became of all commands, in their order.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Results<'a> {
    pub(super) results: Vec<ItemResult<'a>>,
}

/// What became of one command. `index` counts from 0.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum ItemResult<'a> {
    Done {
        index: usize,
        #[schema(example = 201)]
        status: u16,
        notification_id: Uuid,
        version: i64,
        #[schema(example = "3-1042")]
        position: String,
        /// The fact was on record already.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        deduplicated: bool,
        /// The idempotency key was used before: this is the first result again.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        replayed: bool,
    },
    Failed {
        index: usize,
        #[schema(example = 422)]
        status: u16,
        problem: ProblemDocument<'a>,
    },
}

/// What became of one item.
pub(crate) struct Outcome {
    pub(super) index: usize,
    pub(crate) result: Result<Success, Problem>,
}

pub(crate) struct Success {
    pub(super) status: StatusCode,
    pub(crate) done: Done<Notification>,
    pub(super) is_fact: bool,
}

/// What became of some lines of a stream, in their order.
pub(crate) struct Finished {
    /// The number of each line, counted from 1, empty lines included.
    pub(crate) lines: Vec<usize>,
    pub(crate) outcomes: Vec<Outcome>,
}

impl Finished {
    /// The results as lines.
    pub(super) fn shown(&self, request_id: &str) -> Bytes {
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
    pub(super) fn failed(index: usize, problem: Problem) -> Self {
        Self {
            index,
            result: Err(problem),
        }
    }

    /// The service failed, not the item: the same may succeed later.
    pub(super) fn may_pass(&self) -> bool {
        self.result
            .as_ref()
            .is_err_and(|problem| problem.status().is_server_error())
    }

    pub(super) fn shown<'a>(&'a self, request_id: &'a str) -> ItemResult<'a> {
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

/// A read that waits for this position sees everything the call wrote.
pub(super) fn last_position(outcomes: &[Outcome]) -> Option<String> {
    outcomes
        .iter()
        .filter_map(|outcome| outcome.result.as_ref().ok())
        .map(|success| success.done.stream.partition_position(success.done.tip))
        .max()
        .map(|position| position.to_string())
}
