//! Reading JSON that strangers send: every fault of a body at once, each with its place.
//!
//! A `serde` derive stops at the first wrong field. Here an object is taken apart field by field
//! with [`Fields`]; what is wrong is noted with its JSON pointer (RFC 6901), and what nobody asked
//! for is an unknown field. Values that are only passed on (a payload) stay the text they were.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::domain::ids;
use crate::domain::time::Timestamp;

/// Deepest nesting of arrays and objects. Below the limit of common parsers, so that whatever
/// was accepted can also be read back inside an answer.
pub const DEPTH_MAX: usize = 96;

/// Most faults listed. A body full of them is not worth a longer answer.
const FAULTS_MAX: usize = 100;

/// Most members of an object that are looked at. Far more than any object here has; without an
/// end, a body of nothing but members would take many times its size in memory.
const MEMBERS_MAX: usize = 1000;

/// One thing wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Fault {
    /// JSON pointer (RFC 6901) into the body; `?name` for a query parameter, a header's name for
    /// a header; empty for the whole.
    #[schema(example = "/workflow_id")]
    pub pointer: String,
    #[schema(example = "is required")]
    pub message: String,
    /// Set when a value is larger than its limit in bytes: callers are told with a status of its
    /// own.
    #[serde(skip)]
    pub over: Option<Oversize>,
}

/// How much too large a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oversize {
    pub bytes: usize,
    pub bytes_max: usize,
}

/// Why a body can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is no JSON at all.
    Malformed(String),
    /// It is JSON, but not what is wanted.
    Invalid(Vec<Fault>),
}

/// The faults found so far.
#[derive(Debug, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    pub fn add(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        if !self.is_full() {
            self.0.push(Fault {
                pointer: pointer.into(),
                message: message.into(),
                over: None,
            });
        }
    }

    fn add_oversize(&mut self, pointer: String, over: Oversize) {
        let Oversize { bytes, bytes_max } = over;
        self.0.push(Fault {
            pointer,
            message: format!("has {bytes} bytes; at most {bytes_max} are allowed"),
            over: Some(over),
        });
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is found from now on is not listed any more.
    fn is_full(&self) -> bool {
        self.0.len() >= FAULTS_MAX
    }

    /// `value`, if nothing was wrong.
    ///
    /// # Errors
    ///
    /// [`Unreadable::Invalid`] with every fault.
    pub fn or<T>(self, value: Option<T>) -> Result<T, Unreadable> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(Unreadable::Invalid(self.0)),
        }
    }
}

/// The text of a body, checked to be JSON that is safe to take apart.
///
/// # Errors
///
/// [`Unreadable::Malformed`] for invalid UTF-8, too deep nesting, or anything but one JSON value.
pub fn document(body: &[u8]) -> Result<&RawValue, Unreadable> {
    let text = checked_text(body)?;
    serde_json::from_str(text).map_err(|error| Unreadable::Malformed(malformed(&error)))
}

fn checked_text(body: &[u8]) -> Result<&str, Unreadable> {
    let text = std::str::from_utf8(body).map_err(|error| {
        Unreadable::Malformed(format!(
            "the body is not UTF-8 at byte {}",
            error.valid_up_to()
        ))
    })?;
    if is_nested_deeper(text, DEPTH_MAX) {
        return Err(Unreadable::Malformed(format!(
            "arrays and objects are nested deeper than {DEPTH_MAX}"
        )));
    }
    Ok(text)
}

/// Whether arrays and objects are nested deeper than `depth_max`. No text exhausts the stack.
pub fn is_nested_deeper(text: &str, depth_max: usize) -> bool {
    // Seldom are there so many brackets at all, and counting them all is quick.
    let brackets = memchr::memchr2_iter(b'[', b'{', text.as_bytes());
    brackets.count() > depth_max && nesting(text) > depth_max
}

/// Says what is wrong and where, without repeating any of the text.
fn malformed(error: &serde_json::Error) -> String {
    let problem = if error.is_eof() {
        "the body ends too early"
    } else {
        "the body is not valid JSON"
    };
    format!(
        "{problem}, at line {} column {}",
        error.line(),
        error.column()
    )
}

