//! The fields of a span as a JSON object, which is what log lines in JSON take them from.
//!
//! Every request has a span, and few of them are ever logged. So writing its fields must cost
//! little, and adding one later must not read the others again.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::span::Record;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormattedFields;
use tracing_subscriber::fmt::format::{FormatFields, Writer};

/// What a request's fields have room in, but for an unusual path or id.
const FIELDS_BYTES_USUAL: usize = 256;

/// Writes fields as JSON.
#[derive(Debug, Default)]
pub(super) struct JsonObject;

impl<'writer> FormatFields<'writer> for JsonObject {
    fn format_fields<R: RecordFields>(
        &self,
        mut writer: Writer<'writer>,
        fields: R,
    ) -> fmt::Result {
        let mut text = String::with_capacity(FIELDS_BYTES_USUAL);
        text.push('{');
        write_members(&mut text, &fields, true)?;
        text.push('}');
        // The span's own text grows with every piece, so it gets all at once.
        writer.write_str(&text)
    }

    fn add_fields(
        &self,
        current: &'writer mut FormattedFields<Self>,
        fields: &Record<'_>,
    ) -> fmt::Result {
        // Reopened. It was closed by either of these functions.
        current.fields.pop();
        let is_first = current.fields.len() <= 1;
        if current.fields.is_empty() {
            current.fields.push('{');
        }
        write_members(&mut current.fields, fields, is_first)?;
        current.fields.push('}');
        Ok(())
    }
}

fn write_members(
    writer: &mut dyn Write,
    fields: &impl RecordFields,
    is_first: bool,
) -> fmt::Result {
    let mut members = Members {
        writer,
        is_first,
        result: Ok(()),
    };
    fields.record(&mut members);
    members.result
}

/// Writes `"name":value` for each field, with commas between them.
struct Members<'a> {
    writer: &'a mut dyn Write,
    is_first: bool,
    result: fmt::Result,
}

impl Members<'_> {
    fn member(&mut self, field: &Field, value: impl FnOnce(&mut dyn Write) -> fmt::Result) {
        if self.result.is_err() {
            return;
        }
        let comma = if self.is_first { "" } else { "," };
        self.is_first = false;
        // Raw identifiers are fields whose names are words of the language.
        let name = field.name().trim_start_matches("r#");
        let mut begin = || {
            self.writer.write_str(comma)?;
            self.writer.write_char('"')?;
            self.writer.write_str(name)?;
            self.writer.write_str("\":")
        };
        self.result = begin().and_then(|()| value(self.writer));
    }

    fn text(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        self.member(field, |writer| {
            writer.write_char('"')?;
            Escaping(writer).write_fmt(value)?;
            writer.write_char('"')
        });
    }
}

impl Visit for Members<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.member(field, |writer| write!(writer, "{value}"));
        } else {
            self.text(field, format_args!("{value}"));
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.member(field, |writer| {
            writer.write_char('"')?;
            Escaping(writer).write_str(value)?;
            writer.write_char('"')
        });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format_args!("{value:?}"));
    }
}

/// Writes text as it stands between the quotes of a JSON string (RFC 8259 §7).
struct Escaping<'a>(&'a mut dyn Write);

impl Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let needs_escape = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
        let mut rest = text;
        while let Some(at) = rest.bytes().position(needs_escape) {
            // What needs to be escaped is one byte long.
            let (plain, from) = rest.split_at(at);
            self.0.write_str(plain)?;
            let (special, after) = from.split_at(1);
            match special {
                "\"" => self.0.write_str("\\\"")?,
                "\\" => self.0.write_str("\\\\")?,
                "\n" => self.0.write_str("\\n")?,
                _ => write!(self.0, "\\u{:04x}", special.as_bytes()[0])?,
            }
            rest = after;
        }
        self.0.write_str(rest)
    }
}
