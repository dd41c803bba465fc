//! Items of a bulk call: read one by one, and carried out in chains.
//!
//! All commands about one notification make a chain, which keeps their order.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures_util::stream::{self, StreamExt};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::lines::{Content, Lines, Window};
use super::results::{Finished, Outcome, Success};
use crate::api::body::{self, CommandName, Wish};
use crate::api::notifications::{Call, carry_out, success};
use crate::api::request::{check_idempotency_key, fingerprint};
use crate::api::state::ApiState;
use crate::domain::ids::StreamId;
use crate::json::{self, Faults, Fields};
use crate::ledger::Idempotency;
use crate::ledger::record::{Provenance, TenantPlace};
use crate::problem::Problem;

/// Commands of one call that are under way at the same time. More would only lengthen the queue
/// for everybody else.
const AT_ONCE: usize = 256;

/// The first pause before an item is tried again; each is twice as long as the one before. In all
/// it is about half a minute: long enough for a database to start again.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(250);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// An item that was read.
pub(super) struct Item {
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
    pub(crate) request_id: Arc<str>,
    /// The call's own idempotency key, as it was sent: each item gets one that follows from it.
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

impl Bulk {
    /// Reads lines and carries them out, window by window, until they end or nobody listens to
    /// the results.
    pub(crate) async fn work_off(&self, body: Body, results: mpsc::Sender<Finished>) {
        let limits = self.state.limits;
        let pause_max = match self.patience {
            Patience::None => Some(limits.body_timeout),
            Patience::Retry => None,
        };
        let mut lines = Lines::new(body, limits.body_bytes_max, pause_max);
        let mut index = 0;
        loop {
            let (numbers, items, over) = match lines.window().await {
                Window::Lines(lines) => {
                    let numbers: Vec<_> = lines.iter().map(|line| line.number).collect();
                    let items: Vec<_> = (index..)
                        .zip(lines)
                        .map(|(index, line)| self.read_line(index, line.content))
                        .collect();
                    (numbers, items, false)
                }
                Window::Broken(problem) => {
                    let broken = Err(Outcome::failed(index, problem));
                    (vec![lines.next_number()], vec![broken], true)
                }
                Window::End => return,
            };
            index += items.len();
            let finished = Finished {
                lines: numbers,
                outcomes: lines.meanwhile(self.carry_out(items)).await,
            };
            if results.send(finished).await.is_err() || over {
                return;
            }
        }
    }

    fn read_line(&self, index: usize, line: Content) -> Result<Item, Outcome> {
        let problem = match line {
            Content::Text(text) => match json::document(&text) {
                Ok(command) => return self.read(index, command),
                Err(unreadable) => unreadable.into(),
            },
            Content::TooLong { bytes_max } => Problem::TooLarge {
                what: "the line".to_owned(),
                size: format!("more than {bytes_max} bytes"),
                limit: bytes_max,
                unit: "bytes",
            },
        };
        Err(Outcome::failed(index, problem))
    }

    /// Reads an item. One that can't be carried out is an outcome already.
    pub(super) fn read(&self, index: usize, command: &RawValue) -> Result<Item, Outcome> {
        self.try_read(index, command)
            .map_err(|problem| Outcome::failed(index, problem))
    }

    fn try_read(&self, index: usize, command: &RawValue) -> Result<Item, Problem> {
        let mut faults = Faults::default();
        let parts = Fields::of(command, "", &mut faults)
            .and_then(|fields| self.read_fields(fields, &mut faults));
        let (name, target, own_key, wish) = faults.or(parts)?;
        // An item's own key outlives the call: it may come again in another one.
        let key = match (own_key, &self.key) {
            (Some(own), _) => Some(format!("item:{own}")),
            (None, Some(call)) => Some(format!("bulk:{index}:{call}")),
            (None, None) => None,
        };
        Ok(Item {
            index,
            target,
            wish,
            is_fact: name.is_fact(),
            idempotency: key.map(|key| Idempotency {
                key,
                fingerprint: fingerprint(&[b"item", command.get().as_bytes()]),
            }),
        })
    }

    fn read_fields(
        &self,
        mut fields: Fields<'_>,
        faults: &mut Faults,
    ) -> Option<(CommandName, Option<StreamId>, Option<String>, Wish)> {
        let name = fields.required("type", faults, |fields, name, faults| {
            fields.word(name, CommandName::WORDS, CommandName::from_word, faults)
        });
        let own_key: Option<String> = fields.value("idempotency_key", "a text", faults);
        if let Some(Err(message)) = own_key.as_deref().map(check_idempotency_key) {
            faults.add(fields.pointer("idempotency_key"), message);
        }
        // Without it nobody knows what else may be there.
        let name = name?;
        let target = match name {
            CommandName::Request => None,
            _ => fields
                .required("notification_id", faults, |fields, name, faults| {
                    fields.value(name, "a UUID", faults)
                })
                .map(StreamId),
        };
        let payload_bytes_max = self.state.limits.payload_bytes_max;
        let said = body::read(name, &mut fields, payload_bytes_max, faults);
        fields.finish(faults);
        Some((name, target, own_key, said?.wish))
    }

    /// Carries out what could be read. Results are in the order of the items.
    pub(super) async fn carry_out(&self, items: Vec<Result<Item, Outcome>>) -> Vec<Outcome> {
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
                && result
                    .as_ref()
                    .is_err_and(|problem| may_retry(problem, repeatable))
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
