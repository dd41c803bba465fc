//! The query of a call: filters with any number of values, times, and which page.
//!
//! Read by hand, as bodies are, so that every fault is found at once and said in the same words
//! wherever it is made.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::FromRequestParts;
use axum_extra::extract::Query;
use http::request::Parts;
use uuid::Uuid;

use super::page::{List, PageWanted, Place, page_limit};
use super::request::{bad_query, fingerprint, parse_time};
use super::state::ApiState;
use crate::domain::ids::check_name;
use crate::domain::time::Timestamp;
use crate::json::Faults;
use crate::ledger::record::{Hash, TenantPlace};
use crate::ledger::sealing::MasterKey;
use crate::problem::Problem;

/// Most values of one filter.
pub const VALUES_MAX: usize = 100;
/// Longest name of a parameter that is repeated in a fault.
const NAME_SHOWN_CHARS: usize = 64;

/// The query of a call, while it is taken apart.
#[derive(Debug)]
pub struct Filters {
    pairs: Vec<(String, String)>,
    /// Names that were asked for.
    known: Vec<&'static str>,
    fingerprint: Hash,
    faults: Faults,
}

impl FromRequestParts<ApiState> for Filters {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let pairs = Query::from_request_parts(parts, state).await;
        let Query(pairs) = pairs.map_err(|error| bad_query(&error))?;
        Ok(Self::of(pairs))
    }
}

/// The query of a call that takes no parameters.
#[derive(Clone, Copy, Debug)]
pub struct NoParameters;

impl FromRequestParts<ApiState> for NoParameters {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let filters = Filters::from_request_parts(parts, state).await?;
        filters.finish().map(|()| Self)
    }
}

