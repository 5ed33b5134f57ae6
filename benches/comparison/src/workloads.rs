//! The workloads, and the tables of their competitors.

use std::marker::PhantomData;

use crate::common::blocking::BlockingCompetitor;
use crate::common::work::{self, Competitor, Flow};
use crate::common::{BATCH, Large, Medium, Small, Sourced};
use crate::competitors::{self, BlockingRows, Description, Rows};
use crate::measure::{Entry, Run, Workload};

const MANY: &str = "10,000 sources and 100 stages";
const REFUSED: &str = "refused";

/// A worker that is the slower side does about this much work for each record, in cycles.
const SLOW: u32 = 300;

/// Work that any competitor can be given.
trait Job: Copy + 'static {
    fn build<R, C>(self) -> Run
    where
        R: Sourced,
        C: Competitor<R, Producer: 'static, Consumer: 'static> + 'static;
}

macro_rules! jobs {
    ($($job:ident $(($field:ty))?: |$self:ident| $build:expr;)*) => {$(
        #[derive(Clone, Copy)]
        struct $job $(($field))?;

        impl Job for $job {
            fn build<R, C>($self) -> Run
            where
                R: Sourced,
                C: Competitor<R, Producer: 'static, Consumer: 'static> + 'static,
            {
                Box::new($build)
            }
        }
    )*};
}

jobs! {
    OneAtATime: |self| work::one_at_a_time::<R, C>();
    Hundreds: |self| work::hundreds::<R, C>();
    Batches: |self| work::batches::<R, C>();
    RoundRobin((usize, usize)): |self| work::round_robin::<R, C>(self.0.0, self.0.1);
    Accepted: |self| work::accepted::<R, C>();
    Refused: |self| work::refused::<R, C>();
    Threads(Flow): |self| move |records| self.0.run::<R, C>(records);
}

/// A table of the times that a job takes.
struct Times<R, J> {
    job: J,
    entries: Vec<Entry>,
    records: PhantomData<R>,
}

