//! Pages of lists: `?limit=` and `?cursor=`.
//!
//! A cursor is the place of a page's last item, and a proof that it was made here for this list
//! of this owner under these filters. So whoever changes one, or takes it elsewhere, is told.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::filters::Filters;
use super::view::hex;
use crate::domain::ids::TenantId;
use crate::domain::time::Timestamp;
use crate::json::Faults;
use crate::ledger::record::{Hash, Position};
use crate::ledger::registry::Cursor;
use crate::ledger::sealing::MasterKey;
use crate::problem::Problem;

/// Entries of a page, unless the caller says.
pub const PAGE_DEFAULT: i64 = 50;
/// Most entries of a page.
pub const PAGE_MAX: i64 = 200;

const NUMBER_BYTES: usize = 8;
const ID_BYTES: usize = 16;
/// Of the proof, what is worth sending: nobody guesses this much.
const PROOF_BYTES: usize = 16;

/// Query of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only described: queries are read by hand")]
pub struct PageParameters {
    /// Entries of a page.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Which page of a list is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageWanted<P = Cursor> {
    pub limit: i64,
    pub after: Option<P>,
}

/// Where an item stands in its list, as a cursor carries it.
pub trait Place: Sized {
    fn to_bytes(&self) -> Vec<u8>;

    /// `None` for bytes that are no place of this kind.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

impl Place for Cursor {
    fn to_bytes(&self) -> Vec<u8> {
        [
            self.at.as_micros().to_be_bytes().as_slice(),
            self.id.as_bytes(),
        ]
        .concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (at, id) = bytes.split_first_chunk::<NUMBER_BYTES>()?;
        Some(Self {
            at: Timestamp::from_micros(i64::from_be_bytes(*at)).ok()?,
            id: Uuid::from_bytes(<[u8; ID_BYTES]>::try_from(id).ok()?),
        })
    }
}

impl Place for Position {
    fn to_bytes(&self) -> Vec<u8> {
        self.0.to_be_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let number = <[u8; NUMBER_BYTES]>::try_from(bytes).ok()?;
        Some(Self(i64::from_be_bytes(number)))
    }
}

/// Ids never go away, so the last one of a page stays a good place.
impl Place for TenantId {
    fn to_bytes(&self) -> Vec<u8> {
        self.as_str().as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::new(std::str::from_utf8(bytes).ok()?).ok()
    }
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

/// A list, whose it is, and what it was filtered by: cursors are valid for one only.
#[derive(Clone, Copy, Debug)]
pub struct List<'a> {
    pub name: &'static str,
    pub owner: &'a str,
    /// A fingerprint of the filters; [`UNFILTERED`] for lists that have none.
    pub filters: Hash,
}

/// What lists without filters are filtered by.
pub const UNFILTERED: Hash = [0; 32];

impl List<'_> {
    /// Reads which page is wanted.
    ///
    /// # Errors
    ///
    /// [`Problem::Invalid`] naming every parameter that is wrong.
    pub fn wanted<P: Place>(
        self,
        master: &MasterKey,
        mut query: Filters,
    ) -> Result<PageWanted<P>, Problem> {
        let wanted = query.page_of(self, master);
        query.finish()?;
        Ok(wanted)
    }

    /// The place a page begins after: that of its cursor, if it has one.
    pub fn after<P: Place>(
        self,
        master: &MasterKey,
        cursor: Option<&str>,
        faults: &mut Faults,
    ) -> Option<P> {
        let place = self.read(master, cursor?);
        if place.is_none() {
            faults.add(
                "?cursor",
                "is no cursor of this list; take it from `next_cursor`, with the same filters",
            );
        }
        place
    }

    /// The cursor of the page after `last`.
    pub fn cursor(self, master: &MasterKey, last: &impl Place) -> String {
        let mut bytes = last.to_bytes();
        let proof = self.proof(master, &bytes);
        bytes.extend_from_slice(&proof);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn read<P: Place>(self, master: &MasterKey, text: &str) -> Option<P> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (place, proof) = bytes.split_last_chunk::<PROOF_BYTES>()?;
        let is_ours = *proof == self.proof(master, place);
        is_ours.then(|| P::from_bytes(place)).flatten()
    }

    fn proof(self, master: &MasterKey, place: &[u8]) -> [u8; PROOF_BYTES] {
        let Self {
            name,
            owner,
            filters,
        } = self;
        let (filters, place) = (hex(&filters), hex(place));
        let derived = master.derive(&format!("cursor/{name}/{owner}/{filters}/{place}"));
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
        let list = |name, owner| List {
            name,
            owner,
            filters: UNFILTERED,
        };
        let place = Cursor {
            at: Timestamp::parse("2026-03-14T09:30:00.412Z").unwrap(),
            id: Uuid::from_u128(42),
        };

        let cursor = list("sources", "acme").cursor(&master, &place);

        assert_eq!(list("sources", "acme").read(&master, &cursor), Some(place));
        assert_eq!(
            list("sources", "beta").read::<Cursor>(&master, &cursor),
            None
        );
        assert_eq!(
            list("quarantine", "acme").read::<Cursor>(&master, &cursor),
            None
        );
        let filtered = List {
            filters: [1; 32],
            ..list("sources", "acme")
        };
        assert_eq!(filtered.read::<Cursor>(&master, &cursor), None);
        assert_eq!(
            list("sources", "acme").read::<Position>(&master, &cursor),
            None
        );
        let other_key = MasterKey::new(&[8; 32]).unwrap();
        assert_eq!(
            list("sources", "acme").read::<Cursor>(&other_key, &cursor),
            None
        );
        for byte in 0..cursor.len() {
            let mut changed = cursor.clone().into_bytes();
            changed[byte] = if changed[byte] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(
                list("sources", "acme").read::<Cursor>(&master, &changed),
                None,
                "{changed}"
            );
        }
        for text in ["", "A", "not base64!", &cursor[1..], &format!("{cursor}A")] {
            assert_eq!(
                list("sources", "acme").read::<Cursor>(&master, text),
                None,
                "{text}"
            );
        }
    }
}