impl Filters {
    fn of(pairs: Vec<(String, String)>) -> Self {
        let mut filters: Vec<&(String, String)> = pairs
            .iter()
            .filter(|(name, _)| name != "limit" && name != "cursor")
            .collect();
        filters.sort_unstable();
        let parts: Vec<&[u8]> = filters
            .iter()
            .flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()])
            .collect();
        Self {
            fingerprint: fingerprint(&parts),
            pairs,
            known: Vec::new(),
            faults: Faults::default(),
        }
    }

    /// What is wrong with a parameter.
    pub fn fault(&mut self, name: &str, message: impl Into<String>) {
        self.faults.add(format!("?{name}"), message);
    }

    /// What is wrong with something that a parameter goes together with.
    pub fn fault_elsewhere(&mut self, pointer: &str, message: impl Into<String>) {
        self.faults.add(pointer, message);
    }

    /// All values of a parameter, each once.
    fn values(&mut self, name: &'static str) -> BTreeSet<String> {
        self.known.push(name);
        let values = self.pairs.extract_if(.., |(known, _)| known == name);
        let values: BTreeSet<String> = values.map(|(_, value)| value).collect();
        self.not_too_many(name, values.len());
        values
    }

    fn not_too_many(&mut self, name: &str, count: usize) {
        if count > VALUES_MAX {
            let message = format!("has {count} values; at most {VALUES_MAX} are allowed");
            self.fault(name, message);
        }
    }

    /// Names or ids of the caller's own.
    pub fn names(&mut self, name: &'static str) -> Vec<String> {
        let values = self.values(name);
        if let Some(error) = values.iter().find_map(|value| check_name(value).err()) {
            self.fault(name, error.to_string());
        }
        values.into_iter().collect()
    }

    /// Ids of ours, each once, however often and in whatever spelling it is given.
    pub fn ids(&mut self, name: &'static str) -> Vec<Uuid> {
        let values = self.values(name);
        let ids: Result<BTreeSet<Uuid>, _> = values.iter().map(|value| value.parse()).collect();
        if ids.is_err() {
            self.fault(name, "must be a UUID");
        }
        ids.unwrap_or_default().into_iter().collect()
    }

    /// Words of ours.
    pub fn words<T>(
        &mut self,
        name: &'static str,
        words: &[&str],
        from_word: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let values = self.values(name);
        let known: Vec<T> = values.iter().filter_map(|value| from_word(value)).collect();
        if known.len() < values.len() {
            self.fault(name, format!("must be one of: {}", words.join(", ")));
        }
        known
    }

    /// As [`Self::words`], also with commas between them, in the order in which they came.
    pub fn word_list<T: PartialEq>(
        &mut self,
        name: &'static str,
        words: &[&str],
        from_word: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        self.known.push(name);
        let values = self.pairs.extract_if(.., |(known, _)| known == name);
        let mut found = Vec::new();
        let mut unknown = false;
        for (_, value) in values {
            for word in value.split(',') {
                match from_word(word) {
                    Some(word) if found.contains(&word) => {}
                    Some(word) => found.push(word),
                    None => unknown = true,
                }
            }
        }
        if unknown {
            self.fault(name, format!("must be one of: {}", words.join(", ")));
        }
        found
    }

    /// Whether a parameter was given and not read yet.
    pub fn has(&self, name: &str) -> bool {
        self.pairs.iter().any(|(given, _)| given == name)
    }

    /// A parameter that comes once, if at all.
    pub fn one(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        let mut values = self.pairs.extract_if(.., |(known, _)| known == name);
        let first = values.next().map(|(_, value)| value);
        let more = values.count();
        if more > 0 {
            self.fault(name, "appears more than once");
        }
        first
    }

    /// One word of ours.
    pub fn word<T>(
        &mut self,
        name: &'static str,
        words: &[&str],
        from_word: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let word = from_word(&self.one(name)?);
        if word.is_none() {
            self.fault(name, format!("must be one of: {}", words.join(", ")));
        }
        word
    }

    fn time(&mut self, name: &'static str) -> Option<Timestamp> {
        let text = self.one(name)?;
        match parse_time(&text) {
            Ok(time) => Some(time),
            Err(error) => {
                self.fault(name, error.to_string());
                None
            }
        }
    }

    /// `from` and `to`.
    pub fn range(&mut self) -> (Option<Timestamp>, Option<Timestamp>) {
        let (from, to) = (self.time("from"), self.time("to"));
        if let (Some(from), Some(to)) = (from, to)
            && from > to
        {
            self.fault("from", "is later than `to`");
        }
        (from, to)
    }

    /// `metadata[key]=value`: values by key.
    pub fn metadata(&mut self) -> BTreeMap<String, Vec<String>> {
        self.known.push("metadata[…]");
        let key = |name: &str| {
            let key = name.strip_prefix("metadata[")?.strip_suffix(']')?;
            (!key.is_empty()).then(|| key.to_owned())
        };
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (name, value) in self.pairs.extract_if(.., |(name, _)| key(name).is_some()) {
            found
                .entry(key(&name).unwrap_or_default())
                .or_default()
                .insert(value);
        }
        self.not_too_many("metadata", found.values().map(BTreeSet::len).sum());
        found
            .into_iter()
            .map(|(key, values)| (key, values.into_iter().collect()))
            .collect()
    }

    /// Which page of a tenant's list is wanted, and the list as these filters make it.
    pub fn page<'a, P: Place>(
        &mut self,
        name: &'static str,
        tenant: &'a TenantPlace,
        master: &MasterKey,
    ) -> (List<'a>, PageWanted<P>) {
        let list = List {
            name,
            owner: tenant.tenant_id.as_str(),
            filters: self.fingerprint,
        };
        (list, self.page_of(list, master))
    }

    /// Which page of a list is wanted.
    pub fn page_of<P: Place>(&mut self, list: List<'_>, master: &MasterKey) -> PageWanted<P> {
        let limit = self.limit();
        let cursor = self.one("cursor");
        PageWanted {
            limit,
            after: list.after(master, cursor.as_deref(), &mut self.faults),
        }
    }

    /// `limit` of a page.
    pub fn limit(&mut self) -> i64 {
        let limit = self.one("limit");
        page_limit(limit.as_deref(), &mut self.faults)
    }

    /// Ends the reading.
    ///
    /// # Errors
    ///
    /// [`Problem::Invalid`] with everything that is wrong, among it parameters nobody asked for.
    pub fn finish(mut self) -> Result<(), Problem> {
        let unknown: BTreeSet<&str> = self.pairs.iter().map(|(name, _)| name.as_str()).collect();
        for name in unknown {
            let name: String = name.chars().take(NAME_SHOWN_CHARS).collect();
            let known = if self.known.is_empty() {
                "this call takes no parameters".to_owned()
            } else {
                format!("known are: {}", self.known.join(", "))
            };
            self.faults
                .add("?", format!("`{name}` is not known; {known}"));
        }
        Ok(self.faults.or(Some(()))?)
    }
}
