//! conveyor-etl-buffer, the published crate that the library replaces, and the library used in the
//! same way: by name, with the records of that crate.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use conveyor_buffer::{BufferManager, BufferedRecord};
use conveyor_etl_proto::common::Record;

use super::{Caps, Description};
use crate::common::work::{GLOBAL_CAP, SOURCE_CAP, STAGE_CAP};

pub const ETL: Description = Description {
    name: "conveyor-etl-buffer",
    package: "conveyor-etl-buffer",
    caps: Caps::Partial("its stage; all records nearly; none per source"),
    how: "by name",
};

const THRESHOLD: f64 = 0.8;
const STAGE: &str = "filter";

/// Returns the result of a call that never waits.
fn at_once<F: Future>(call: F) -> F::Output {
    match pin!(call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("a call by name waited"),
    }
}

fn record() -> Record {
    Record { record_type: "row".to_owned(), payload: vec![0; 104], ..Record::default() }
}

fn ours() -> BufferedRecord<Record> {
    BufferedRecord::new(record(), "kafka-1", "analytics", STAGE)
}

fn theirs() -> conveyor_etl_buffer::BufferedRecord {
    conveyor_etl_buffer::BufferedRecord {
        record: record(),
        source_id: "kafka-1".to_owned(),
        pipeline_id: "analytics".to_owned(),
        target_stage_id: STAGE.to_owned(),
        buffered_at: Instant::now(),
        retry_count: 0,
    }
}

/// A step that pushes and takes one record by name, or 100 as one batch. The records are reused.
macro_rules! by_name {
    ($manager:expr, $record:expr) => {{
        let manager = $manager;
        let mut records: Vec<_> = (0..$crate::common::BATCH).map(|_| $record).collect();
        move |together: usize| {
            records.truncate(together);
            if together == 1 {
                let record = records.pop().expect("the record of the last step");
                at_once(manager.buffer_for_stage(STAGE, record)).expect("an empty buffer");
            } else {
                at_once(manager.buffer_batch_for_stage(STAGE, std::mem::take(&mut records)))
                    .expect("an empty buffer");
            }
            records = at_once(manager.get_batch(STAGE, together));
            assert!(records.len() == together);
        }
    }};
}

fn timed(mut step: impl FnMut(usize), together: usize) -> impl FnMut(u64) -> Duration {
    (0..1_000).for_each(|_| step(together));
    move |records| {
        let start = Instant::now();
        (0..records / together as u64).for_each(|_| step(together));
        start.elapsed()
    }
}

pub fn conveyor_buffer(together: usize) -> impl FnMut(u64) -> Duration {
    let manager = BufferManager::with_limits(GLOBAL_CAP, STAGE_CAP, SOURCE_CAP, THRESHOLD);
    timed(by_name!(manager, ours()), together)
}

pub fn conveyor_etl_buffer(together: usize) -> impl FnMut(u64) -> Duration {
    let manager = conveyor_etl_buffer::BufferManager::with_limits(
        GLOBAL_CAP, STAGE_CAP, SOURCE_CAP, THRESHOLD,
    );
    timed(by_name!(manager, theirs()), together)
}
