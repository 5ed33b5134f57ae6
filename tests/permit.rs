//! Permits: how much they reserve, how they are used, and how they are counted.

mod common;

use std::thread;
use std::time::Duration;

use conveyor_buffer::RejectReason;

use common::waiting::*;
use common::*;

const BRIEF: Duration = Duration::from_millis(2);

#[test]
fn a_permit_is_used_one_record_at_a_time() {
    let (manager, stage, source) = one_of_each(9, 9, 9);
    let mut permit = source.try_reserve(&stage, 3).unwrap();
    for id in 0..3 {
        assert_eq!((permit.len(), permit.is_empty()), (3 - id as usize, false));
        assert_eq!((stage.len(), stage.reserved()), (id as usize, permit.len()));
        permit.push(row("a", id)).unwrap();
    }
    assert!(permit.is_empty());
    assert_eq!(permit.push(row("a", 3)), Err(row("a", 3)));
    assert_eq!(permit.send_batch(Vec::new()), Ok(()));
    assert_eq!((stage.len(), source.available_credits()), (3, 6));

    // What is left of a permit that was used in part goes back.
    let mut permit = source.try_reserve(&stage, 5).unwrap();
    permit.push(row("a", 3)).unwrap();
    assert_eq!(ids(&permit.send_batch(rows("a", 4..10)).unwrap_err()), [8, 9]);
    assert_eq!((stage.reserved(), source.available_credits()), (0, 1));
    let mut permit = source.try_reserve(&stage, 1).unwrap();
    manager.close();
    permit.push(row("a", 8)).unwrap();
    assert_eq!(drain(&stage), (0..9).collect::<Vec<_>>());
    drop(permit);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
#[should_panic = "the permit is used up"]
fn sending_with_a_permit_that_is_used_up_panics() {
    let (_manager, stage, source) = one_of_each(9, 9, 9);
    let mut permit = source.try_reserve(&stage, 1).unwrap();
    permit.push(row("a", 0)).unwrap();
    permit.send(row("a", 1));
}

#[test]
fn records_of_a_permit_that_come_back_keep_their_order() {
    let (_manager, stage, source) = one_of_each(9, 9, 9);
    let mut early = source.try_reserve(&stage, 3).unwrap();
    source.try_send(&stage, row("a", 9)).unwrap();
    for id in 0..3 {
        early.push(row("a", id)).unwrap();
    }
    take(&stage, 4).return_to_buffer();
    // The places of the permit are older than that of the record pushed before it was used.
    assert_eq!(drain(&stage), [0, 1, 2, 9]);
}

#[test]
fn reserving_without_waiting_names_the_limit() {
    let (manager, stage, source) = one_of_each(9, 5, 4);
    let held = source.try_reserve(&stage, 3).unwrap();
    assert_eq!(source.try_reserve(&stage, 2).unwrap_err(), source_full("a", 3, 4));
    let other = manager.source("b").unwrap();
    assert_eq!(other.try_reserve(&stage, 3).unwrap_err(), stage_full("stage", 3, 5));
    let reason = source.try_reserve(&stage, 5).unwrap_err();
    let limit = "source a".to_owned();
    assert_eq!(reason, RejectReason::TooLarge { records: 5, capacity: 4, limit });
    assert_eq!(source.try_reserve(&stage, 0).unwrap().len(), 1);
    drop(held);

    let (_other, foreign, _) = one_of_each(9, 9, 9);
    let reason = RejectReason::ForeignStage { stage_id: "stage".into() };
    assert_eq!(source.try_reserve(&foreign, 1).unwrap_err(), reason);
    assert_eq!(source.try_reserve_up_to(&foreign, 1).unwrap_err(), reason);
    manager.close();
    assert!(source.try_reserve(&stage, 1).unwrap_err().is_closed());
    assert!(source.try_reserve_up_to(&stage, 1).unwrap_err().is_closed());
    assert!(at_once(source.reserve_up_to(&stage, 1)).unwrap_err().is_closed());
}

#[test]
fn a_blocking_reservation_waits_or_gives_up() {
    let (_manager, stage, source) = one_of_each(9, 9, 2);
    source.try_send_batch(&stage, rows("a", 0..2)).unwrap();
    let full = source_full("a", 2, 2);
    assert_eq!(source.reserve_timeout(&stage, 1, BRIEF).unwrap_err(), full);
    assert_eq!(source.reserve_up_to_timeout(&stage, 9, BRIEF).unwrap_err(), full);
    thread::scope(|scope| {
        let permit = scope.spawn(|| source.reserve_blocking(&stage, 2).unwrap().len());
        take(&stage, 2).ack();
        assert_eq!(permit.join().unwrap(), 2);
    });
    source.try_send_batch(&stage, rows("a", 0..2)).unwrap();
    thread::scope(|scope| {
        let permit = scope.spawn(|| source.reserve_up_to_blocking(&stage, 9).unwrap().len());
        take(&stage, 2).ack();
        assert_eq!(permit.join().unwrap(), 2);
    });
}

#[test]
fn a_reservation_of_what_there_is_takes_all_of_it_when_its_turn_comes() {
    let (manager, stage, source) = one_of_each(20, 6, 20);
    assert_eq!(at_once(source.reserve_up_to(&stage, 0)).unwrap().len(), 1);
    assert_eq!(at_once(source.reserve_up_to(&stage, usize::MAX)).unwrap().len(), 6);
    assert_eq!(source.try_reserve_up_to(&stage, usize::MAX).unwrap().len(), 6);

    source.try_send_batch(&stage, rows("a", 0..6)).unwrap();
    let mut first = waiting(source.reserve_up_to(&stage, 4));
    let mut second = waiting(source.reserve_up_to(&stage, 4));
    take(&stage, 3).ack();
    // The first is granted at once, and holds what it was granted before it is polled.
    assert_eq!((stage.reserved(), stage.in_flight()), (3, 0));
    let permit = first.woken().unwrap();
    assert_eq!((permit.len(), second.take_wake()), (3, false));
    second.waits();
    take(&stage, 3).ack();
    let other = second.woken().unwrap();
    assert_eq!((other.len(), stage.reserved()), (3, 6));
    drop((permit, other, first, second));
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn a_reservation_of_what_there_is_that_is_given_up_holds_nothing() {
    let (manager, stage, source) = one_of_each(20, 6, 20);
    source.try_send_batch(&stage, rows("a", 0..6)).unwrap();
    let given_up = waiting(source.reserve_up_to(&stage, 4));
    let mut next = waiting(source.send(&stage, row("a", 6)));
    take(&stage, 6).ack();
    assert_eq!(stage.reserved(), 5, "the push was granted as well");
    drop(given_up);
    assert_eq!(stage.reserved(), 1);
    assert_eq!(next.woken(), Ok(()));
    drop(next);
    assert_eq!(drain(&stage), [6]);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn what_is_reserved_is_named_apart_from_records() {
    let (manager, stage, source) = one_of_each(20, 6, 20);
    let next = manager.stage("next").unwrap();
    source.try_send_batch(&stage, rows("a", 0..2)).unwrap();
    let permit = source.try_reserve(&stage, 3).unwrap();
    let batch = take(&stage, 1);
    assert_eq!((stage.len(), stage.in_flight(), stage.reserved()), (1, 1, 3));
    let remaining = manager.remaining();
    assert_eq!((remaining.records(), remaining.reserved()), (2, 3));
    let text = "not drained: 2 records remain (stage stage 2; source a 2), \
                3 places are reserved (stage stage 3; source a 3)";
    assert_eq!(manager.drain_timeout(BRIEF).unwrap_err().to_string(), text);
    drop(permit);

    // A forward that was granted reserves places, and its records keep their credits.
    let blocker = source.try_reserve(&next, 6).unwrap();
    let mut forward = waiting(batch.forward(&next));
    drop(blocker);
    let remaining = manager.remaining();
    assert_eq!(remaining.sources, [("a".to_owned(), 2)]);
    assert_eq!(remaining.reserved_stages, [("next".to_owned(), 1)]);
    assert!(remaining.reserved_sources.is_empty());
    assert!(forward.woken().is_ok());
    drop(forward);
    assert_eq!((next.len(), next.reserved()), (1, 0));

    drain(&stage);
    drain(&next);
    let permit = source.try_reserve(&stage, 1).unwrap();
    assert!(!manager.remaining().is_empty());
    assert_eq!(manager.remaining().records(), 0);
    drop(permit);
    assert!(manager.remaining().is_empty());
}

#[test]
fn the_capacity_for_a_stage_is_the_least_of_what_the_caps_leave() {
    let (manager, stage, a) = one_of_each(20, 12, 8);
    let (b, c) = (manager.source("b").unwrap(), manager.source("c").unwrap());
    let other = manager.stage("other").unwrap();
    assert_eq!(a.capacity_for(&stage), 8);
    b.try_send_batch(&stage, rows("b", 0..6)).unwrap();
    assert_eq!((a.capacity_for(&stage), a.capacity_for(&other)), (6, 8));
    let permit = c.try_reserve(&other, 8).unwrap();
    assert_eq!((a.capacity_for(&stage), a.capacity_for(&other)), (6, 4));
    let pushed = rows("a", 0..6);
    a.try_send_batch(&stage, pushed).unwrap();
    assert_eq!((a.capacity_for(&stage), a.capacity_for(&other)), (0, 0));
    drop(permit);
    assert_eq!(a.capacity_for(&other), 2);

    let (_manager, foreign, _) = one_of_each(9, 9, 9);
    assert_eq!(a.capacity_for(&foreign), 0);
    other.close();
    assert_eq!(a.capacity_for(&other), 0);
    take(&stage, 12).ack();
    assert_eq!(a.capacity_for(&stage), 8);
    a.close();
    assert_eq!(a.capacity_for(&stage), 0);
    assert_eq!(b.capacity_for(&stage), 8);
    manager.close();
    assert_eq!(b.capacity_for(&stage), 0);
}