impl<R: Sourced, J: Job> Rows<R> for Times<R, J> {
    fn add<C>(&mut self, of: Description, variant: &'static str)
    where
        C: Competitor<R, Producer: 'static, Consumer: 'static> + 'static,
    {
        let job = self.job;
        self.entries.push(Entry { of, variant, build: Box::new(move || job.build::<R, C>()) });
    }
}

fn times<R: Sourced, J: Job>(job: J, list: fn(&mut Times<R, J>)) -> Vec<Entry> {
    let mut table = Times { job, entries: Vec::new(), records: PhantomData };
    list(&mut table);
    table.entries
}

/// A table with two rows for each competitor, one for each job.
struct Pairs<J, K> {
    job: J,
    other: K,
    variant: &'static str,
    entries: Vec<Entry>,
}

impl<J: Job, K: Job> Rows<Medium> for Pairs<J, K> {
    fn add<C>(&mut self, of: Description, _variant: &'static str)
    where
        C: Competitor<Medium, Producer: 'static, Consumer: 'static> + 'static,
    {
        let Self { job, other, variant, .. } = *self;
        let build = Box::new(move || job.build::<Medium, C>());
        self.entries.push(Entry { of, variant: "", build });
        let build = Box::new(move || other.build::<Medium, C>());
        self.entries.push(Entry { of, variant, build });
    }
}

fn pairs<J: Job, K: Job>(
    job: J,
    (variant, other): (&'static str, K),
    list: fn(&mut Pairs<J, K>),
) -> Vec<Entry> {
    let mut table = Pairs { job, other, variant, entries: Vec::new() };
    list(&mut table);
    table.entries
}

/// A table of the times that a flow takes by calls that wait.
struct Blocking {
    flow: Flow,
    entries: Vec<Entry>,
}

impl BlockingRows for Blocking {
    fn add<C: BlockingCompetitor<Medium> + 'static>(
        &mut self,
        of: Description,
        variant: &'static str,
    ) {
        let flow = self.flow;
        let run = move |records| flow.run_blocking::<Medium, C>(records);
        self.entries.push(Entry { of, variant, build: Box::new(move || Box::new(run)) });
    }
}

fn blocking(flow: Flow, list: fn(&mut Blocking)) -> Vec<Entry> {
    let mut table = Blocking { flow, entries: Vec::new() };
    list(&mut table);
    table.entries
}

/// All workloads, in the order of the report.
pub fn all() -> Vec<Workload> {
    let mut all = Vec::new();
    one_thread::<Medium>(["hundreds-104", "single-104", "batch-104"], &mut all);
    threads(&mut all);
    waiting(&mut all);
    at_the_cap(&mut all);
    one_thread::<Small>(["hundreds-8", "single-8", "batch-8"], &mut all);
    one_thread::<Large>(["hundreds-328", "single-328", "batch-328"], &mut all);
    all.push(Workload {
        id: "growth",
        title: "Growth: one record in and out, the next source and stage each time".to_owned(),
        about: "One thread, records of 104 bytes, default caps. The first row is of one source and \
                one stage. The raw ring shows what the memory of 100 rings costs by itself.",
        unit: "record",
        threads: 1,
        entries: pairs(RoundRobin((1, 1)), (MANY, RoundRobin((10_000, 100))), |rows| {
            competitors::with_all_caps(rows);
            competitors::channels::ring(rows);
        }),
    });
    all.push(Workload {
        id: "refusal",
        title: "Refusal: a push at the global cap".to_owned(),
        about: "One thread, records of 104 bytes, 10,000 sources that push in turn. The first row is \
                of a push that is accepted, in a buffer of the same shape that is less than half \
                full.",
        unit: "push",
        threads: 1,
        entries: pairs(Accepted, (REFUSED, Refused), competitors::with_all_caps),
    });
    #[cfg(feature = "conveyor-etl-buffer")]
    by_name(&mut all);
    all
}

fn one_thread<R: Sourced>([hundreds, single, batch]: [&'static str; 3], all: &mut Vec<Workload>) {
    let bytes = size_of::<R>();
    all.push(Workload {
        id: hundreds,
        title: format!("100 single records of {bytes} bytes in, up to 100 out, one thread"),
        about: "A thread makes and pushes 100 records one by one, and then takes, reads and settles \
                them, up to 100 at a time.",
        unit: "record",
        threads: 1,
        entries: times::<R, _>(Hundreds, competitors::one_to_one),
    });
    all.push(Workload {
        id: single,
        title: format!("One record of {bytes} bytes in and out, one thread"),
        about: "A record is made, pushed, taken and settled, and then the next: nothing can be \
                gathered.",
        unit: "record",
        threads: 1,
        entries: times::<R, _>(OneAtATime, competitors::one_at_a_time),
    });
    all.push(Workload {
        id: batch,
        title: format!("100 records of {bytes} bytes in and out as one batch, one thread"),
        about: "A `Vec` of 100 records goes in and comes out, again and again. Competitors without \
                batches push and take each record.",
        unit: "record",
        threads: 1,
        entries: times::<R, _>(Batches, competitors::batches_one_to_one),
    });
}

fn threads(all: &mut Vec<Workload>) {
    let mut add = |id, title: &str, flow: Flow| {
        let list = match (flow.workers, flow.push) {
            (1, 1) => competitors::one_to_one,
            (_, 1) => competitors::many_to_many,
            _ => competitors::batches_many_to_many,
        };
        all.push(Workload {
            id,
            title: title.to_owned(),
            about: "Records of 104 bytes through one stage. A thread that finds the buffer full or \
                    empty tries again after a while, in the same way for all.",
            unit: "record",
            threads: flow.threads(),
            entries: times::<Medium, _>(Threads(flow), list),
        });
    };
    let flow = Flow::at_one_stage;
    add("flow-1-1", "Single records in, up to 100 out, two threads", flow(1, 1, 1));
    add("flow-2-2", "Single records in, up to 100 out, 2 producers and 2 workers", flow(2, 2, 1));
    add("flow-4-4", "Single records in, up to 100 out, 4 producers and 4 workers", flow(4, 4, 1));
    add("flow-batches", "100 in, up to 100 out, 2 producers and 2 workers", flow(2, 2, BATCH));
}

/// By calls that wait. A raw ring has none.
fn waiting(all: &mut Vec<Workload>) {
    let mut add = |id, title: &str, threads| {
        let flow = Flow::at_one_stage(threads, threads, 1);
        let list = if threads == 1 {
            competitors::blocking_one_to_one
        } else {
            competitors::blocking_many_to_many
        };
        all.push(Workload {
            id,
            title: title.to_owned(),
            about: "Records of 104 bytes through one stage, by calls in which a thread sleeps that \
                    finds the buffer full or empty. Workers that linger wait for a full batch, 100 µs \
                    at most; the others wait for one record and take what else is there. The \
                    channels have no call to linger.",
            unit: "record",
            threads: flow.threads(),
            entries: blocking(flow, list),
        });
    };
    add("waits-1-1", "Waiting: single records in, up to 100 out, two threads", 1);
    add("waits-2-2", "Waiting: single records in, up to 100 out, 2 producers and 2 workers", 2);
    add("waits-4-4", "Waiting: single records in, up to 100 out, 4 producers and 4 workers", 4);
}

/// A producer that is always at its cap, since the worker is slower.
fn at_the_cap(all: &mut Vec<Workload>) {
    let flow = Flow { work: SLOW, ..Flow::at_one_stage(1, 1, 1) };
    all.push(Workload {
        id: "cap-1-1",
        title: "At the cap: single records in, up to 100 out, two threads, a slow worker".to_owned(),
        about: "The worker computes for about 0.1 µs on each record, so that the source is at its \
                cap (a channel: at its length) nearly all the time. The producer tries again after a \
                while.",
        unit: "record",
        threads: flow.threads(),
        entries: times::<Medium, _>(Threads(flow), competitors::one_to_one),
    });
    all.push(Workload {
        id: "cap-waits-1-1",
        title: "At the cap, waiting: single records in, up to 100 out, two threads, a slow worker"
            .to_owned(),
        about: "The same by calls that wait.",
        unit: "record",
        threads: flow.threads(),
        entries: blocking(flow, competitors::blocking_one_to_one),
    });
}

#[cfg(feature = "conveyor-etl-buffer")]
fn by_name(all: &mut Vec<Workload>) {
    use crate::competitors::conveyor::{BY_NAME, CONVEYOR};
    use crate::competitors::etl::{self, ETL};

    let mut add = |id, title: &str, together| {
        all.push(Workload {
            id,
            title: title.to_owned(),
            about: "One thread, through the calls by name that both crates have, with the records \
                    of `conveyor-etl-buffer`. The records are reused.",
            unit: "record",
            threads: 1,
            entries: vec![
                Entry {
                    of: CONVEYOR,
                    variant: BY_NAME,
                    build: Box::new(move || Box::new(etl::conveyor_buffer(together))),
                },
                Entry {
                    of: ETL,
                    variant: "",
                    build: Box::new(move || Box::new(etl::conveyor_etl_buffer(together))),
                },
            ],
        });
    };
    add("name-1", "By name: one record in and out", 1);
    add("name-100", "By name: 100 records in and out as one batch", BATCH);
}
