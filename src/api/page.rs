//! Pages of lists that the registry keeps: `?limit=` and `?cursor=`.
//!
//! A cursor is the place of a page's last item, and a proof that it was made here for this list
//! of this owner. So whoever changes one, or takes it elsewhere, is told.

use axum_extra::extract::{Query, QueryRejection};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::request::bad_query;
use crate::domain::time::Timestamp;
use crate::json::Faults;
use crate::ledger::registry::Cursor;
use crate::ledger::sealing::MasterKey;
use crate::problem::Problem;

/// Entries of a page, unless the caller says.
pub const PAGE_DEFAULT: i64 = 50;
/// Most entries of a page.
pub const PAGE_MAX: i64 = 200;

const TIME_BYTES: usize = 8;
const ID_BYTES: usize = 16;
/// Of the proof, what is worth sending: nobody guesses this much.
const PROOF_BYTES: usize = 16;

/// Query of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct PageParameters {
    /// Entries of a page.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    pub(super) limit: Option<String>,
    /// `next_cursor` of the page before.
    pub(super) cursor: Option<String>,
}

/// Which page of a list is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageWanted {
    pub limit: i64,
    pub after: Option<Cursor>,
}

/// One page, as it is answered.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    pub data: Vec<T>,
    /// Give it as `cursor` for the next page; `null` at the end of the list.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// The page from what was read for it, one entry more than it may have: whether that one
    /// came says whether there is a next page.
    pub fn of<E>(
        mut entries: Vec<E>,
        limit: i64,
        cursor: impl FnOnce(&E) -> String,
        show: impl FnMut(E) -> T,
    ) -> Self {
        let next_cursor = cut(&mut entries, limit, cursor);
        Self {
            data: entries.into_iter().map(show).collect(),
            next_cursor,
        }
    }
}

/// Cuts off the entry beyond the page; then says with which cursor the next page begins.
pub fn cut<E>(
    entries: &mut Vec<E>,
    limit: i64,
    cursor: impl FnOnce(&E) -> String,
) -> Option<String> {
    let limit = usize::try_from(limit).unwrap_or_default();
    let more = entries.len() > limit;
    entries.truncate(limit);
    entries.last().filter(|_| more).map(cursor)
}

/// `limit` of a page: 1 to 200.
pub fn page_limit(text: Option<&str>, faults: &mut Faults) -> i64 {
    let Some(text) = text else {
        return PAGE_DEFAULT;
    };
    match text.parse() {
        Ok(limit) if (1..=PAGE_MAX).contains(&limit) => limit,
        _ => {
            faults.add(
                "?limit",
                format!("must be a whole number from 1 to {PAGE_MAX}"),
            );
            PAGE_DEFAULT
        }
    }
}

/// A list, and whose it is: cursors are valid for one only.
#[derive(Clone, Copy, Debug)]
pub struct List<'a> {
    pub name: &'static str,
    pub owner: &'a str,
}

impl List<'_> {
    /// Reads which page is wanted.
    ///
    /// # Errors
    ///
    /// [`Problem::Invalid`] naming every parameter that is wrong.
    pub fn wanted(
        self,
        master: &MasterKey,
        query: Result<Query<PageParameters>, QueryRejection>,
    ) -> Result<PageWanted, Problem> {
        let query = query.map_err(|error| bad_query(&error))?.0;
        let mut faults = Faults::default();
        let after = query.cursor.as_deref().and_then(|text| {
            let cursor = self.read(master, text);
            if cursor.is_none() {
                faults.add(
                    "?cursor",
                    "is no cursor of this list; take it from `next_cursor`",
                );
            }
            cursor
        });
        let limit = page_limit(query.limit.as_deref(), &mut faults);
        Ok(faults.or(Some(PageWanted { limit, after }))?)
    }

    /// The cursor of the page after `last`.
    pub fn cursor(self, master: &MasterKey, last: Cursor) -> String {
        let mut bytes = Vec::with_capacity(TIME_BYTES + ID_BYTES + PROOF_BYTES);
        bytes.extend_from_slice(&last.at.as_micros().to_be_bytes());
        bytes.extend_from_slice(last.id.as_bytes());
        bytes.extend_from_slice(&self.proof(master, last));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn read(self, master: &MasterKey, text: &str) -> Option<Cursor> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (at, rest) = bytes.split_first_chunk::<TIME_BYTES>()?;
        let (id, proof) = rest.split_first_chunk::<ID_BYTES>()?;
        let micros = i64::from_be_bytes(*at);
        let cursor = Cursor {
            at: Timestamp::from_micros_clamped(micros),
            id: Uuid::from_bytes(*id),
        };
        let is_ours = cursor.at.as_micros() == micros && proof == self.proof(master, cursor);
        is_ours.then_some(cursor)
    }

    fn proof(self, master: &MasterKey, cursor: Cursor) -> [u8; PROOF_BYTES] {
        let Self { name, owner } = self;
        let Cursor { at, id } = cursor;
        let derived = master.derive(&format!("cursor/{name}/{owner}/{at}/{id}"));
        let mut proof = [0; PROOF_BYTES];
        proof.copy_from_slice(&derived[..PROOF_BYTES]);
        proof
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_by_its_own_list_only_and_only_unchanged() {
        let master = MasterKey::new(&[7; 32]).unwrap();
        let list = |name, owner| List { name, owner };
        let place = Cursor {
            at: Timestamp::parse("2026-03-14T09:30:00.412Z").unwrap(),
            id: Uuid::from_u128(42),
        };

        let cursor = list("sources", "acme").cursor(&master, place);

        assert_eq!(list("sources", "acme").read(&master, &cursor), Some(place));
        assert_eq!(list("sources", "beta").read(&master, &cursor), None);
        assert_eq!(list("quarantine", "acme").read(&master, &cursor), None);
        let other_key = MasterKey::new(&[8; 32]).unwrap();
        assert_eq!(list("sources", "acme").read(&other_key, &cursor), None);
        for byte in 0..cursor.len() {
            let mut changed = cursor.clone().into_bytes();
            changed[byte] = if changed[byte] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(
                list("sources", "acme").read(&master, &changed),
                None,
                "{changed}"
            );
        }
        for text in ["", "A", "not base64!", &cursor[1..], &format!("{cursor}A")] {
            assert_eq!(list("sources", "acme").read(&master, text), None, "{text}");
        }
    }
}
