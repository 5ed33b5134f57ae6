//! Prints the heap bytes of an idle stage of 10,000 records of 104 bytes, of the ring of crossbeam
//! with as many slots for such records, and of the same ring with the smallest slot that can hold
//! either a record or a `Vec` of them. One number a line.

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
    // What the first stage of all needs, beside itself, is not a stage's.
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

/// What is still allocated after a call, and was not before.
fn heap_bytes(call: impl FnOnce()) -> i64 {
    allocation_counter::measure(call).bytes_current
}
