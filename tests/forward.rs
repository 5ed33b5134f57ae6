//! Batches that wait for a place in the next stage, and keep their credits meanwhile.

mod common;

use std::thread;
use std::time::Duration;

use conveyor_buffer::{Batch, ForwardError, RejectReason};

use common::waiting::*;
use common::*;

/// A buffer with two stages of four places: the next one is full, and the first has a batch of two.
fn full_next()
-> (Manager, conveyor_buffer::Stage<Row>, conveyor_buffer::Stage<Row>, conveyor_buffer::Source<Row>)
{
    let (manager, stage, source) = one_of_each(6, 4, 6);
    let next = manager.stage("next").unwrap();
    source.try_send_batch(&next, rows("a", 10..14)).unwrap();
    source.try_send_batch(&stage, rows("a", 0..2)).unwrap();
    (manager, stage, next, source)
}

/// The batch of a forward that fails for this reason.
#[track_caller]
fn refused(forwarded: Result<(), ForwardError<Row>>, reason: &RejectReason) -> Batch<Row> {
    let error = forwarded.unwrap_err();
    assert_eq!(&error.reason, reason);
    error.into_inner()
}

#[test]
fn a_forward_waits_for_places_and_needs_no_credit() {
    let (manager, stage, next, source) = full_next();
    // Every global credit is in use.
    assert_eq!(source.available_credits(), 0);
    let mut forward = waiting(take(&stage, 2).forward(&next));
    assert_eq!(stage.in_flight(), 2);
    let batch = take(&next, 1);
    // A push takes the credit of the record that is settled, and the place in the first stage.
    let mut send = waiting(source.send(&stage, row("a", 2)));
    batch.ack();
    assert_eq!(send.woken(), Ok(()));
    forward.waits();
    take(&next, 1).ack();
    forward.woken().unwrap();
    drop((forward, send));
    assert_eq!((stage.len(), stage.in_flight()), (1, 0));
    assert_eq!((drain(&next), drain(&stage)), (vec![12, 13, 0, 1], vec![2]));
    assert_nothing_is_held(&manager, &[stage, next], &[source]);
}

#[test]
fn a_forward_that_leaves_its_stage_wakes_who_waits_for_the_places() {
    let (manager, stage, source) = one_of_each(9, 2, 9);
    let next = manager.stage("next").unwrap();
    source.try_send_batch(&stage, rows("a", 0..2)).unwrap();
    let mut send = waiting(source.send_batch(&stage, rows("a", 2..4)));
    at_once(take(&stage, 2).forward(&next)).unwrap();
    assert_eq!(send.woken(), Ok(()));
}

#[test]
fn what_can_never_be_forwarded_comes_back_whole_at_once() {
    let (manager, stage, source) = one_of_each(20, 4, 20);
    let [closed, removed] = ["closed", "removed"].map(|id| manager.stage(id).unwrap());
    closed.close();
    manager.remove_stage("removed").unwrap();
    let (_other, foreign, _) = one_of_each(9, 9, 9);
    let small = conveyor_buffer::BufferManager::<Row>::builder(caps(20, 4, 20))
        .stage_capacity("small", 2)
        .build()
        .unwrap();
    source.try_send_batch(&stage, rows("a", 0..3)).unwrap();
    let mut batch = take(&stage, 3);
    let foreign_stage = RejectReason::ForeignStage { stage_id: "stage".into() };
    for (next, reason) in [
        (&closed, &RejectReason::Closed),
        (&removed, &RejectReason::Closed),
        (&foreign, &foreign_stage),
        (&stage, &stage_full("stage", 3, 4)),
    ] {
        batch = refused(batch.try_forward(next), reason);
        batch = refused(at_once(batch.forward(next)), reason);
        batch = refused(batch.forward_blocking(next), reason);
        batch = refused(batch.forward_timeout(next, FOR_EVER), reason);
        assert_eq!(ids(&batch), [0, 1, 2]);
        assert!(batch.iter().all(|row| row.retries == 0));
    }
    batch.ack();

    let (stage, next) = (small.stage("stage").unwrap(), small.stage("small").unwrap());
    let source = small.source("a").unwrap();
    source.try_send_batch(&stage, rows("a", 0..3)).unwrap();
    let limit = "stage small".to_owned();
    let too_large = RejectReason::TooLarge { records: 3, capacity: 2, limit };
    let batch = refused(at_once(take(&stage, 3).forward(&next)), &too_large);
    let batch = refused(batch.try_forward(&next), &too_large);
    let mut batch = refused(batch.forward_blocking(&next), &too_large);
    assert_eq!(ids(&batch), [0, 1, 2]);
    // Cut in two it fits.
    let rest = batch.split_off(2);
    at_once(batch.forward(&next)).unwrap();
    let mut forward = waiting(rest.forward(&next));
    take(&next, 2).ack();
    forward.woken().unwrap();
}

