//! The report: `BENCHMARKS.md`, and the chart beside this program.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context;
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;

use crate::chart;
use crate::competitors::Description;
use crate::goals::Goal;
use crate::latency::{Latency, Times};
use crate::machine::{Machine, version};
use crate::measure::{Results, Spread, label};
use crate::memory::Memory;
use crate::wake_up;

pub struct Report<'a> {
    pub machine: &'a Machine,
    pub rounds: usize,
    pub results: &'a [Results],
    pub latency: Option<&'a Latency>,
    pub wake_up: Option<&'a [wake_up::Row]>,
    pub memory: Option<&'a Memory>,
    pub goals: &'a [Goal],
}

/// A text that is written by hand and kept.
const MEANING: &str = "meaning";
const NOTES: &str = "notes";
const CHART: &str = "benches/chart.svg";

impl Report<'_> {
    /// Writes the report and the chart to a directory, and keeps what is written by hand.
    pub fn write(&self, directory: &Path) -> anyhow::Result<()> {
        let report = directory.join("BENCHMARKS.md");
        let before = fs::read_to_string(&report).unwrap_or_default();
        let chart = directory.join(CHART);
        if let Some(parent) = chart.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot make {}", parent.display()))?;
        }
        let write = |path: &Path, text: String| {
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        write(&report, self.markdown(&before))?;
        write(&chart, chart::draw(self.results))?;
        eprintln!("wrote {} and {}", report.display(), chart.display());
        Ok(())
    }

    /// Returns the report, with what is written by hand in an earlier one.
    pub fn markdown(&self, before: &str) -> String {
        let mut out = String::new();
        self.head(&mut out);
        self.goals(&mut out);
        keep(&mut out, before, MEANING);
        self.competitors(&mut out);
        for results in self.results {
            workload(&mut out, results, self.machine.cores);
        }
        if let Some(latency) = self.latency {
            latency_section(&mut out, latency);
        }
        if let Some(rows) = self.wake_up {
            wake_up_section(&mut out, rows);
        }
        if let Some(memory) = self.memory {
            memory_section(&mut out, memory);
        }
        out.push_str("## Notes\n\n");
        keep(&mut out, before, NOTES);
        out
    }

    fn head(&self, out: &mut String) {
        let rounds = self.rounds;
        _ = write!(
            out,
            "# Benchmarks\n\n\
             conveyor-buffer beside its alternatives. This file is written by\n\n\
             ```sh\n\
             cargo run --release --manifest-path benches/comparison/Cargo.toml --features conveyor-etl-buffer\n\
             ```\n\n\
             The feature adds one competitor and needs `protoc` (Debian: `protobuf-compiler`). Only \
             the notes and what follows the first table are written by hand.\n\n\
             ![Time for a record by that of conveyor-buffer]({CHART})\n\n\
             All figures are from one run. Every competitor had a turn on a new buffer in each of \
             {rounds} rounds. A time is the median over the rounds, with the quartiles in brackets. A \
             ratio is the median of the ratios within each round, with the least and the greatest in \
             brackets. Ratios are more reliable than times, and both are of this machine:\n\n"
        );
        let mut machine = table(["", ""]);
        for (what, value) in &self.machine.lines {
            machine.add_row([what, value.as_str()]);
        }
        _ = write!(out, "{machine}\n\n");
    }

    fn goals(&self, out: &mut String) {
        out.push_str(
            "## In short\n\nRecords of 104 bytes, by handle unless it says otherwise.\n\n",
        );
        let mut goals = table(["work", "beside", "conveyor-buffer"]);
        for goal in self.goals {
            goals.add_row([goal.work, &goal.against, &goal.measured()]);
        }
        _ = write!(out, "{goals}\n\n");
    }

    fn competitors(&self, out: &mut String) {
        out.push_str(
            "## The competitors\n\n\
             Each is used as its documentation advises, and by calls that never wait unless it says \
             otherwise, so that the buffer is measured and not how it parks a thread.\n\n\
             The caps are on all records, on those of each stage and on those of each source. \
             \"Until settled\" counts the records in a worker's hands as well, and knows batches that \
             can be returned; \"until taken\" frees the room of a record as soon as a worker has it. A \
             competitor with only its length does less: it counts neither the records of a source nor \
             those of all stages.\n\n",
        );
        let mut competitors = table(["competitor", "version", "caps", "used by"]);
        let mut seen: Vec<Description> = Vec::new();
        for row in self.results.iter().flat_map(|results| &results.rows) {
            let Description { name, package, caps, how } = row.of;
            if seen.contains(&row.of) {
                continue;
            }
            seen.push(row.of);
            let version = version(package);
            let version =
                if package == name { version.to_owned() } else { format!("{package} {version}") };
            competitors.add_row([name, &version, &caps.to_string(), how]);
        }
        _ = write!(out, "{competitors}\n\n");
    }
}

