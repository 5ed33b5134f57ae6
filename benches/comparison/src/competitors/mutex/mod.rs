//! The three caps under one `parking_lot::Mutex`, as a careful first version would have them, in
//! three forms: with less to do than the library, with the same promises, and with gathering
//! producers.

mod gathering;
mod locked;

pub use gathering::Gathering;
pub use locked::{Locked, Settled};

use super::{BlockingRows, Caps, Description, Rows};
use crate::common::work::{GLOBAL_CAP, SOURCE_CAP, STAGE_CAP};
use crate::common::{Medium, Sourced};

pub const MUTEX: Description = Description {
    name: "mutex",
    package: "parking_lot",
    caps: Caps::UntilTaken,
    how: "one `Mutex` around all counts and a `VecDeque` for each stage; a batch takes the lock \
          once; to wait, two `Condvar`s",
};
pub const SETTLED: Description = Description {
    name: "mutex, same promises",
    package: "parking_lot",
    caps: Caps::UntilSettled,
    how: "the same, but a record counts until it is settled, and a batch that is dropped is \
          returned: three locks for a record, not two",
};
pub const GATHERING: Description = Description {
    name: "mutex, gathering",
    package: "parking_lot",
    caps: Caps::UntilTaken,
    how: "one `Mutex`; a producer holds room for 100 records ahead, gathers that many and publishes \
          them as one block, or earlier if a worker waits or at `flush`",
};

/// Single records, of which a thread pushes many before it does anything else.
pub fn singles<R: Sourced>(rows: &mut impl Rows<R>) {
    rows.add::<Locked<R>>(MUTEX, "");
    rows.add::<Settled<R>>(SETTLED, "");
    rows.add::<Gathering<R>>(GATHERING, "");
}

/// Batches, and single records that cannot be gathered.
pub fn rows<R: Sourced>(rows: &mut impl Rows<R>) {
    rows.add::<Locked<R>>(MUTEX, "");
    rows.add::<Settled<R>>(SETTLED, "");
}

pub fn blocking(rows: &mut impl BlockingRows) {
    rows.add::<Locked<Medium, false, true>>(MUTEX, "lingering");
    rows.add::<Locked<Medium>>(MUTEX, "as it comes");
    rows.add::<Settled<Medium, true>>(SETTLED, "lingering");
    rows.add::<Gathering<Medium, true>>(GATHERING, "lingering");
    rows.add::<Gathering<Medium>>(GATHERING, "as it comes");
}

pub fn blocking_as_it_comes(rows: &mut impl BlockingRows) {
    rows.add::<Locked<Medium>>(MUTEX, "");
    rows.add::<Settled<Medium>>(SETTLED, "");
    rows.add::<Gathering<Medium>>(GATHERING, "");
}

/// What the caps count.
struct Counts {
    held: usize,
    sources: Vec<usize>,
    stages: Vec<usize>,
}

impl Counts {
    fn new(sources: usize, stages: usize) -> Self {
        Self { held: 0, sources: vec![0; sources], stages: vec![0; stages] }
    }

    /// Returns how many more records a source may push to a stage.
    fn room(&self, source: usize, stage: usize) -> usize {
        let global = GLOBAL_CAP - self.held;
        let source = SOURCE_CAP - self.sources[source];
        let stage = STAGE_CAP - self.stages[stage];
        global.min(source).min(stage)
    }

    fn admit(&mut self, source: usize, stage: usize, records: usize) {
        self.held += records;
        self.sources[source] += records;
        self.stages[stage] += records;
    }

    fn release(&mut self, source: usize, stage: usize, records: usize) {
        self.held -= records;
        self.sources[source] -= records;
        self.stages[stage] -= records;
    }
}