#[test]
fn an_own_stage_with_room_takes_the_batch_once_more() {
    let (_manager, stage, source) = one_of_each(20, 4, 20);
    source.try_send_batch(&stage, rows("a", 0..2)).unwrap();
    at_once(take(&stage, 1).forward(&stage)).unwrap();
    assert_eq!(drain(&stage), [1, 0]);
}

#[test]
fn a_close_of_the_next_stage_hands_the_batch_back() {
    let (manager, stage, next, source) = full_next();
    let mut forward = waiting(take(&stage, 2).forward(&next));
    // A closed buffer still forwards.
    manager.close();
    forward.waits();
    next.close();
    let batch = refused(forward.woken(), &RejectReason::Closed);
    assert_eq!(ids(&batch), [0, 1]);
    batch.ack();
    drain(&next);
    drop(forward);
    assert_nothing_is_held(&manager, &[stage, next], &[source]);
}

#[test]
fn a_forward_that_fails_says_why_and_keeps_the_batch() {
    let small = Manager::builder(caps(20, 2, 20)).dead_letter_capacity(1).build().unwrap();
    let (stage, next) = (small.stage("stage").unwrap(), small.stage("next").unwrap());
    let source = small.source("a").unwrap();
    source.try_send_batch(&next, rows("a", 0..2)).unwrap();
    take(&next, 2).settle(|_| conveyor_buffer::Outcome::DeadLetter);
    let last = source.try_reserve(&next, 1).unwrap();
    source.try_send(&stage, row("a", 3)).unwrap();
    let error = take(&stage, 1).try_forward(&next).unwrap_err();
    let limit = "stage next".to_owned();
    let reason = RejectReason::ParkedLetters { limit, held: 2, capacity: 2, parked: 1 };
    assert_eq!(error.reason, reason);
    assert!(error.is_full() && !error.is_closed());
    assert_eq!(error.to_string(), reason.to_string());
    let text = format!("{error:?}");
    assert!(text.contains("ForwardError") && text.contains("parked: 1"), "{text}");
    // An error that is dropped returns the batch, and may leave its reason.
    assert_eq!(RejectReason::from(error), reason);
    let batch = take(&stage, 1);
    assert_eq!(batch.iter().map(|row| row.retries).collect::<Vec<_>>(), [1]);
    drop(last);
    batch.try_forward(&next).unwrap();
    assert_eq!(ids(&take(&next, 1)), [3]);
}

#[test]
fn a_forward_whose_time_is_up_gives_the_batch_back() {
    let (_manager, stage, next, _) = full_next();
    let mut batch = take(&stage, 2);
    for timeout in [Duration::ZERO, Duration::from_millis(2)] {
        batch = refused(batch.forward_timeout(&next, timeout), &stage_full("next", 4, 4));
    }
    assert_eq!(ids(&batch), [0, 1]);
    or_abort("a forward", || {
        thread::scope(|scope| {
            let forward = scope.spawn(|| batch.forward_timeout(&next, FOR_EVER));
            take(&next, 2).ack();
            forward.join().unwrap().unwrap();
        });
    });
    assert_eq!(drain(&next), [12, 13, 0, 1]);
}