/// How deep arrays and objects are nested, counted without recursion.
fn nesting(text: &str) -> usize {
    let mut deepest = 0;
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    for byte in text.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// An object's members in their order, as raw text: the first ones, and how many there are.
struct Members<'a> {
    kept: Vec<(Cow<'a, str>, &'a RawValue)>,
    count: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Members {
                    kept: Vec::with_capacity(16),
                    count: 0,
                };
                while let Some(Text(name)) = map.next_key()? {
                    let value = map.next_value()?;
                    members.count += 1;
                    if members.count <= MEMBERS_MAX {
                        members.kept.push((name, value));
                    }
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

/// A list's items, as raw text: the first ones, and how many there are.
#[derive(Debug)]
pub struct Items<'a> {
    pub kept: Vec<&'a RawValue>,
    pub count: usize,
}

/// Reads a list, and keeps up to so many of its items.
struct FirstItems(usize);

impl<'de> DeserializeSeed<'de> for FirstItems {
    type Value = Items<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for FirstItems {
    type Value = Items<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut items = Items {
            kept: Vec::new(),
            count: 0,
        };
        while let Some(item) = list.next_element()? {
            items.count += 1;
            if items.count <= self.0 {
                items.kept.push(item);
            }
        }
        Ok(items)
    }
}

/// A text, borrowed unless it has escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow;

        impl<'de> Visitor<'de> for Borrow {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Borrow)
    }
}

/// The text that a value is, if it is one.
fn text_of(value: &RawValue) -> Option<Cow<'_, str>> {
    let json = value.get();
    let between_quotes = json.strip_prefix('"')?.strip_suffix('"')?;
    if between_quotes.contains('\\') {
        return serde_json::from_str(json).ok().map(|Text(text)| text);
    }
    // It is valid JSON, and without escapes every character stands for itself.
    Some(Cow::Borrowed(between_quotes))
}

/// An object being taken apart.
#[derive(Debug)]
pub struct Fields<'a> {
    place: Place,
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
    /// Every name that was asked for: what else is there is unknown.
    known: Vec<&'static str>,
}

/// Where an object is. Only faults need it in words.
#[derive(Debug)]
struct Place {
    /// Of what it is in.
    pointer: String,
    /// Its name there, unless it is at the pointer itself.
    name: Option<&'static str>,
}

impl Place {
    fn at(pointer: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            name: None,
        }
    }

    fn pointer(&self) -> String {
        let mut pointer = self.pointer.clone();
        if let Some(name) = self.name {
            push_segment(&mut pointer, name);
        }
        pointer
    }
}

/// Leads a JSON pointer on to a member (RFC 6901 §3).
fn push_segment(pointer: &mut String, name: &str) {
    pointer.push('/');
    if name.contains(['~', '/']) {
        pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
    } else {
        pointer.push_str(name);
    }
}

/// Most objects have fewer fields than that.
const FIELDS_USUAL: usize = 16;

