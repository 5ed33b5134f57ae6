//! Which work is measured, and by whom it is done.

use crate::common::blocking::BlockingCompetitor;
use crate::common::conveyor::Conveyor;
use crate::common::work::{self, Flow};
use crate::common::{BATCH, Large, Medium, Small, Sourced};
use crate::competitors::channels::{
    AsyncChannel, Crossbeam, Crossfire, CrossfireSingle, Flume, Kanal, Rings,
};
use crate::competitors::fanring::{Fanring, FanringMany};
use crate::competitors::mutex::Locked;
use crate::competitors::tokio::Tokio;
use crate::measure::{Description, Entry, Run, Workload};

const ALL_CAPS: &str = "all three";
const NO_CAPS: &str = "none but its length";

pub const CONVEYOR: Description = Description {
    name: "conveyor-buffer",
    package: "conveyor-buffer",
    caps: ALL_CAPS,
    how: "by handle: `try_send`, `try_send_batch`, `try_recv_batch`, `ack`, `into_records`; \
          `send_blocking`, `recv_batch_within_blocking`",
};
pub const RING: Description = Description {
    name: "raw ArrayQueue",
    package: "crossbeam-queue",
    caps: NO_CAPS,
    how: "`push` and `pop`: the limit",
};
pub const MUTEX: Description = Description {
    name: "mutex",
    package: "parking_lot",
    caps: ALL_CAPS,
    how: "one `Mutex` around all counts and a `VecDeque` for each stage; a batch takes the lock \
          once; two `Condvar`s to wait",
};
pub const TOKIO: Description = Description {
    name: "tokio",
    package: "tokio",
    caps: ALL_CAPS,
    how: "a bounded `mpsc` and two `Semaphore`s; `try_reserve_many` and `recv_many` for batches; \
          to wait, `reserve` under `pollster::block_on` where it is full, and `blocking_recv_many`",
};
pub const CROSSBEAM: Description = Description {
    name: "crossbeam-channel",
    package: "crossbeam-channel",
    caps: NO_CAPS,
    how: "`try_send` and `try_recv`; `send` and `recv` to wait",
};
const FLUME: Description = Description {
    name: "flume",
    package: "flume",
    caps: NO_CAPS,
    how: "`try_send` and `try_recv`; `drain` for batches; `send` and `recv` to wait",
};
const KANAL: Description = Description {
    name: "kanal",
    package: "kanal",
    caps: NO_CAPS,
    how: "`try_send_option` and `try_recv`; `drain_into` for batches; `send` and `recv` to wait",
};
const ASYNC_CHANNEL: Description = Description {
    name: "async-channel",
    package: "async-channel",
    caps: NO_CAPS,
    how: "`try_send` and `try_recv`; `send_blocking` and `recv_blocking` to wait",
};
const CROSSFIRE: Description = Description {
    name: "crossfire",
    package: "crossfire",
    caps: NO_CAPS,
    how: "`mpsc` for one worker, `mpmc` for many; `detect_backoff_cfg` first; `send` and `recv` to \
          wait",
};
const FANRING: Description = Description {
    name: "fanring",
    package: "fanring",
    caps: "none but its length, for each producer",
    how: "`mpsc` for one worker, with `try_send_deferred`, `flush` and `try_recv_batch_into` for \
          batches; `mpmc` for many; `send`, `recv` and `recv_batch_into` to wait",
};
#[cfg(feature = "conveyor-etl-buffer")]
pub const ETL: Description = Description {
    name: "conveyor-etl-buffer",
    package: "conveyor-etl-buffer",
    caps: "its stage; all records nearly; none per source",
    how: "by name",
};

pub const MANY: &str = "10,000 sources and 100 stages";
pub const REFUSED: &str = "refused";

/// Work that any competitor can be given.
trait Job: Copy + 'static {
    fn build<R: Sourced, C: work::Competitor<R, Producer: 'static, Consumer: 'static> + 'static>(
        self,
    ) -> Run;
}

fn row<R: Sourced, C: work::Competitor<R, Producer: 'static, Consumer: 'static> + 'static>(
    competitor: Description,
    variant: &'static str,
    job: impl Job,
) -> Entry {
    Entry { competitor, variant, build: Box::new(move || job.build::<R, C>()) }
}

