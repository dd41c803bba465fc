//! Text that is read only to become something else.

use std::borrow::Cow;

use serde::Deserialize;

/// Text as it stands in the input; a copy only where escapes had to be resolved.
///
/// A `Cow<str>` that is read by itself, or inside an `Option`, is always a copy.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_copied_only_where_it_must_be() {
        let read = |json| serde_json::from_str::<Option<Text<'_>>>(json).unwrap();

        assert!(matches!(read(r#""ä""#), Some(Text(Cow::Borrowed("ä")))));
        assert!(matches!(read(r#""\u00e4""#), Some(Text(Cow::Owned(text))) if text == "ä"));
    }
}
