//! Answers on stdout. A reader that went away, or a full disk, is an error like others: nobody
//! should take half an answer for all of it.

use std::fmt::Display;
use std::io::{self, Write};

use anyhow::Context;
use serde::Serialize;

use crate::domain::time::Timestamp;

/// One line.
pub(super) fn line(text: impl Display) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .context("the answer could not be written to stdout")
}

/// One JSON document, for a program.
pub(super) fn json<T: Serialize>(answer: &T) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(answer).context("the answer could not be written as JSON")?)
}

/// Columns for a person, each as wide as its widest cell.
pub(super) fn table<const COLUMNS: usize>(
    headings: [&str; COLUMNS],
    rows: &[[String; COLUMNS]],
) -> anyhow::Result<()> {
    let mut widths = headings.map(|heading| heading.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    line(padded(&headings, &widths))?;
    rows.iter().try_for_each(|row| line(padded(row, &widths)))
}

fn padded<T: AsRef<str>>(cells: &[T], widths: &[usize]) -> String {
    let mut text = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        let cell = cell.as_ref();
        text.push_str(cell);
        text.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
    }
    text.truncate(text.trim_end().len());
    text
}

/// A time for a person, to the second; `-` for none.
pub(super) fn time(at: Option<Timestamp>) -> String {
    match at {
        None => "-".to_owned(),
        Some(at) => {
            let text = at.to_string();
            match text.split_once('.') {
                Some((seconds, _)) => format!("{seconds}Z"),
                None => text,
            }
        }
    }
}

/// A text for a person; `-` for none.
pub(super) fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        assert_eq!(padded(&["a", "bc"], &[3, 4]), "a    bc");
        assert_eq!(padded(&["größe", "x"], &[5, 1]), "größe  x");
    }
}
