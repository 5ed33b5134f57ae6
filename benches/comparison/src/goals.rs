//! What the library sets out to reach, and whether it did in this run.

use crate::latency::Latency;
use crate::measure::Results;
use crate::memory::Memory;
use crate::workloads::{CONVEYOR, CROSSBEAM, MANY, MUTEX, REFUSED, RING, TOKIO};

pub struct Goal {
    pub work: &'static str,
    pub against: &'static str,
    pub aim: Aim,
    pub measured: Option<f64>,
}

#[derive(Clone, Copy)]
pub enum Aim {
    /// So many times as fast as the other, or more.
    Faster(f64),
    /// One part in so many of the other, or less.
    Lower(f64),
    /// So many times the other's, or less.
    AtMost(f64),
}

impl Goal {
    pub fn goal(&self) -> String {
        match self.aim {
            Aim::Faster(times) => format!("{times} times as fast"),
            Aim::Lower(times) => format!("a part in {times}"),
            Aim::AtMost(1.0) => "no dearer".to_owned(),
            Aim::AtMost(times) => format!("at most {times} times"),
        }
    }

    pub fn measured(&self) -> String {
        match (self.measured, self.aim) {
            (None, _) => "not measured".to_owned(),
            (Some(times), Aim::Faster(_)) => format!("{times:.2} times as fast"),
            (Some(times), Aim::Lower(_)) => format!("a part in {times:.2}"),
            (Some(times), Aim::AtMost(_)) => format!("{times:.2} times"),
        }
    }

    pub fn verdict(&self) -> String {
        let Some(measured) = self.measured else { return String::new() };
        let missed = match self.aim {
            Aim::Faster(goal) | Aim::Lower(goal) => 1.0 - measured / goal,
            Aim::AtMost(goal) => measured / goal - 1.0,
        };
        if missed <= 0.0 {
            "reached".to_owned()
        } else {
            format!("missed by {:.0} %", (100.0 * missed).max(1.0))
        }
    }
}

const SINGLE: &str = "one record in and out, one thread";
const BATCH: &str = "100 in and out as one batch, one thread";
const FLOW: &str = "single records in, 100 out, two threads";
const PUSH: &str = "p99.9 of a push at 90 % load, 2 producers and 2 workers";

pub fn all(results: &[Results], latency: Option<&Latency>, memory: Option<&Memory>) -> Vec<Goal> {
    // How many times the time of the table's first row another one takes.
    let ratio = |id: &str, competitor: &str, variant: &str| {
        let results = results.iter().find(|results| results.id == id)?;
        Some(results.find(competitor, variant)?.ratio.median)
    };
    let faster = |work, against, times, id| Goal {
        work,
        against,
        aim: Aim::Faster(times),
        measured: ratio(id, against, ""),
    };
    let push = |against| {
        let p999 = |competitor| Some(latency?.at_same_rate(90, competitor)?.push.p999.median);
        Goal {
            work: PUSH,
            against,
            aim: Aim::Lower(3.0),
            measured: p999(against).zip(p999(CONVEYOR.name)).map(|(theirs, ours)| theirs / ours),
        }
    };
    let etl = "conveyor-etl-buffer";
    vec![
        Goal {
            work: SINGLE,
            against: RING.name,
            aim: Aim::AtMost(1.9),
            measured: ratio("single-104", RING.name, "").map(f64::recip),
        },
        faster(SINGLE, MUTEX.name, 1.9, "single-104"),
        faster(SINGLE, TOKIO.name, 2.6, "single-104"),
        faster(BATCH, MUTEX.name, 25.0, "batch-104"),
        faster(BATCH, RING.name, 20.0, "batch-104"),
        faster(BATCH, TOKIO.name, 35.0, "batch-104"),
        faster(FLOW, MUTEX.name, 6.0, "flow-1-1"),
        faster(FLOW, CROSSBEAM.name, 4.0, "flow-1-1"),
        faster("by name, one record", etl, 2.0, "name-1"),
        faster("by name, 100 records", etl, 10.0, "name-100"),
        Goal {
            work: "10,000 sources and 100 stages, round robin",
            against: "one source and one stage",
            aim: Aim::AtMost(1.5),
            measured: ratio("growth", CONVEYOR.name, MANY),
        },
        Goal {
            work: "a refusal at the global cap, 10,000 sources",
            against: "a push that is accepted",
            aim: Aim::AtMost(1.0),
            measured: ratio("refusal", CONVEYOR.name, REFUSED),
        },
        push(MUTEX.name),
        push(TOKIO.name),
        Goal {
            work: "memory of an idle stage of 10,000 records of 104 bytes",
            against: "a raw ring of such records",
            aim: Aim::AtMost(1.3),
            measured: memory.map(|memory| memory.stage / memory.ring),
        },
    ]
}
