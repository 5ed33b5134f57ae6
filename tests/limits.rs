//! Caps that change while the buffer is in use.

mod common;

use conveyor_buffer::BackpressureSignal::{Pause, Resume, SlowDown};
use conveyor_buffer::{RejectReason, SettingsError, Source, Stage};

use common::waiting::*;
use common::*;

type Buffer = (Manager, Stage<Row>, Source<Row>);
type Make = fn() -> Buffer;
type Set = fn(&Buffer, usize) -> Result<(), SettingsError>;

/// Each cap, in a buffer where it is ten and the others are a hundred, with the call that changes it and
/// what its errors name.
const CAPS: [(Make, Set, &str); 3] = [
    (|| one_of_each(10, 100, 100), |b, n| b.0.set_max_total_records(n), "max_total_records"),
    (|| one_of_each(100, 10, 100), |b, n| b.1.set_capacity(n), "stage_capacity"),
    (|| one_of_each(100, 100, 10), |b, n| b.2.set_capacity(n), "source_capacity"),
];

#[test]
fn a_cap_below_what_is_held_refuses_pushes_until_it_has_drained_and_loses_nothing() {
    for (make, set, field) in CAPS {
        let buffer = make();
        let (_, stage, source) = &buffer;
        source.try_send_batch(stage, rows("a", 0..10)).unwrap();
        let batch = take(stage, 4);
        set(&buffer, 6).unwrap();
        assert_eq!((stage.len(), stage.in_flight()), (6, 4), "{field}");
        for _ in 0..4 {
            let rejected = source.try_send(stage, row("a", 10)).unwrap_err();
            assert!(rejected.to_string().ends_with("10 of 6 records"), "{rejected}");
        }
        batch.return_to_buffer();
        take(stage, 4).ack();
        assert!(source.try_send(stage, row("a", 10)).unwrap_err().is_full(), "{field}");
        take(stage, 2).ack();
        let rejected = source.try_send_batch(stage, rows("a", 10..15)).unwrap_err();
        assert_eq!(rejected.accepted, 2, "{field}");
        assert_eq!(drain(stage), (6..12).collect::<Vec<_>>(), "{field}");
    }
}

#[test]
fn a_cap_that_grows_lets_in_what_waits() {
    for (make, set, field) in CAPS {
        let buffer = make();
        let (_, stage, source) = &buffer;
        set(&buffer, 2).unwrap();
        source.try_send_batch(stage, rows("a", 0..2)).unwrap();
        let mut one = waiting(source.send(stage, row("a", 2)));
        let mut two = waiting(source.send(stage, row("a", 3)));
        set(&buffer, 3).unwrap();
        one.woken().unwrap();
        assert_eq!(two.wakes(), 0, "{field}");
        set(&buffer, 10).unwrap();
        two.woken().unwrap();
        assert_eq!(drain(stage), [0, 1, 2, 3], "{field}");
    }
}

#[test]
fn a_request_that_waits_for_more_than_a_lower_cap_is_rejected_and_those_behind_it_go_on() {
    for (make, set, field) in CAPS {
        let buffer = make();
        let (_, stage, source) = &buffer;
        source.try_send_batch(stage, rows("a", 0..8)).unwrap();
        let batch = take(stage, 8);
        let mut small = waiting(source.send_batch(stage, rows("a", 8..11)));
        let mut large = waiting(source.send_batch(stage, rows("a", 11..18)));
        let mut last = waiting(source.send(stage, row("a", 18)));
        set(&buffer, 5).unwrap();
        let rejected = large.woken().unwrap_err();
        assert_eq!(rejected.records.len(), 7);
        let RejectReason::TooLarge { records: 7, capacity: 5, .. } = rejected.reason else {
            panic!("{field}: {}", rejected.reason);
        };
        batch.ack();
        small.woken().unwrap();
        last.woken().unwrap();
        assert_eq!(drain(stage), [8, 9, 10, 18], "{field}");
        let rejected = block_on(source.send_batch(stage, rows("a", 0..6))).unwrap_err();
        assert!(matches!(rejected.reason, RejectReason::TooLarge { capacity: 5, .. }), "{field}");
    }
}

#[test]
fn a_value_out_of_range_changes_nothing() {
    for (make, set, field) in CAPS {
        let buffer = make();
        let (_, stage, source) = &buffer;
        let error = set(&buffer, 0).unwrap_err();
        assert_eq!(error, SettingsError::Zero { field });
        if usize::BITS > u32::BITS {
            let value = u32::MAX as usize + 1;
            let error = set(&buffer, value).unwrap_err();
            assert_eq!(error, SettingsError::TooLarge { field, value });
        }
        let rejected = source.try_send_batch(stage, rows("a", 0..11)).unwrap_err();
        assert_eq!(rejected.accepted, 10, "{field}");
    }
}

#[test]
fn a_stage_grows_to_what_its_ring_was_made_for() {
    let (_manager, stage, source) = one_of_each(100, 10, 100);
    let error = stage.set_capacity(11).unwrap_err();
    assert_eq!(error, SettingsError::BeyondRing { field: "stage_capacity", value: 11, slots: 10 });
    stage.set_capacity(3).unwrap();
    assert_eq!(source.try_send_batch(&stage, rows("a", 0..20)).unwrap_err().accepted, 3);
    stage.set_capacity(10).unwrap();
    assert_eq!(source.try_send_batch(&stage, rows("a", 3..20)).unwrap_err().accepted, 7);
    assert_eq!(drain(&stage), (0..10).collect::<Vec<_>>());
}

