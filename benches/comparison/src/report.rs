//! The report: `BENCHMARKS.md`, and the chart beside the program.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context;
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;

use crate::chart;
use crate::goals::Goal;
use crate::latency::{Latency, Times};
use crate::machine::{Machine, version};
use crate::measure::{Description, Results};
use crate::memory::Memory;

pub struct Report<'a> {
    pub machine: &'a Machine,
    pub rounds: usize,
    pub results: &'a [Results],
    pub latency: Option<&'a Latency>,
    pub memory: Option<&'a Memory>,
    pub goals: &'a [Goal],
}

/// What is between these is written by hand and kept.
const NOTES: [&str; 2] = ["<!-- notes -->", "<!-- end of notes -->"];
pub const NO_NOTES: &str = "\n\n";
const CHART: &str = "benches/comparison/chart.svg";

impl Report<'_> {
    /// Writes both files, and keeps the notes that are there.
    pub fn write(&self, directory: &Path) -> anyhow::Result<()> {
        let report = directory.join("BENCHMARKS.md");
        let before = fs::read_to_string(&report).unwrap_or_default();
        let notes = notes(&before).unwrap_or(NO_NOTES);
        let chart = directory.join(CHART);
        if let Some(parent) = chart.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot make {}", parent.display()))?;
        }
        let write = |path: &Path, text: String| {
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        write(&report, self.markdown(notes))?;
        write(&chart, chart::draw(self.results))?;
        eprintln!("wrote {} and {}", report.display(), chart.display());
        Ok(())
    }

    pub fn markdown(&self, notes: &str) -> String {
        let mut out = String::new();
        self.head(&mut out);
        for results in self.results {
            workload(&mut out, results);
        }
        if let Some(latency) = self.latency {
            latency_section(&mut out, latency);
        }
        if let Some(memory) = self.memory {
            memory_section(&mut out, memory);
        }
        self.goals(&mut out);
        out.push_str("## Notes\n\n");
        out.push_str(NOTES[0]);
        out.push_str(notes);
        out.push_str(NOTES[1]);
        out.push('\n');
        out
    }

    fn head(&self, out: &mut String) {
        let rounds = self.rounds;
        _ = write!(
            out,
            "# Benchmarks\n\n\
             conveyor-buffer beside what one would use in its place. This file is written by\n\n\
             ```sh\n\
             cargo run --release --manifest-path benches/comparison/Cargo.toml --features conveyor-etl-buffer\n\
             ```\n\n\
             which needs `protoc` (Debian: `protobuf-compiler`) for one of the competitors; without the \
             feature it leaves that one out. Only the notes at the end are by hand.\n\n\
             ![Time for a record by that of conveyor-buffer]({CHART})\n\n\
             All figures are from one run. In each of {rounds} rounds every competitor had its turn \
             on a fresh buffer; a time is the median over the rounds, in brackets the quartiles, and \
             a ratio is the median of the ratios within each round. Ratios are to be trusted more \
             than times, and both only for this machine:\n\n"
        );
        let mut machine = table(["", ""]);
        for (what, value) in &self.machine.lines {
            machine.add_row([what, value.as_str()]);
        }
        _ = write!(out, "{machine}\n\n## The competitors\n\n");
        out.push_str(
            "Each is used as its documentation advises, and unless it says otherwise by calls that \
             never wait, so that what is measured is the buffer and not how a thread is put to \
             sleep. A competitor that keeps \
             no caps does less work than the library: it holds no count of any source, nor of all \
             records, knows no batch that can be returned, and frees a place as soon as its record \
             is taken.\n\n",
        );
        let mut competitors = table(["competitor", "version", "caps", "used by"]);
        let mut seen: Vec<Description> = Vec::new();
        for row in self.results.iter().flat_map(|results| &results.rows) {
            let Description { name, package, caps, how } = row.competitor;
            if !seen.iter().any(|one| one.name == name) {
                seen.push(row.competitor);
                let version = version(package);
                let version = if package == name {
                    version.to_owned()
                } else {
                    format!("{package} {version}")
                };
                competitors.add_row([name, &version, caps, how]);
            }
        }
        _ = write!(out, "{competitors}\n\n");
    }

    fn goals(&self, out: &mut String) {
        out.push_str(
            "## Goals\n\nFor records of 104 bytes, by handle unless it says otherwise.\n\n",
        );
        let mut goals = table(["work", "against", "goal", "measured", ""]);
        for goal in self.goals {
            goals.add_row([
                goal.work.to_owned(),
                goal.against.to_owned(),
                goal.goal(),
                goal.measured(),
                goal.verdict(),
            ]);
        }
        _ = write!(out, "{goals}\n\n");
    }
}