/// All that can be drained by one thread.
fn one_worker<R: Sourced>(job: impl Job) -> Vec<Entry> {
    vec![
        row::<R, Conveyor<R>>(CONVEYOR, "", job),
        row::<R, Rings<R>>(RING, "", job),
        row::<R, Locked<R>>(MUTEX, "", job),
        row::<R, Tokio<R>>(TOKIO, "", job),
        row::<R, Crossbeam<R>>(CROSSBEAM, "", job),
        row::<R, Flume<R>>(FLUME, "", job),
        row::<R, Kanal<R>>(KANAL, "", job),
        row::<R, AsyncChannel<R>>(ASYNC_CHANNEL, "", job),
        row::<R, CrossfireSingle<R>>(CROSSFIRE, "", job),
        row::<R, Fanring<R>>(FANRING, "", job),
    ]
}

/// All that can be drained by several threads.
fn many_workers<R: Sourced>(job: impl Job) -> Vec<Entry> {
    vec![
        row::<R, Conveyor<R>>(CONVEYOR, "", job),
        row::<R, Rings<R>>(RING, "", job),
        row::<R, Locked<R>>(MUTEX, "", job),
        row::<R, Tokio<R>>(TOKIO, "", job),
        row::<R, Crossbeam<R>>(CROSSBEAM, "", job),
        row::<R, Flume<R>>(FLUME, "", job),
        row::<R, Kanal<R>>(KANAL, "", job),
        row::<R, AsyncChannel<R>>(ASYNC_CHANNEL, "", job),
        row::<R, Crossfire<R>>(CROSSFIRE, "", job),
        row::<R, FanringMany<R>>(FANRING, "", job),
    ]
}

