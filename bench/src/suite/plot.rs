//! A plot of one comparison: a bar for each contender, as long as its median, and a dot for each round.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::{Comparison, Figure, median, thousands};

const WIDTH: i32 = 900;
/// Where bars begin, right of the names, and where the longest ends.
const LEFT: i32 = 330;
const RIGHT: i32 = 780;
const TOP: i32 = 60;
const ROW: i32 = 36;
const THICK: i32 = 20;

const INK: RGBColor = RGBColor(40, 40, 40);
const OURS: RGBColor = RGBColor(31, 119, 180);
const THEIRS: RGBColor = RGBColor(190, 190, 190);

/// Times where a time is what is judged, else rates.
pub fn write(comparison: &Comparison, path: &Path) -> Result<()> {
    let (figure, unit) = match comparison.name.as_str() {
        "p99-at-70-percent" => (Figure::P99, "p99 in ms, shorter is better".to_owned()),
        "one-connection" => (Figure::P50, "p50 in ms, shorter is better".to_owned()),
        _ => (
            Figure::PerSecond,
            format!("{} per second, longer is better", comparison.unit),
        ),
    };
    let height = TOP + ROW * i32::try_from(comparison.rows.len())? + 20;
    let area =
        SVGBackend::new(path, (WIDTH.unsigned_abs(), height.unsigned_abs())).into_drawing_area();
    draw(comparison, figure, &unit, &area).map_err(|error| anyhow!("{error}"))?;
    area.present()?;
    Ok(())
}

fn draw(
    comparison: &Comparison,
    figure: Figure,
    unit: &str,
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let text = |size: i32, horizontal| {
        ("sans-serif", size)
            .into_font()
            .color(&INK)
            .pos(Pos::new(horizontal, VPos::Center))
    };
    let title = format!("{}: {unit}", comparison.name);
    area.draw_text(&title, &text(18, HPos::Left), (20, 28))?;
    let rounds = comparison.rows.iter().map(|row| match figure {
        Figure::P50 => &row.p50_ms,
        Figure::P99 => &row.p99_ms,
        Figure::PerSecond | Figure::MemoryMb(_) => &row.per_second,
    });
    let longest = rounds
        .clone()
        .flatten()
        .copied()
        .fold(f64::MIN_POSITIVE, f64::max);
    let at = |value: f64| LEFT + (value / longest * f64::from(RIGHT - LEFT)) as i32;
    for ((row, rounds), top) in comparison
        .rows
        .iter()
        .zip(rounds)
        .zip((TOP..).step_by(ROW as usize))
    {
        let Some(value) = median(rounds) else {
            continue;
        };
        let middle = top + THICK / 2;
        let colour = if row.who.starts_with("ledger") {
            OURS
        } else {
            THEIRS
        };
        area.draw(&Rectangle::new(
            [(LEFT, top), (at(value), top + THICK)],
            colour.filled(),
        ))?;
        for round in rounds {
            area.draw(&Circle::new((at(*round), middle), 2, INK.filled()))?;
        }
        let shown = match figure {
            Figure::P50 | Figure::P99 => format!("{value:.2}"),
            Figure::PerSecond | Figure::MemoryMb(_) => thousands(value),
        };
        let furthest = rounds.iter().copied().fold(value, f64::max);
        area.draw_text(&row.who, &text(14, HPos::Right), (LEFT - 10, middle))?;
        area.draw_text(&shown, &text(14, HPos::Left), (at(furthest) + 8, middle))?;
    }
    Ok(())
}
