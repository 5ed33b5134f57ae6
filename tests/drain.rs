//! Waiting until every record is settled.

mod common;

use std::thread;
use std::time::Duration;

use conveyor_buffer::{BufferManager, Outcome};

use common::waiting::*;
use common::*;

#[test]
fn nothing_is_waited_for_where_nothing_is_held() {
    let (manager, stage, source) = one_of_each(100_000, 100_000, 100_000);
    at_once(manager.drain());
    // Also not for credits that are leased ahead of need.
    source.try_send_batch(&stage, rows("a", 0..10_000)).unwrap();
    drain(&stage);
    at_once(manager.drain());
    manager.drain_blocking();
    manager.close();
    manager.drain_timeout(Duration::ZERO).unwrap();
    assert!(manager.remaining().is_empty());
}

#[test]
fn a_drain_waits_for_every_way_to_settle() {
    let (manager, stage, source) = one_of_each(20, 20, 20);
    let next = manager.stage("next").unwrap();
    source.try_send_batch(&stage, rows("a", 0..8)).unwrap();
    let permit = at_once(source.reserve(&stage, 1)).unwrap();
    let mut drained: Vec<_> = (0..3).map(|_| waiting(manager.drain())).collect();
    take(&stage, 1).ack();
    drop(take(&stage, 1).into_records());
    take(&stage, 2).settle(|_| Outcome::DeadLetter);
    take(&stage, 1).try_forward(&next).unwrap();
    assert_eq!(block_on(manager.get_batch("next", 1)).len(), 1);
    take(&stage, 1).return_to_buffer();
    drain(&stage);
    drained.iter_mut().for_each(Manual::waits);
    drop(permit);
    drained.iter_mut().for_each(Manual::woken);
}

#[test]
fn a_drain_that_is_given_up_leaves_the_others_waiting_and_the_buffer_as_it_was() {
    for polls in 0..3 {
        let (manager, stage, source) = one_of_each(100_000, 100_000, 100_000);
        source.try_send_batch(&stage, rows("a", 0..100)).unwrap();
        let mut fickle = Manual::new(manager.drain());
        (0..polls).for_each(|_| fickle.waits());
        let mut other = waiting(manager.drain());
        drop(fickle);
        drain(&stage);
        other.woken();
        drop(other);
        assert_eq!(source.available_credits(), 100_000);
        assert_nothing_is_held(&manager, &[stage], &[source]);
    }
}

#[test]
fn a_drain_whose_time_is_up_says_what_remains_by_stage_and_source() {
    let manager = BufferManager::builder(caps(20, 20, 20)).dead_letter_capacity(1).build().unwrap();
    let (load, parse) = (manager.stage("load").unwrap(), manager.stage("parse").unwrap());
    let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
    manager.stage("empty").unwrap();
    manager.source("idle").unwrap();
    b.try_send_batch(&parse, rows("b", 0..3)).unwrap();
    a.try_send_batch(&load, rows("a", 3..5)).unwrap();
    a.try_send_batch(&parse, rows("a", 5..6)).unwrap();
    let batch = take(&load, 1);
    for timeout in [Duration::ZERO, Duration::from_millis(2)] {
        let remaining = manager.drain_timeout(timeout).unwrap_err();
        assert_eq!(remaining, manager.remaining());
        assert_eq!(remaining.stages, [("load".to_owned(), 2), ("parse".to_owned(), 4)]);
        assert_eq!(remaining.sources, [("a".to_owned(), 3), ("b".to_owned(), 3)]);
        assert_eq!((remaining.records(), remaining.is_empty()), (6, false));
        assert_eq!(
            remaining.to_string(),
            "not drained: 6 records remain (stage load 2, stage parse 4; source a 3, source b 3)"
        );
    }
    batch.ack();
    drain(&load);
    // Parked letters are settled.
    take(&parse, 4).settle(|_| Outcome::DeadLetter);
    at_once(manager.drain());
    assert_eq!(manager.dead_letters().parked(), 3);
    assert!(manager.remaining().is_empty());
    assert_eq!(manager.remaining().to_string(), "no record remains");
    let _permit = a.try_reserve(&load, 2).unwrap();
    let text = "no record remains, 2 places are reserved (stage load 2; source a 2)";
    assert_eq!(manager.remaining().to_string(), text);
}

#[test]
fn close_and_drain_end_a_buffer_with_workers_and_sources_that_wait() {
    for _ in 0..50 {
        let (manager, stage, source) = one_of_each(4, 4, 4);
        let next = manager.stage("next").unwrap();
        or_abort("close and drain", || {
            thread::scope(|scope| {
                let pusher = scope.spawn(|| {
                    (0..).find(|id| source.send_blocking(&stage, row("a", *id)).is_err()).unwrap()
                });
                scope.spawn(|| {
                    while let Ok(batch) = stage.recv_batch_blocking(2) {
                        batch.forward_blocking(&next).expect("the next stage is open");
                    }
                });
                let last = scope.spawn(|| {
                    let mut seen = 0;
                    while let Ok(batch) = next.recv_batch_blocking(3) {
                        seen += batch.len() as u64;
                        if seen > 20 {
                            manager.close();
                        }
                        batch.ack();
                    }
                    seen
                });
                assert_eq!(pusher.join().unwrap(), last.join().unwrap());
                manager.drain_timeout(FOR_EVER).unwrap();
            });
        });
        assert_nothing_is_held(&manager, &[stage, next], &[source]);
    }
}

#[test]
fn a_granted_push_that_is_given_up_after_a_close_was_the_last() {
    let (manager, stage, source) = one_of_each(9, 9, 1);
    source.try_send(&stage, row("a", 0)).unwrap();
    let send = waiting(source.send(&stage, row("a", 1)));
    take(&stage, 1).ack();
    assert_eq!(send.wakes(), 1);
    let mut drained = waiting(manager.drain());
    manager.close();
    let mut worker = waiting(stage.recv_batch(1));
    drop(send);
    assert!(worker.woken().is_err());
    drained.woken();
}