#[test]
fn a_forward_that_is_given_up_at_any_poll_returns_its_batch_and_passes_the_places_on() {
    for polls in 0..3 {
        for granted in [false, true] {
            let (manager, stage, next, source) = full_next();
            let mut first = take(&stage, 2);
            let second = first.split_off(1);
            let mut fickle = Manual::new(first.forward(&next));
            (0..polls).for_each(|_| fickle.waits());
            let mut other = waiting(second.forward(&next));
            if granted {
                take(&next, 1).ack();
                assert_eq!(fickle.wakes(), usize::from(polls > 0));
            }
            drop(fickle);
            // It is no failure of the records.
            let returned = take(&stage, 9);
            assert_eq!((ids(&returned), returned.iter().next().unwrap().retries), (vec![0], 0));
            returned.ack();
            if !granted {
                other.waits();
                take(&next, 1).ack();
            }
            other.woken().unwrap();
            drop(other);
            assert_eq!(drain(&next), [11, 12, 13, 1]);
            assert_nothing_is_held(&manager, &[stage, next], &[source]);
        }
    }
}

#[test]
fn a_large_batch_is_not_starved_by_pushes_to_the_next_stage() {
    let (manager, stage, source) = one_of_each(20, 8, 20);
    let (next, other) = (manager.stage("next").unwrap(), manager.source("b").unwrap());
    source.try_send_batch(&stage, rows("a", 0..6)).unwrap();
    other.try_send_batch(&next, rows("b", 10..18)).unwrap();
    let mut forward = waiting(take(&stage, 6).forward(&next));
    let mut settled = 0;
    loop {
        take(&next, 1).ack();
        settled += 1;
        if forward.take_wake() && forward.poll().is_some_and(|done| done.is_ok()) {
            break;
        }
        let _ = other.try_send(&next, row("b", 18));
        assert!(settled < 1_000, "the large batch starves");
    }
    assert!(settled > 6, "at first the others pass it");
}

#[test]
fn one_place_wakes_one_of_many_forwards() {
    let (manager, stage, source) = one_of_each(20, 10, 20);
    let next = manager.stage("next").unwrap();
    source.try_send_batch(&next, rows("a", 0..10)).unwrap();
    source.try_send_batch(&stage, rows("a", 10..20)).unwrap();
    let mut forwards: Vec<_> = (0..10).map(|_| waiting(take(&stage, 1).forward(&next))).collect();
    take(&next, 1).ack();
    assert_eq!((woken(&forwards), forwards[0].wakes()), (1, 1));
    take(&next, 3).ack();
    assert_eq!(woken(&forwards), 4);
    assert!(forwards[..4].iter_mut().all(|forward| forward.woken().is_ok()));
}

#[test]
fn a_pipeline_whose_first_stage_holds_every_global_credit_still_drains() {
    let (manager, parse, source) = one_of_each(8, 8, 8);
    let load = manager.stage("load").unwrap();
    source.try_send_batch(&parse, rows("a", 0..8)).unwrap();
    assert_eq!(source.available_credits(), 0);
    or_abort("a full pipeline", || {
        thread::scope(|scope| {
            scope.spawn(|| {
                while let Ok(batch) = parse.recv_batch_blocking(3) {
                    batch.forward_blocking(&load).unwrap();
                }
            });
            let loader = scope.spawn(|| {
                let mut seen = Vec::new();
                while let Ok(batch) = load.recv_batch_blocking(2) {
                    seen.extend(ids(&batch));
                    batch.ack();
                }
                seen
            });
            manager.close();
            manager.drain_timeout(FOR_EVER).unwrap();
            assert!(loader.join().unwrap().into_iter().eq(0..8));
        });
    });
}