/// What was written by hand into an earlier report.
fn notes(report: &str) -> Option<&str> {
    let (_, rest) = report.split_once(NOTES[0])?;
    let (notes, _) = rest.rsplit_once(NOTES[1])?;
    Some(notes)
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header);
    table
}

fn workload(out: &mut String, results: &Results) {
    let Results { title, about, unit, rows, .. } = results;
    _ = write!(out, "## {title}\n\n{about}\n\n");
    let base = rows[0].label();
    let mut table =
        table(["competitor", "caps", &format!("ns a {unit}"), &format!("times {base}")]);
    for row in rows {
        let time = row.time;
        table.add_row([
            row.label(),
            row.competitor.caps.to_owned(),
            format!("{} ({} to {})", brief(time.median), brief(time.low), brief(time.high)),
            brief(row.ratio.median),
        ]);
    }
    _ = write!(out, "{table}\n\n");
}

/// Three digits that matter.
fn brief(number: f64) -> String {
    match number {
        100.0.. => format!("{number:.0}"),
        10.0.. => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

fn latency_section(out: &mut String, latency: &Latency) {
    out.push_str(
        "## Latency\n\n\
         2 producers, each with a source of its own, push records of 104 bytes at a fixed rate to \
         one stage; 2 workers take up to 100 at a time. A time counts from the moment at which the \
         record was due by the rate, so that a stall is seen by all records that it held up; it is \
         told to within 1 %. First, what each sustains when a record is due as soon as the last has \
         gone, clock readings included:\n\n",
    );
    let mut sustained = table(["competitor", "records a second"]);
    for (competitor, rate) in &latency.sustained {
        sustained.add_row([(*competitor).to_owned(), thousands(*rate)]);
    }
    _ = write!(out, "{sustained}\n\n");
    out.push_str("The times are in microseconds, medians over the turns; of p99.9 of a push, the quartiles too.\n\n");
    for load in &latency.loads {
        _ = write!(out, "### At {}\n\n", load.title);
        let mut times =
            table(["competitor", "records a second", "", "p50", "p99", "p99.9", "maximum"]);
        for row in &load.rows {
            let rate = thousands(row.rate);
            let p999 = row.push.p999;
            let spread =
                format!("{} ({} to {})", micros(p999.median), micros(p999.low), micros(p999.high));
            times.add_row(cells([row.competitor, &rate, "push"], row.push, spread));
            let p999 = micros(row.through.p999.median);
            times.add_row(cells(["", "", "push to batch"], row.through, p999));
        }
        _ = write!(out, "{times}\n\n");
    }
}

fn cells(head: [&str; 3], times: Times, p999: String) -> Vec<String> {
    let mut cells: Vec<String> = head.map(str::to_owned).into();
    cells.extend([micros(times.p50), micros(times.p99), p999, micros(times.max)]);
    cells
}

fn micros(nanos: f64) -> String {
    brief(nanos / 1e3)
}

fn memory_section(out: &mut String, memory: &Memory) {
    out.push_str("## Memory\n\nThe heap bytes of what holds nothing yet but has room for 10,000 records of 104 bytes.\n\n");
    let mut table = table(["what", "bytes", "times the raw ring"]);
    let rows = [
        ("an idle stage", memory.stage),
        ("a raw ArrayQueue of the records", memory.ring),
        ("a raw ArrayQueue of slots for a record or a `Vec`", memory.slots),
    ];
    for (what, bytes) in rows {
        table.add_row([what.to_owned(), thousands(bytes), brief(bytes / memory.ring)]);
    }
    _ = write!(out, "{table}\n\n");
}

/// A whole number with its thousands apart.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}
