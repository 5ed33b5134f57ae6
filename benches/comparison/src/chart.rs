//! The chart: the time of each competitor by that of the library, for the most important workloads.

use svg::Document;
use svg::node::element::{Group, Line, Rectangle, Text};

use crate::competitors::conveyor::CONVEYOR;
use crate::measure::{Results, Row};

/// The tables that are drawn, and their titles.
const PANELS: [(&str, &str); 6] = [
    ("hundreds-104", "100 single records in, up to 100 out, one thread"),
    ("flow-1-1", "Single records in, up to 100 out, two threads"),
    ("flow-2-2", "Single records in, up to 100 out, 2 producers and 2 workers"),
    ("waits-1-1", "Single records in, up to 100 out, two threads that wait"),
    ("batch-104", "100 in and out as one batch, one thread"),
    ("single-104", "One record in and out, one thread"),
];

const WIDTH: f64 = 900.0;
const LABELS: f64 = 290.0;
const RIGHT: f64 = 70.0;
const BAR: f64 = 16.0;
const STEP: f64 = 22.0;
/// The height of a panel's title and of the scale under it.
const TITLE: f64 = 46.0;
const HEAD: f64 = 76.0;
const FOOT: f64 = 20.0;

const PAPER: &str = "#ffffff";
const INK: &str = "#1f2328";
const FAINT: &str = "#59636e";
const GRID: &str = "#d1d9e0";
const OURS: &str = "#0969da";
const ALL_CAPS: &str = "#bc4c00";
const NO_CAPS: &str = "#8c959f";

pub fn draw<'a>(results: &'a [Results]) -> String {
    let panels: Vec<_> = PANELS
        .iter()
        .filter_map(|(id, title)| Some((*title, results.iter().find(|results| results.id == *id)?)))
        .collect();
    let height: f64 = HEAD
        + FOOT
        + panels
            .iter()
            .map(|(_, results)| TITLE + STEP * results.rows.len() as f64 + 14.0)
            .sum::<f64>();
    let ratios =
        |results: &'a Results| results.rows.iter().map(|row| row.ratio_to(&results.rows[0]).median);
    let scale = Scale::over(panels.iter().flat_map(|(_, results)| ratios(results)));

    let mut drawing = Document::new()
        .set("viewBox", (0.0, 0.0, WIDTH, height))
        .set("width", WIDTH)
        .set("height", height)
        .set("font-family", "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif")
        .set("role", "img")
        .set("aria-label", "Time for a record by that of conveyor-buffer, for each competitor")
        // With a background, to be readable on a dark page.
        .add(
            Rectangle::new()
                .set("width", WIDTH)
                .set("height", height)
                .set("rx", 8)
                .set("fill", PAPER),
        )
        .add(text("Time for a record of 104 bytes", 20.0, 30.0, 17, INK).set("font-weight", "bold"))
        .add(text(
            "times that of the first row; shorter is faster; the scale is logarithmic",
            20.0,
            48.0,
            12,
            FAINT,
        ));
    let mut x = 20.0;
    for (colour, label, width) in [
        (OURS, "conveyor-buffer: caps on all records, stages and sources", 380.0),
        (ALL_CAPS, "the same caps", 130.0),
        (NO_CAPS, "no cap but the length of the queue", 0.0),
    ] {
        drawing =
            drawing.add(bar(x, 59.0, 11.0, 11.0, colour)).add(text(label, x + 17.0, 69.0, 12, INK));
        x += width;
    }

    let mut y = HEAD;
    for (title, results) in panels {
        drawing = drawing.add(panel(title, results, &scale, y));
        y += TITLE + STEP * results.rows.len() as f64 + 14.0;
    }
    let mut out = drawing.to_string();
    out.push('\n');
    out
}

fn panel(title: &str, results: &Results, scale: &Scale, top: f64) -> Group {
    let bottom = top + TITLE + STEP * results.rows.len() as f64;
    let mut panel =
        Group::new().add(text(title, 20.0, top + 22.0, 14, INK).set("font-weight", "bold"));
    for tick in scale.ticks() {
        let x = scale.x(tick);
        let line = Line::new()
            .set("x1", x)
            .set("x2", x)
            .set("y1", top + TITLE - 4.0)
            .set("y2", bottom)
            .set("stroke", if tick == 1.0 { FAINT } else { GRID });
        panel = panel.add(line).add(
            text(&format!("{tick}"), x, top + TITLE - 8.0, 10, FAINT).set("text-anchor", "middle"),
        );
    }
    for (row, place) in results.rows.iter().zip(0..) {
        let y = top + TITLE + STEP * f64::from(place);
        let ratio = row.ratio_to(&results.rows[0]).median;
        let (from, to) = (scale.x(scale.low), scale.x(ratio));
        let label = text(&row.label(), LABELS - 10.0, y + 12.5, 12, INK).set("text-anchor", "end");
        let value = format!("{ratio:.*}", if ratio < 9.95 { 2 } else { 1 });
        panel = panel
            .add(label)
            .add(bar(from, y, (to - from).max(1.0), BAR, colour(row)))
            .add(over_lines(text(&value, to + 6.0, y + 12.5, 12, INK)));
    }
    panel
}

fn colour(row: &Row) -> &'static str {
    match row.of {
        CONVEYOR => OURS,
        of if of.caps.all() => ALL_CAPS,
        _ => NO_CAPS,
    }
}

fn bar(x: f64, y: f64, width: f64, height: f64, colour: &str) -> Rectangle {
    Rectangle::new()
        .set("x", x)
        .set("y", y)
        .set("width", format!("{width:.1}"))
        .set("height", height)
        .set("rx", 2)
        .set("fill", colour)
}

fn text(content: &str, x: f64, y: f64, size: u32, colour: &str) -> Text {
    Text::new(content)
        .set("x", format!("{x:.1}"))
        .set("y", y)
        .set("font-size", size)
        .set("fill", colour)
}

/// A text that stays readable where a line of the scale crosses it: its outline is drawn first.
fn over_lines(text: Text) -> Group {
    let outline = text.clone().set("stroke", PAPER).set("stroke-width", 3);
    Group::new().add(outline).add(text)
}

/// A logarithmic axis.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    fn over(ratios: impl Iterator<Item = f64>) -> Self {
        let (low, high) =
            ratios.fold((1.0_f64, 2.0_f64), |(low, high), ratio| (low.min(ratio), high.max(ratio)));
        // With a margin, so that the shortest bar is visible.
        Self { low: low / 1.5, high: high * 1.05 }
    }

    fn x(&self, ratio: f64) -> f64 {
        let share = (ratio / self.low).ln() / (self.high / self.low).ln();
        LABELS + share * (WIDTH - LABELS - RIGHT)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0]
            .into_iter()
            .filter(|tick| (self.low..=self.high).contains(tick))
    }
}