impl<'a> Fields<'a> {
    /// Begins with a body, which must be an object. The same as [`Self::of`] a [`document`], but
    /// for reading it once instead of twice.
    ///
    /// # Errors
    ///
    /// As [`document`].
    pub fn of_body(body: &'a [u8], faults: &mut Faults) -> Result<Option<Self>, Unreadable> {
        match serde_json::from_str::<Members<'_>>(checked_text(body)?) {
            Ok(Members { kept, count }) if count <= MEMBERS_MAX => {
                Ok(Some(Self::new(Place::at(""), kept)))
            }
            Ok(_) | Err(_) => Ok(Self::of(document(body)?, "", faults)),
        }
    }

    /// Begins with the value at `pointer`, which must be an object.
    pub fn of(value: &'a RawValue, pointer: &str, faults: &mut Faults) -> Option<Self> {
        Self::of_place(value, Place::at(pointer), faults)
    }

    fn new(place: Place, members: Vec<(Cow<'a, str>, &'a RawValue)>) -> Self {
        Self {
            place,
            members,
            known: Vec::new(),
        }
    }

    fn of_place(value: &'a RawValue, place: Place, faults: &mut Faults) -> Option<Self> {
        if !value.get().starts_with('{') {
            faults.add(place.pointer(), "must be an object");
            return None;
        }
        match serde_json::from_str::<Members<'_>>(value.get()) {
            Ok(Members { count, .. }) if count > MEMBERS_MAX => {
                faults.add(
                    place.pointer(),
                    format!("has {count} members; at most {MEMBERS_MAX} are allowed"),
                );
                None
            }
            Ok(Members { kept, .. }) => Some(Self::new(place, kept)),
            Err(error) => {
                faults.add(place.pointer(), malformed(&error));
                None
            }
        }
    }

    /// Where a member is.
    pub fn pointer(&self, name: &str) -> String {
        let mut pointer = self.place.pointer();
        push_segment(&mut pointer, name);
        pointer
    }

    /// A member's raw value; `null` counts as absent.
    pub fn raw(&mut self, name: &'static str, faults: &mut Faults) -> Option<&'a RawValue> {
        if self.known.is_empty() {
            self.known.reserve(FIELDS_USUAL);
        }
        self.known.push(name);
        let mut values = self.members.iter().filter(|(member, _)| member == name);
        let first = values.next().map(|(_, value)| *value);
        if values.next().is_some() {
            faults.add(self.pointer(name), "appears more than once");
        }
        first.filter(|value| value.get() != "null")
    }

    /// A member of a type that JSON has; `expected` says which, for the fault.
    pub fn value<T: Deserialize<'a>>(
        &mut self,
        name: &'static str,
        expected: &str,
        faults: &mut Faults,
    ) -> Option<T> {
        let raw = self.raw(name, faults)?;
        let value = serde_json::from_str(raw.get()).ok();
        if value.is_none() {
            faults.add(self.pointer(name), format!("must be {expected}"));
        }
        value
    }

    /// A member that must be there.
    pub fn required<T>(
        &mut self,
        name: &'static str,
        faults: &mut Faults,
        read: impl FnOnce(&mut Self, &'static str, &mut Faults) -> Option<T>,
    ) -> Option<T> {
        let value = read(self, name, faults);
        if value.is_none() && !self.has(name) {
            faults.add(self.pointer(name), "is required");
        }
        value
    }

    fn borrowed(
        &mut self,
        name: &'static str,
        expected: &str,
        faults: &mut Faults,
    ) -> Option<Cow<'a, str>> {
        let raw = self.raw(name, faults)?;
        let text = text_of(raw);
        if text.is_none() {
            faults.add(self.pointer(name), format!("must be {expected}"));
        }
        text
    }

    fn has(&self, name: &str) -> bool {
        let mut members = self.members.iter();
        members.any(|(member, value)| member == name && value.get() != "null")
    }

    /// Any text of up to `bytes_max` bytes.
    pub fn text(
        &mut self,
        name: &'static str,
        bytes_max: usize,
        faults: &mut Faults,
    ) -> Option<String> {
        let text = self.borrowed(name, "a text", faults)?;
        if text.len() > bytes_max {
            let length = text.len();
            faults.add(
                self.pointer(name),
                format!("has {length} bytes; at most {bytes_max} are allowed"),
            );
            return None;
        }
        Some(text.into_owned())
    }

    /// An id or name: 1 to 256 characters, none of them a control character.
    pub fn name(&mut self, name: &'static str, faults: &mut Faults) -> Option<String> {
        let text = self.borrowed(name, "a text", faults)?;
        match ids::check_name(&text) {
            Ok(()) => Some(text.into_owned()),
            Err(error) => {
                faults.add(self.pointer(name), error.to_string());
                None
            }
        }
    }

    /// A text of a form of its own.
    pub fn parsed<T>(&mut self, name: &'static str, faults: &mut Faults) -> Option<T>
    where
        T: FromStr<Err: fmt::Display>,
    {
        let text = self.borrowed(name, "a text", faults)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                faults.add(self.pointer(name), error.to_string());
                None
            }
        }
    }

    /// One of a list of words.
    pub fn word<T>(
        &mut self,
        name: &'static str,
        words: &[&str],
        from_word: impl FnOnce(&str) -> Option<T>,
        faults: &mut Faults,
    ) -> Option<T> {
        let text = self.borrowed(name, "a text", faults)?;
        let value = from_word(&text);
        if value.is_none() {
            faults.add(
                self.pointer(name),
                format!("must be one of: {}", words.join(", ")),
            );
        }
        value
    }

    /// An RFC 3339 time.
    pub fn time(&mut self, name: &'static str, faults: &mut Faults) -> Option<Timestamp> {
        let text = self.borrowed(name, "an RFC 3339 time", faults)?;
        match Timestamp::parse(&text) {
            Ok(time) => Some(time),
            Err(error) => {
                faults.add(self.pointer(name), error.to_string());
                None
            }
        }
    }

    pub fn flag(&mut self, name: &'static str, faults: &mut Faults) -> Option<bool> {
        self.value(name, "true or false", faults)
    }

    /// A member that is an object, to be taken apart in turn.
    pub fn object(&mut self, name: &'static str, faults: &mut Faults) -> Option<Fields<'a>> {
        let raw = self.raw(name, faults)?;
        let place = Place {
            pointer: self.place.pointer(),
            name: Some(name),
        };
        Fields::of_place(raw, place, faults)
    }

    /// A member that is a list, of which up to `items_max` items are kept. Whether there may be
    /// more is for the caller to say.
    pub fn items(
        &mut self,
        name: &'static str,
        items_max: usize,
        faults: &mut Faults,
    ) -> Option<Items<'a>> {
        let raw = self.raw(name, faults)?;
        let mut reader = serde_json::Deserializer::from_str(raw.get());
        let items = FirstItems(items_max).deserialize(&mut reader).ok();
        if items.is_none() {
            faults.add(self.pointer(name), "must be a list");
        }
        items
    }

    /// A member that is a list of texts, at most so many.
    pub fn list(
        &mut self,
        name: &'static str,
        items_max: usize,
        faults: &mut Faults,
    ) -> Option<Vec<String>> {
        let items = self.items(name, items_max, faults)?;
        if items.count > items_max {
            faults.add(
                self.pointer(name),
                format!(
                    "has {} entries; at most {items_max} are allowed",
                    items.count
                ),
            );
            return None;
        }
        let mut texts = Vec::with_capacity(items.count);
        for (index, item) in items.kept.into_iter().enumerate() {
            if let Some(text) = text_of(item) {
                texts.push(text.into_owned());
            } else {
                let list = self.pointer(name);
                faults.add(format!("{list}/{index}"), "must be a text");
            }
        }
        // With one left out, the others would stand at wrong places.
        (texts.len() == items.count).then_some(texts)
    }

    /// A member that is an object from names to texts, bounded.
    pub fn texts(
        &mut self,
        name: &'static str,
        entries_max: usize,
        chars_max: usize,
        faults: &mut Faults,
    ) -> BTreeMap<String, String> {
        let Some(fields) = self.object(name, faults) else {
            return BTreeMap::new();
        };
        if fields.members.len() > entries_max {
            faults.add(
                fields.place.pointer(),
                format!(
                    "has {} entries; at most {entries_max} are allowed",
                    fields.members.len()
                ),
            );
        }
        let mut texts = BTreeMap::new();
        for (key, value) in fields.members.iter().take(entries_max) {
            if let Err(error) = ids::check_name(key) {
                faults.add(fields.pointer(key), format!("has a name that {error}"));
            }
            let Some(text) = text_of(value) else {
                faults.add(fields.pointer(key), "must be a text");
                continue;
            };
            let chars = text.chars().count();
            if chars > chars_max {
                faults.add(
                    fields.pointer(key),
                    format!("has {chars} characters; at most {chars_max} are allowed"),
                );
            }
            let earlier = texts.insert(key.clone().into_owned(), text.into_owned());
            if earlier.is_some() {
                faults.add(fields.pointer(key), "appears more than once");
            }
        }
        texts
    }

    /// A member that is an object and is passed on as it is.
    pub fn verbatim_object(
        &mut self,
        name: &'static str,
        bytes_max: usize,
        faults: &mut Faults,
    ) -> Option<&'a RawValue> {
        let raw = self.verbatim(name, bytes_max, faults)?;
        if raw.get().starts_with('{') {
            return Some(raw);
        }
        faults.add(self.pointer(name), "must be an object");
        None
    }

    /// A member of any kind that is passed on as it is.
    pub fn verbatim(
        &mut self,
        name: &'static str,
        bytes_max: usize,
        faults: &mut Faults,
    ) -> Option<&'a RawValue> {
        let raw = self.raw(name, faults)?;
        let length = raw.get().len();
        if length <= bytes_max {
            return Some(raw);
        }
        faults.add_oversize(
            self.pointer(name),
            Oversize {
                bytes: length,
                bytes_max,
            },
        );
        None
    }

    /// Whatever was not asked for is a fault that names it, and what would be known.
    pub fn finish(self, faults: &mut Faults) {
        let is_unknown = |(name, _): &&(Cow<'_, str>, _)| !self.known.contains(&name.as_ref());
        let mut unknown = self.members.iter().filter(is_unknown).peekable();
        if unknown.peek().is_none() {
            return;
        }
        let known = if self.known.is_empty() {
            "no field is".to_owned()
        } else {
            format!("known are: {}", self.known.join(", "))
        };
        for (name, _) in unknown {
            if faults.is_full() {
                return;
            }
            faults.add(self.pointer(name), format!("is not known here; {known}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers(faults: &Faults) -> Vec<&str> {
        faults
            .0
            .iter()
            .map(|fault| fault.pointer.as_str())
            .collect()
    }

    #[test]
    fn every_fault_is_found_at_once() {
        let body = br#"{"a": 1, "b": "x", "t": "never", "o": {"deep": 1}, "extra/1": 0, "a": 2}"#;
        let mut faults = Faults::default();
        let mut fields = Fields::of(document(body).unwrap(), "", &mut faults).unwrap();

        fields.name("a", &mut faults);
        fields.required("missing", &mut faults, Fields::name);
        fields.word("b", &["y", "z"], |_| None::<()>, &mut faults);
        fields.time("t", &mut faults);
        fields.object("o", &mut faults).unwrap().finish(&mut faults);
        fields.finish(&mut faults);

        assert_eq!(
            pointers(&faults),
            ["/a", "/a", "/missing", "/b", "/t", "/o/deep", "/extra~11"]
        );
    }

    #[test]
    fn a_text_is_what_a_parser_says_it_is() {
        for json in [
            r#""""#,
            r#""ä b""#,
            r#""a \"b\" \u00e4""#,
            r#""\ud800""#,
            "1",
            "[]",
            "null",
        ] {
            let read = text_of(document(json.as_bytes()).unwrap());

            let parsed: Option<String> = serde_json::from_str(json).ok();
            assert_eq!(read.as_deref(), parsed.as_deref(), "{json}");
        }
        assert!(matches!(
            text_of(document(br#" "a" "#).unwrap()),
            Some(Cow::Borrowed("a"))
        ));
    }

    #[test]
    fn a_place_is_told_by_every_name_on_the_way() {
        let body = br#"{"a": {"b": {"c": 1, "d~": "x"}}}"#;
        let mut faults = Faults::default();
        let mut fields = Fields::of_body(body, &mut faults).unwrap().unwrap();

        let mut inner = fields.object("a", &mut faults).unwrap();
        let mut innermost = inner.object("b", &mut faults).unwrap();
        innermost.name("c", &mut faults);
        innermost.finish(&mut faults);

        assert_eq!(pointers(&faults), ["/a/b/c", "/a/b/d~0"]);
    }

    #[test]
    fn a_body_of_nothing_but_members_is_one_fault() {
        let members = vec![r#""a":0"#; 100_000].join(",");
        let body = format!("{{{members}}}");
        let mut faults = Faults::default();

        assert!(Fields::of(document(body.as_bytes()).unwrap(), "", &mut faults).is_none());

        assert_eq!(
            faults.0[0].message,
            "has 100000 members; at most 1000 are allowed"
        );
    }

    #[test]
    fn a_list_says_which_of_its_entries_is_wrong() {
        let body =
            br#"{"good": ["a", "b"], "mixed": ["a", 1, null], "long": [1, 2, 3, 4], "none": {}}"#;
        let mut faults = Faults::default();
        let mut fields = Fields::of(document(body).unwrap(), "", &mut faults).unwrap();

        let good = fields.list("good", 3, &mut faults).unwrap();
        for name in ["mixed", "long", "none"] {
            assert_eq!(fields.list(name, 3, &mut faults), None, "{name}");
        }

        assert_eq!(good, ["a", "b"]);
        assert_eq!(
            pointers(&faults),
            ["/mixed/1", "/mixed/2", "/long", "/none"]
        );
    }

    #[test]
    fn a_passed_on_value_keeps_its_text() {
        let body = br#"{"p": {"n": 1.10000000000000000001, "b": 1, "a": 2}}"#;
        let mut faults = Faults::default();
        let mut fields = Fields::of(document(body).unwrap(), "", &mut faults).unwrap();

        let payload = fields.verbatim_object("p", 1000, &mut faults).unwrap();

        assert_eq!(
            payload.get(),
            r#"{"n": 1.10000000000000000001, "b": 1, "a": 2}"#
        );
        assert!(faults.is_empty());
    }

    #[test]
    fn broken_texts_are_malformed_and_not_quoted() {
        for body in [
            &b"{\"secret\""[..],
            b"",
            b"{} {}",
            b"\xff\xfe",
            b"nope-secret",
        ] {
            let Err(Unreadable::Malformed(detail)) = document(body) else {
                panic!("{body:?} passed");
            };
            assert!(!detail.contains("secret"), "{detail}");
        }
    }

    #[test]
    fn ten_megabytes_of_brackets_are_refused() {
        let body = "[".repeat(10 * 1024 * 1024);

        assert!(matches!(
            document(body.as_bytes()),
            Err(Unreadable::Malformed(_))
        ));
        assert_eq!(nesting(r#"{"a": "[[[[\"[["}"#), 1);
    }

    #[test]
    fn brackets_inside_strings_are_no_nesting() {
        assert_eq!(nesting(r#"{"a": [1, {"b": 2}], "c": []}"#), 3);
        assert_eq!(nesting(r#"{"a": "[[[[\"[[[[\\"}"#), 1);
    }
}
