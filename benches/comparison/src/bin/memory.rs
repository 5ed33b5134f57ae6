//! Prints the heap bytes of an empty stage with room for 10,000 records of 104 bytes, of
//! crossbeam's ring with as many slots for such records, and of that ring with slots for a record
//! or a `Vec` of records. One number a line.

#[path = "../../../common/mod.rs"]
mod common;

use common::Medium;
use common::work::STAGE_CAP;
use conveyor_buffer::{BufferManager, BufferSettings};
use crossbeam_queue::ArrayQueue;

#[expect(dead_code, reason = "only its size matters")]
enum Slot {
    One(Medium),
    Many(Vec<Medium>),
}

fn main() {
    let manager = BufferManager::<Medium>::new(BufferSettings::default());
    // The first stage also allocates what all stages share.
    let _first = manager.stage("first").expect("room for a stage");
    let mut stage = None;
    let idle = heap_bytes(|| stage = Some(manager.stage("stage").expect("room for a stage")));
    assert_eq!(stage.map(|stage| stage.capacity()), Some(STAGE_CAP));

    let mut ring = None;
    let records = heap_bytes(|| ring = Some(ArrayQueue::<Medium>::new(STAGE_CAP)));
    drop(ring);
    let mut ring = None;
    let slots = heap_bytes(|| ring = Some(ArrayQueue::<Slot>::new(STAGE_CAP)));
    drop(ring);

    println!("{idle}\n{records}\n{slots}");
}

/// Returns how many more bytes are allocated after a call than before it.
fn heap_bytes(call: impl FnOnce()) -> i64 {
    allocation_counter::measure(call).bytes_current
}