/// Returns the notes of an earlier report.
/// Copies a text that is written by hand from an earlier report.
fn keep(out: &mut String, before: &str, name: &str) {
    let [begin, end] = [format!("<!-- {name} -->"), format!("<!-- end of {name} -->")];
    let kept = before.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end));
    let text = kept.map_or("\n\n", |(text, _)| text);
    _ = write!(out, "{begin}{text}{end}\n\n");
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header);
    table
}

fn workload(out: &mut String, results: &Results, cores: usize) {
    let Results { title, about, unit, threads, rows, .. } = results;
    _ = write!(out, "## {title}\n\n{about}");
    if *threads > cores {
        _ = write!(
            out,
            " {threads} threads share {cores} cores: this table measures the system's scheduler as \
             much as the buffers."
        );
    }
    out.push_str("\n\n");
    let base = &rows[0];
    let by = format!("times {}", base.label());
    let mut table = table(["competitor", "caps", &format!("ns a {unit}"), &by]);
    for row in rows {
        let Spread { low, median, high, .. } = row.time();
        table.add_row([
            row.label(),
            row.of.caps.to_string(),
            format!("{} ({} to {})", brief(median), brief(low), brief(high)),
            ratio(row.ratio_to(base)),
        ]);
    }
    _ = write!(out, "{table}\n\n");
}

/// The median and the extremes; the first row's ratio to itself has none.
fn ratio(Spread { least, median, greatest, .. }: Spread) -> String {
    if least == greatest {
        brief(median)
    } else {
        format!("{} ({} to {})", brief(median), brief(least), brief(greatest))
    }
}

/// Three significant digits.
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
         One producer pushes records of 104 bytes at a fixed rate, and one worker takes up to 100 at a \
         time; it polls. A time counts from the moment at which the rate makes a record due, so that \
         every record shows the stall that delays it; it is exact to 1 %. The rates are shares of what \
         the slowest competitor sustains, where each record is due as soon as the push before it has \
         returned, readings of the clock included:\n\n",
    );
    let mut sustained = table(["competitor", "records a second"]);
    for (competitor, rate) in &latency.sustained {
        sustained.add_row([competitor.clone(), thousands(*rate)]);
    }
    _ = write!(
        out,
        "{sustained}\n\n\
         The times are in microseconds, medians over the turns; in brackets the least and the \
         greatest.\n\n"
    );
    for load in &latency.loads {
        _ = write!(
            out,
            "### At {} % of the load, {} records a second\n\n",
            load.percent,
            thousands(load.rate)
        );
        let base = &load.rows[0];
        let by = format!("times {}", label(base.of, base.variant));
        let mut times = table(["competitor", "caps", "", "p50", "p99", "p99.9", "maximum", &by]);
        for row in &load.rows {
            let caps = row.of.caps.to_string();
            let name = label(row.of, row.variant);
            times.add_row(cells([&name, &caps, "push"], &row.push, &base.push));
            times.add_row(cells(["", "", "push to batch"], &row.through, &base.through));
        }
        _ = write!(out, "{times}\n\n");
    }
    out.push_str("The ratios are of p99.9, turn by turn.\n\n");
}

fn cells(head: [&str; 3], times: &Times, base: &Times) -> Vec<String> {
    let Times { p50, p99, p999, max } = times;
    let mut cells: Vec<String> = head.map(str::to_owned).into();
    let Spread { least, median, greatest, .. } = Spread::of(p999.clone());
    let p999_cell = format!("{} ({} to {})", micros(median), micros(least), micros(greatest));
    let by = ratio(Spread::of_ratios(p999, &base.p999));
    cells.extend([micros(*p50), micros(*p99), p999_cell, micros(*max), by]);
    cells
}

fn micros(nanos: f64) -> String {
    brief(nanos / 1e3)
}

fn wake_up_section(out: &mut String, rows: &[wake_up::Row]) {
    out.push_str(
        "## Wake-up\n\n\
         A worker waits for records and takes each as it comes. A producer sleeps a millisecond, \
         pushes a record of 104 bytes, and so wakes the worker. In microseconds, medians over the \
         turns: the push, and from the start of the push until the worker holds the record.\n\n",
    );
    let base = &rows[0];
    let by = format!("times {}", label(base.of, base.variant));
    let header =
        ["competitor", "caps", "push p50", "push p99", "to batch p50", "to batch p99", &by];
    let mut table = table(header);
    for row in rows {
        table.add_row([
            label(row.of, row.variant),
            row.of.caps.to_string(),
            micros(row.push.p50),
            micros(row.push.p99),
            micros(row.through.p50),
            micros(row.through.p99),
            brief(row.through.p50 / base.through.p50),
        ]);
    }
    _ = write!(out, "{table}\n\nThe ratios are of the median from push to batch.\n\n");
}

fn memory_section(out: &mut String, memory: &Memory) {
    out.push_str(
        "## Memory\n\nThe heap bytes of what is empty and has room for 10,000 records of 104 bytes.\n\n",
    );
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

/// A whole number with separators.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}