#[test]
fn a_larger_global_cap_leaves_a_stage_with_the_slots_of_its_ring() {
    let (manager, old, source) = one_of_each(4, 100, 100);
    assert_eq!(old.capacity(), 100);
    manager.set_max_total_records(50).unwrap();
    let new = manager.stage("new").unwrap();
    assert_eq!((old.capacity(), new.capacity()), (4, 100));
    // Singles, so that each takes a slot.
    let pushed = |stage: &Stage<Row>| {
        (0..100).take_while(|&id| source.try_send(stage, row("a", id)).is_ok()).count()
    };
    assert_eq!((pushed(&old), pushed(&new)), (4, 46));
    assert_eq!((drain(&old).len(), drain(&new).len()), (4, 46));
    // A ring is made for the largest cap so far, so that the cap may come back to it.
    manager.set_max_total_records(2).unwrap();
    let late = manager.stage("late").unwrap();
    manager.set_max_total_records(50).unwrap();
    assert_eq!((late.capacity(), pushed(&late)), (100, 50));
}

#[test]
fn credits_that_were_leased_ahead_are_not_used_beyond_a_lower_cap() {
    let (manager, stage, source) = one_of_each(100_000, 10_000, 10_000);
    let other = manager.source("b").unwrap();
    // Each account leases some hundred credits more than it uses.
    source.try_send(&stage, row("a", 0)).unwrap();
    other.try_send(&stage, row("b", 1)).unwrap();
    manager.set_max_total_records(2).unwrap();
    assert!(source.try_send(&stage, row("a", 2)).unwrap_err().is_full());
    assert!(other.try_send(&stage, row("b", 3)).unwrap_err().is_full());
    assert_eq!(block_on(manager.get_total_buffered()), 2);
    manager.set_max_total_records(100_000).unwrap();
    source.try_send_batch(&stage, rows("a", 2..100)).unwrap();

    source.set_capacity(99).unwrap();
    assert!(source.try_send(&stage, row("a", 100)).unwrap_err().is_full());
    assert_eq!(drain(&stage).len(), 100);
    block_on(manager.drain());
}

#[test]
fn a_producer_gives_back_what_it_holds_ahead_when_a_cap_is_lowered() {
    for (make, set, field) in CAPS {
        let buffer = make();
        let (_, stage, source) = &buffer;
        let mut producer = source.producer(stage);
        producer.try_send(row("a", 0)).unwrap();
        set(&buffer, 1).unwrap();
        assert!(producer.try_send(row("a", 1)).unwrap_err().is_full(), "{field}");
        set(&buffer, 2).unwrap();
        producer.try_send(row("a", 2)).unwrap();
        assert!(producer.try_send(row("a", 3)).unwrap_err().is_full(), "{field}");
        assert_eq!(drain(stage), [0, 2], "{field}");
    }
}

#[test]
fn the_readings_and_the_signals_follow_a_cap() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..5)).unwrap();
    assert_eq!((source.signal(), manager.controller().current()), (Resume, Resume));
    source.set_capacity(6).unwrap();
    assert_eq!((source.signal(), source.utilization()), (SlowDown, 5.0 / 6.0));
    assert_eq!((source.capacity(), source.available_credits()), (6, 1));
    source.set_capacity(4).unwrap();
    assert_eq!((source.signal(), source.utilization()), (Pause, 1.0));
    assert_eq!(source.available_credits(), 0);
    source.set_capacity(10).unwrap();
    assert_eq!(source.signal(), Resume);

    manager.set_max_total_records(4).unwrap();
    assert_eq!((source.signal(), manager.controller().current()), (Pause, Pause));
    assert_eq!(block_on(manager.get_global_utilization()), 1.0);
    assert_eq!(block_on(manager.available_credits("b")), 0);
    manager.set_max_total_records(10).unwrap();
    assert_eq!(manager.controller().current(), Resume);

    stage.set_capacity(4).unwrap();
    assert_eq!((stage.capacity(), stage.utilization(), stage.len()), (4, 1.0, 5));
    drain(&stage);
    assert_eq!((stage.utilization(), source.signal()), (0.0, Resume));
}

#[test]
fn a_lower_cap_holds_for_forwards_and_counts_parked_letters() {
    let manager = Manager::builder(caps(10, 10, 10)).dead_letter_capacity(1).build().unwrap();
    let (stage, next) = (manager.stage("stage").unwrap(), manager.stage("next").unwrap());
    let source = manager.source("a").unwrap();
    source.try_send_batch(&stage, rows("a", 0..4)).unwrap();
    next.set_capacity(1).unwrap();
    let batch = take(&stage, 2).try_forward(&next).unwrap_err().into_inner();
    // One letter has a slot, and one is parked.
    batch.settle(|_| conveyor_buffer::Outcome::DeadLetter);
    manager.set_max_total_records(3).unwrap();
    let rejected = source.try_send(&stage, row("a", 4)).unwrap_err();
    assert!(rejected.to_string().contains("3 of 3 records, 1 of them parked"), "{rejected}");
    manager.set_max_total_records(1).unwrap();
    let rejected = source.try_send(&stage, row("a", 4)).unwrap_err();
    assert!(rejected.to_string().contains("3 of 1 records, 1 of them parked"), "{rejected}");
    assert_eq!(manager.dead_letters().try_recv().unwrap().record.id, 0);
    assert_eq!(drain(&stage), [2, 3]);
    source.try_send(&stage, row("a", 4)).unwrap();
    assert!(source.try_send(&stage, row("a", 5)).unwrap_err().is_full());
}
