//! The comparisons with which the report begins, and the goals of the library for them.

use crate::competitors::mutex::MUTEX;
use crate::competitors::tokio::TOKIO;
use crate::competitors::{Caps, Description};
use crate::latency::Latency;
use crate::measure::{Results, Row, Spread};
use crate::memory::Memory;

pub struct Goal {
    pub work: &'static str,
    pub against: String,
    pub aim: Aim,
    /// The other's time by that of the library if the aim is to be faster, and the reverse
    /// otherwise.
    pub measured: Option<Spread>,
}

#[derive(Clone, Copy)]
pub enum Aim {
    /// So many times as fast as the other, or more.
    Faster(f64),
    /// So many times the other's time or memory, or less.
    AtMost(f64),
}

impl Goal {
    pub fn goal(&self) -> String {
        match self.aim {
            Aim::Faster(times) => format!("{times} times as fast"),
            Aim::AtMost(1.0) => "no more".to_owned(),
            Aim::AtMost(times) => format!("at most {times} times"),
        }
    }

    pub fn measured(&self) -> String {
        let Some(Spread { least, median, greatest, .. }) = self.measured else {
            return "not measured".to_owned();
        };
        let range = if least == greatest {
            String::new()
        } else {
            format!(" ({least:.2} to {greatest:.2})")
        };
        match self.aim {
            Aim::Faster(_) => format!("{median:.2} times as fast{range}"),
            Aim::AtMost(_) => format!("{median:.2} times as much{range}"),
        }
    }

    /// Whether the median reaches the goal.
    pub fn reached(&self) -> Option<bool> {
        let median = self.measured?.median;
        Some(match self.aim {
            Aim::Faster(goal) => median >= goal,
            Aim::AtMost(goal) => median <= goal,
        })
    }
}

const HUNDREDS: &str = "100 single records in by a producer, up to 100 out, one thread";
const ONE_AND_ONE: &str = "single records, one producer and one worker on two threads";
const TWO_AND_TWO: &str = "the same, 2 producers and 2 workers";
const FOUR_AND_FOUR: &str = "the same, 4 producers and 4 workers";
const WAITING: &str = "one producer and one worker that wait, lingering";
const BATCH: &str = "100 in and out as one batch, one thread";
const SINGLE: &str = "one record in and out by the shared handle, one thread";
const LATENCY: &str = "p99.9 from push to batch at 50 % load, one producer and one worker";

const PRODUCER: &str = "conveyor-buffer, producer";
const LINGERING: &str = "conveyor-buffer, producer, lingering";
const BATCHES: &str = "conveyor-buffer, batches";
const SHARED_HANDLE: &str = "conveyor-buffer, shared handle";
const BY_NAME: &str = "conveyor-buffer, by name";
const GROWN: &str = "conveyor-buffer, 10,000 sources and 100 stages";
const REFUSED: &str = "conveyor-buffer, refused";

/// The rows of one workload, each with a goal: the work, the table, and the library's row.
struct Work<'a> {
    title: &'static str,
    results: Option<&'a Results>,
    ours: &'static str,
}

impl Work<'_> {
    fn goal(&self, against: &str, aim: Aim) -> Goal {
        let row = self.results.and_then(|results| results.find(against));
        self.goal_for(row, against.to_owned(), aim)
    }

    fn faster(&self, against: &str, times: f64) -> Goal {
        self.goal(against, Aim::Faster(times))
    }

    fn at_most(&self, against: &str, times: f64) -> Goal {
        self.goal(against, Aim::AtMost(times))
    }

    /// A goal against the fastest competitor without caps, other than `but`.
    fn faster_than_any_without_caps(&self, but: &[&str], times: f64) -> Goal {
        let without = |row: &&Row| {
            let keeps_none = matches!(row.of.caps, Caps::Length | Caps::LengthPerProducer);
            keeps_none && !but.contains(&row.of.name)
        };
        let rows = self.results.into_iter().flat_map(|results| &results.rows);
        let fastest = rows
            .filter(without)
            .min_by(|one, other| one.time().median.total_cmp(&other.time().median));
        let name = fastest.map_or_else(|| "any".to_owned(), Row::label);
        self.goal_for(fastest, format!("{name}, the fastest without caps"), Aim::Faster(times))
    }

    fn goal_for(&self, row: Option<&Row>, against: String, aim: Aim) -> Goal {
        let ours = self.results.and_then(|results| results.find(self.ours));
        let measured = row.zip(ours).map(|(row, ours)| match aim {
            Aim::Faster(_) => row.ratio_to(ours),
            Aim::AtMost(_) => ours.ratio_to(row),
        });
        Goal { work: self.title, against, aim, measured }
    }
}

