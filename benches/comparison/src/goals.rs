//! The goals of the library, beside what this run measured.

use crate::competitors::Description;
use crate::competitors::channels::RING;
use crate::competitors::conveyor::{BATCHES, CONVEYOR, SHARED_HANDLE};
use crate::competitors::mutex::{MUTEX, SETTLED};
use crate::competitors::tokio::TOKIO;
#[cfg(feature = "conveyor-etl-buffer")]
use crate::competitors::{conveyor::BY_NAME, etl::ETL};
use crate::latency::Latency;
use crate::measure::{Results, Spread};
use crate::memory::Memory;
use crate::workloads::{MANY, REFUSED};

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
            Aim::AtMost(_) => format!("{median:.2} times{range}"),
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

const SINGLE: &str = "one record in and out, one thread";
const BATCH: &str = "100 in and out as one batch, one thread";
const LATENCY: &str = "p99.9 from push to batch at 50 % load, one producer and one worker";

pub fn all(results: &[Results], latency: Option<&Latency>, memory: Option<&Memory>) -> Vec<Goal> {
    let row = |id: &str, of: Description, variant: &str| {
        results.iter().find(|results| results.id == id)?.find(of, variant)
    };
    // Two rows of one table, each a competitor and its variant: the time of the one by the other's.
    let ratio = |id, (of, variant), (base, base_variant)| {
        Some(row(id, of, variant)?.ratio_to(row(id, base, base_variant)?))
    };
    let faster = |work, id, ours, theirs: Description, times| Goal {
        work,
        against: theirs.name.to_owned(),
        aim: Aim::Faster(times),
        measured: ratio(id, (theirs, ""), (CONVEYOR, ours)),
    };
    let at_most = |work, id, ours, theirs: Description, times| Goal {
        work,
        against: theirs.name.to_owned(),
        aim: Aim::AtMost(times),
        measured: ratio(id, (CONVEYOR, ours), (theirs, "")),
    };
    let latency = |theirs: Description| Goal {
        work: LATENCY,
        against: theirs.name.to_owned(),
        aim: Aim::AtMost(1.0),
        measured: latency.and_then(|latency| Some(latency.ratio(50, theirs)?.inverse())),
    };
    vec![
        faster(BATCH, "batch-104", BATCHES, RING, 30.0),
        faster(BATCH, "batch-104", BATCHES, TOKIO, 35.0),
        faster(BATCH, "batch-104", BATCHES, MUTEX, 15.0),
        at_most(SINGLE, "single-104", SHARED_HANDLE, RING, 2.6),
        at_most(SINGLE, "single-104", SHARED_HANDLE, SETTLED, 1.0),
        latency(MUTEX),
        latency(TOKIO),
        #[cfg(feature = "conveyor-etl-buffer")]
        faster("by name, one record", "name-1", BY_NAME, ETL, 1.3),
        #[cfg(feature = "conveyor-etl-buffer")]
        faster("by name, 100 records", "name-100", BY_NAME, ETL, 12.0),
        Goal {
            work: "10,000 sources and 100 stages, round robin",
            against: "one source and one stage".to_owned(),
            aim: Aim::AtMost(1.5),
            measured: ratio("growth", (CONVEYOR, MANY), (CONVEYOR, "")),
        },
        Goal {
            work: "a refusal at the global cap, 10,000 sources",
            against: "a push that is accepted".to_owned(),
            aim: Aim::AtMost(1.0),
            measured: ratio("refusal", (CONVEYOR, REFUSED), (CONVEYOR, "")),
        },
        Goal {
            work: "memory of an idle stage of 10,000 records of 104 bytes",
            against: "a raw ring of such records".to_owned(),
            aim: Aim::AtMost(1.3),
            measured: memory.map(|memory| Spread::of(vec![memory.stage / memory.ring])),
        },
    ]
}