/// Those that keep all three caps, in two variants each.
fn with_caps<R: Sourced>(
    (one, job_one): (&'static str, impl Job),
    (other, job_other): (&'static str, impl Job),
) -> Vec<Entry> {
    vec![
        row::<R, Conveyor<R>>(CONVEYOR, one, job_one),
        row::<R, Conveyor<R>>(CONVEYOR, other, job_other),
        row::<R, Locked<R>>(MUTEX, one, job_one),
        row::<R, Locked<R>>(MUTEX, other, job_other),
        row::<R, Tokio<R>>(TOKIO, one, job_one),
        row::<R, Tokio<R>>(TOKIO, other, job_other),
    ]
}

/// Those that keep all three caps, and the ring that they stand on.
fn growth(one: impl Job, many: impl Job) -> Vec<Entry> {
    let mut entries = with_caps::<Medium>(("", one), (MANY, many));
    entries.push(row::<Medium, Rings<Medium>>(RING, "", one));
    entries.push(row::<Medium, Rings<Medium>>(RING, MANY, many));
    entries
}

macro_rules! jobs {
    ($($(#[$doc:meta])* $job:ident $(($field:ty))?: |$self:ident| $build:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy)]
        struct $job $(($field))?;

        impl Job for $job {
            fn build<
                R: Sourced,
                C: work::Competitor<R, Producer: 'static, Consumer: 'static> + 'static,
            >(
                $self,
            ) -> Run {
                Box::new($build)
            }
        }
    )*};
}

jobs! {
    OneAtATime: |self| work::one_at_a_time::<R, C>();
    Batches: |self| work::batches::<R, C>();
    RoundRobin((usize, usize)): |self| work::round_robin::<R, C>(self.0.0, self.0.1);
    Accepted: |self| work::accepted::<R, C>();
    Refused: |self| work::refused::<R, C>();
    Threads(Flow): |self| move |records| self.0.run::<R, C>(records);
}

/// Everything, in the order of the report.
pub fn all() -> Vec<Workload> {
    let mut all = Vec::new();
    single_thread::<Medium>(["single-104", "batch-104"], &mut all);
    threads(&mut all);
    waiting(&mut all);
    single_thread::<Small>(["single-8", "batch-8"], &mut all);
    single_thread::<Large>(["single-328", "batch-328"], &mut all);
    all.push(Workload {
        id: "growth",
        title: "Growth: one record in and out, the next source and stage each time".to_owned(),
        about: "One thread, records of 104 bytes, default caps. The table compares with one source \
                and one stage. The raw ring shows what the memory of 100 rings costs by itself.",
        unit: "record",
        entries: growth(RoundRobin((1, 1)), RoundRobin((10_000, 100))),
    });
    all.push(Workload {
        id: "refusal",
        title: "Refusal: a push at the global cap".to_owned(),
        about: "One thread, records of 104 bytes, 10,000 sources that push in turn. The table \
                compares with a push that is accepted, in a buffer of the same shape that is less \
                than half full.",
        unit: "push",
        entries: with_caps::<Medium>(("", Accepted), (REFUSED, Refused)),
    });
    #[cfg(feature = "conveyor-etl-buffer")]
    by_name(&mut all);
    all
}

fn single_thread<R: Sourced>(ids: [&'static str; 2], all: &mut Vec<Workload>) {
    let bytes = size_of::<R>();
    let [single, batch] = ids;
    all.push(Workload {
        id: single,
        title: format!("One record of {bytes} bytes in and out, one thread"),
        about: "A record is made, pushed, taken and settled, and then the next.",
        unit: "record",
        entries: one_worker::<R>(OneAtATime),
    });
    all.push(Workload {
        id: batch,
        title: format!("100 records of {bytes} bytes in and out as one batch, one thread"),
        about: "A `Vec` of 100 records goes in and comes out, round and round. Competitors without \
                batches push and take each record.",
        unit: "record",
        entries: one_worker::<R>(Batches),
    });
}

fn threads(all: &mut Vec<Workload>) {
    let mut add = |id, title: &str, flow: Flow| {
        let entries = if flow.workers == 1 {
            one_worker::<Medium>(Threads(flow))
        } else {
            many_workers::<Medium>(Threads(flow))
        };
        all.push(Workload {
            id,
            title: title.to_owned(),
            about: "Records of 104 bytes through one stage. A thread that finds the buffer full or \
                    empty backs off, in the same way for all.",
            unit: "record",
            entries,
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
    fn row<C: BlockingCompetitor<Medium>>(
        competitor: Description,
        variant: &'static str,
        flow: Flow,
    ) -> Entry {
        let run = move |records| flow.run_blocking::<Medium, C>(records);
        Entry { competitor, variant, build: Box::new(move || Box::new(run)) }
    }

    let mut add = |id, title: &str, threads| {
        let flow = Flow::at_one_stage(threads, threads, 1);
        let mut entries = vec![
            row::<Conveyor<Medium, true>>(CONVEYOR, "", flow),
            row::<Conveyor<Medium>>(CONVEYOR, "as it comes", flow),
            row::<Locked<Medium, true>>(MUTEX, "lingering", flow),
            row::<Locked<Medium>>(MUTEX, "as it comes", flow),
            row::<Tokio<Medium>>(TOKIO, "", flow),
            row::<Crossbeam<Medium>>(CROSSBEAM, "", flow),
            row::<Flume<Medium>>(FLUME, "", flow),
            row::<Kanal<Medium>>(KANAL, "", flow),
            row::<AsyncChannel<Medium>>(ASYNC_CHANNEL, "", flow),
        ];
        entries.extend(if threads == 1 {
            [
                row::<CrossfireSingle<Medium>>(CROSSFIRE, "", flow),
                row::<Fanring<Medium>>(FANRING, "", flow),
            ]
        } else {
            [
                row::<Crossfire<Medium>>(CROSSFIRE, "", flow),
                row::<FanringMany<Medium>>(FANRING, "", flow),
            ]
        });
        all.push(Workload {
            id,
            title: title.to_owned(),
            about: "Records of 104 bytes through one stage, by calls that put a thread to sleep which \
                    finds the buffer full or empty. The library's workers linger for a full batch, \
                    100 µs at most (`recv_batch_within_blocking`), or take what there is as it comes \
                    (`recv_batch_blocking`), and those of the mutex as well. The others wait for one \
                    record, and take what else there is with it: they have no call to linger.",
            unit: "record",
            entries,
        });
    };
    add("waits-1-1", "Waiting: single records in, up to 100 out, two threads", 1);
    add("waits-2-2", "Waiting: single records in, up to 100 out, 2 producers and 2 workers", 2);
    add("waits-4-4", "Waiting: single records in, up to 100 out, 4 producers and 4 workers", 4);
}

#[cfg(feature = "conveyor-etl-buffer")]
fn by_name(all: &mut Vec<Workload>) {
    use crate::competitors::etl;

    let mut add = |id, title: &str, together| {
        all.push(Workload {
            id,
            title: title.to_owned(),
            about: "One thread, through the calls by name that both crates have, with the records \
                    of `conveyor-etl-buffer`. The records go round.",
            unit: "record",
            entries: vec![
                Entry {
                    competitor: Description { how: "by name", ..CONVEYOR },
                    variant: "",
                    build: Box::new(move || Box::new(etl::conveyor_buffer(together))),
                },
                Entry {
                    competitor: ETL,
                    variant: "",
                    build: Box::new(move || Box::new(etl::conveyor_etl_buffer(together))),
                },
            ],
        });
    };
    add("name-1", "By name: one record in and out", 1);
    add("name-100", "By name: 100 records in and out as one batch", BATCH);
}