pub fn all(results: &[Results], latency: Option<&Latency>, memory: Option<&Memory>) -> Vec<Goal> {
    let work = |title, id, ours| {
        let results = results.iter().find(|results| results.id == id);
        Work { title, results, ours }
    };
    let latency = |theirs: Description| Goal {
        work: LATENCY,
        against: theirs.name.to_owned(),
        aim: Aim::AtMost(1.0),
        measured: latency.and_then(|latency| Some(latency.ratio(50, theirs)?.inverse())),
    };

    let hundreds = work(HUNDREDS, "hundreds-104", PRODUCER);
    let one_and_one = work(ONE_AND_ONE, "flow-1-1", PRODUCER);
    let two_and_two = work(TWO_AND_TWO, "flow-2-2", PRODUCER);
    let four_and_four = work(FOUR_AND_FOUR, "flow-4-4", PRODUCER);
    let waiting = work(WAITING, "waits-1-1", LINGERING);
    let batch = work(BATCH, "batch-104", BATCHES);
    let single = work(SINGLE, "single-104", SHARED_HANDLE);
    let one_by_name = work("by name, one record in and out", "name-1", BY_NAME);
    let hundred_by_name = work("by name, 100 records in and out", "name-100", BY_NAME);
    let growth = work("10,000 sources and 100 stages in turn, beside one of each", "growth", GROWN);
    let refusal = work("a refusal at the global cap, 10,000 sources", "refusal", REFUSED);
    let mut goals = vec![
        hundreds.at_most("rtrb", 1.0),
        hundreds.faster("raw ArrayQueue", 2.5),
        hundreds.faster("mutex", 2.3),
        hundreds.faster("fanring", 1.25),
        one_and_one.at_most("rtrb", 1.0),
        one_and_one.faster("mutex", 1.5),
        one_and_one.faster_than_any_without_caps(&["rtrb"], 1.0),
    ];
    for flow in [two_and_two, four_and_four] {
        goals.extend([
            flow.faster("mutex", 4.0),
            flow.faster("fanring", 2.0),
            flow.faster("crossbeam-channel", 5.0),
        ]);
    }
    goals.extend([
        waiting.faster("mutex, lingering", 2.5),
        waiting.faster("mutex, as it comes", 2.5),
        waiting.faster_than_any_without_caps(&[], 2.0),
        batch.faster("raw ArrayQueue", 30.0),
        batch.faster("tokio", 35.0),
        batch.faster("mutex", 15.0),
        single.at_most("raw ArrayQueue", 2.6),
        single.at_most("mutex, same promises", 1.0),
        latency(MUTEX),
        latency(TOKIO),
    ]);
    if cfg!(feature = "conveyor-etl-buffer") {
        goals.push(one_by_name.faster("conveyor-etl-buffer", 1.3));
        goals.push(hundred_by_name.faster("conveyor-etl-buffer", 12.0));
    }
    goals.extend([
        growth.at_most("conveyor-buffer", 1.5),
        refusal.at_most("conveyor-buffer", 1.0),
        Goal {
            work: "memory of an idle stage of 10,000 records of 104 bytes",
            against: "a raw ring of such records".to_owned(),
            aim: Aim::AtMost(1.3),
            measured: memory.map(|memory| Spread::of(vec![memory.stage / memory.ring])),
        },
    ]);
    goals
}
