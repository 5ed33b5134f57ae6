//! Closing: what was accepted comes out, nothing more goes in, and then everybody is told.

mod common;

use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use conveyor_buffer::{BufferManager, Outcome, RegistryError, RejectReason, TryRecvError};

use common::waiting::{Manual, or_abort, waiting};
use common::*;

#[test]
fn a_closed_buffer_refuses_every_kind_of_push_and_every_new_name() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..3)).unwrap();
    manager.close();
    manager.close();

    let rejected = source.try_send(&stage, row("a", 9)).unwrap_err();
    assert_eq!(rejected.reason, RejectReason::Closed);
    assert_eq!(rejected.into_record(), row("a", 9));
    let rejected = source.try_send_batch(&stage, rows("a", 5..7)).unwrap_err();
    assert_eq!((rejected.accepted, ids(&rejected.records)), (0, vec![5, 6]));
    assert!(rejected.is_closed());
    let closed = RejectReason::Closed;
    for (stage, source) in [("stage", "a"), ("new", "a"), ("stage", "new")] {
        let rejected = block_on(manager.buffer_for_stage(stage, row(source, 1))).unwrap_err();
        assert_eq!(rejected.reason, closed);
        let rejected =
            block_on(manager.buffer_batch_for_stage(stage, rows(source, 0..2))).unwrap_err();
        assert_eq!((rejected.accepted, rejected.records.len()), (0, 2));
        assert_eq!(rejected.reason, closed);
        let rejected = block_on(manager.return_to_buffer(stage, rows(source, 0..2))).unwrap_err();
        assert_eq!((rejected.records.len(), rejected.reason), (2, closed.clone()));
    }
    assert_eq!(manager.stage("new").unwrap_err(), RegistryError::Closed);
    assert_eq!(manager.source("new").unwrap_err(), RegistryError::Closed);
    assert!(manager.stage("stage").is_ok() && manager.source("a").is_ok());
    // An empty push asks for nothing, and is always accepted.
    assert_eq!(source.try_send_batch(&stage, Vec::new()), Ok(()));
    assert_eq!(block_on(manager.buffer_batch_for_stage("stage", Vec::new())), Ok(0));

    assert_eq!(source.available_credits(), 0);
    assert_eq!(block_on(manager.available_credits("a")), 0);
    assert_eq!(block_on(manager.available_credits("new")), 0);
    assert_eq!(drain(&stage), [0, 1, 2]);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn what_is_buffered_can_be_drained_returned_and_forwarded_after_a_close() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    let next = manager.stage("next").unwrap();
    source.try_send_batch(&stage, rows("a", 0..6)).unwrap();
    let early = take(&stage, 2);
    manager.close();
    early.return_to_buffer();
    take(&stage, 3).try_forward(&next).unwrap();
    take(&stage, 1).settle(|_| Outcome::DeadLetter);
    // "next" has records, so "stage" might get some.
    let batch = take(&stage, 2);
    assert_eq!(stage.try_recv_batch(1).unwrap_err(), TryRecvError::Empty);
    batch.ack();
    assert_eq!(stage.try_recv_batch(1).unwrap_err(), TryRecvError::Empty);
    assert_eq!(block_on(manager.get_batch("next", 2)).len(), 2);
    let last = take(&next, 2);
    for stage in [&stage, &next] {
        assert_eq!(stage.try_recv_batch(1).unwrap_err(), TryRecvError::Empty);
    }
    last.return_to_buffer();
    assert_eq!(drain(&next), [2]);
    for stage in [&stage, &next] {
        assert_eq!(stage.try_recv_batch(1).unwrap_err(), TryRecvError::Closed);
        assert_eq!(stage.try_recv_batch(0).unwrap_err(), TryRecvError::Closed);
    }
    assert_eq!(manager.dead_letters().try_recv().unwrap().record.id, 3);
}

#[test]
fn an_idle_buffer_is_drained_as_soon_as_it_is_closed() {
    // Also when its sources have leased credits ahead of need.
    let (manager, stage, source) = one_of_each(100_000, 100_000, 100_000);
    source.try_send_batch(&stage, rows("a", 0..10_000)).unwrap();
    drain(&stage);
    assert_eq!(stage.try_recv_batch(1).unwrap_err(), TryRecvError::Empty);
    manager.close();
    assert_eq!(stage.try_recv_batch(1).unwrap_err(), TryRecvError::Closed);
}

#[test]
fn parked_letters_keep_no_worker_waiting() {
    let manager = BufferManager::builder(caps(10, 10, 10))
        .max_retries(0)
        .dead_letter_capacity(1)
        .build()
        .unwrap();
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
    source.try_send_batch(&stage, rows("a", 0..5)).unwrap();
    take(&stage, 4).return_to_buffer();
    manager.close();
    assert_eq!(drain(&stage), [4]);
    assert_eq!(stage.in_flight(), 3);
    assert_eq!(stage.try_recv_batch(1).unwrap_err(), TryRecvError::Closed);
    let letters = manager.dead_letters();
    let seen: Vec<_> = std::iter::from_fn(|| letters.try_recv()).map(|l| l.record.id).collect();
    assert_eq!(seen, [0, 1, 2, 3]);
    assert_eq!(stage.try_recv_batch(1).unwrap_err(), TryRecvError::Closed);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn idle_names_can_be_removed_from_a_closed_buffer_and_none_can_be_made() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send(&stage, row("a", 0)).unwrap();
    manager.close();
    assert!(manager.remove_stage("stage").is_err() && manager.remove_source("a").is_err());
    drain(&stage);
    manager.remove_stage("stage").unwrap();
    manager.remove_source("a").unwrap();
    assert_eq!(manager.stage("stage").unwrap_err(), RegistryError::Closed);
    let rejected = block_on(manager.buffer_for_stage("stage", row("a", 1))).unwrap_err();
    assert_eq!(rejected.reason, RejectReason::Closed);
}

/// Pushes, drains and a close run at once. Each thread stops only by what the library tells it.
fn race(round: u64, records: u64) {
    let manager = Manager::new(caps(50, 30, 20));
    let stages = [manager.stage("s").unwrap(), manager.stage("t").unwrap()];
    let sources = [manager.source("a").unwrap(), manager.source("b").unwrap()];
    let (accepted, came_out) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let barrier = Barrier::new(5);
    thread::scope(|scope| {
        for n in 0..2 {
            let (manager, stages, sources) = (&manager, &stages, &sources);
            let (accepted, barrier) = (&accepted, &barrier);
            scope.spawn(move || {
                let mut rng = Rng::new(round * 10 + n as u64);
                barrier.wait();
                loop {
                    let stage = rng.below(2);
                    let n_rows = 1 + rng.below(4) as u64;
                    let pushed = if rng.one_in(2) {
                        sources[n].try_send_batch(&stages[stage], rows(sources[n].id(), 0..n_rows))
                    } else {
                        let (stage, source) = (stages[stage].id(), sources[n].id());
                        block_on(manager.buffer_batch_for_stage(stage, rows(source, 0..n_rows)))
                            .map(drop)
                    };
                    match pushed {
                        Ok(()) => accepted.fetch_add(n_rows as usize, SeqCst),
                        Err(rejected) => {
                            let so_far = accepted.fetch_add(rejected.accepted, SeqCst);
                            if rejected.is_closed() {
                                return;
                            }
                            thread::yield_now();
                            so_far
                        }
                    };
                }
            });
            let came_out = &came_out;
            scope.spawn(move || {
                let mut rng = Rng::new(round * 10 + 5 + n as u64);
                barrier.wait();
                loop {
                    match stages[n].try_recv_batch(1 + rng.below(6)) {
                        Ok(batch) => match rng.below(4) {
                            0 => {
                                batch.return_to_buffer();
                            }
                            1 => {
                                if let Err(error) = batch.try_forward(&stages[1 - n]) {
                                    drop(error);
                                }
                            }
                            _ => {
                                came_out.fetch_add(batch.len(), SeqCst);
                                batch.ack();
                            }
                        },
                        Err(TryRecvError::Empty) => thread::yield_now(),
                        Err(TryRecvError::Closed) => return,
                    }
                }
            });
        }
        barrier.wait();
        while (accepted.load(SeqCst) as u64) < records {
            thread::yield_now();
        }
        manager.close();
    });
    assert_eq!(came_out.load(SeqCst), accepted.load(SeqCst), "round {round}");
    for stage in &stages {
        assert_eq!(stage.try_recv_batch(1).unwrap_err(), TryRecvError::Closed);
    }
    assert_nothing_is_held(&manager, &stages, &sources);
}

#[test]
fn everything_that_was_accepted_comes_out_before_workers_are_told_to_go() {
    for round in 0..300 {
        race(round, round % 5 * 100);
    }
}

#[test]
fn a_buffer_is_closed_when_the_last_handle_that_can_push_is_gone() {
    let (manager, stage, source) = one_of_each(9, 9, 9);
    let next = manager.stage("next").unwrap();
    let letters = manager.dead_letters();
    let signals = source.signals();
    source.try_send_batch(&stage, rows("a", 0..2)).unwrap();
    let batch = take(&stage, 1);
    let mut workers = [waiting(next.recv_batch(1)), waiting(next.recv_batch(1))];
    let (permit, producer) = (source.try_reserve(&stage, 1).unwrap(), source.producer(&stage));
    drop((manager.clone(), source.clone(), manager));
    drop(source);
    drop(producer);
    assert_eq!(next.try_recv_batch(1).unwrap_err(), TryRecvError::Empty);
    permit.send(row("a", 2));
    // It is closed, and not drained yet: a batch may be forwarded.
    workers.iter_mut().for_each(Manual::waits);
    batch.try_forward(&next).unwrap();
    let [mut first, mut second] = workers;
    let batch = [&mut first, &mut second].into_iter().find_map(Manual::poll).unwrap().unwrap();
    assert_eq!(ids(&batch), [0]);
    batch.ack();
    assert_eq!(drain(&stage), [1, 2]);
    assert_eq!(stage.try_recv_batch(1).unwrap_err(), TryRecvError::Closed);
    assert!(second.poll().or_else(|| first.poll()).is_some_and(|taken| taken.is_err()));
    assert_eq!((letters.try_recv(), signals.current()), (None, Default::default()));
}

#[test]
fn every_handle_that_can_push_keeps_the_buffer_open() {
    let is_open = |stage: &conveyor_buffer::Stage<Row>| {
        stage.try_recv_batch(1).unwrap_err() == TryRecvError::Empty
    };
    let (manager, stage, source) = one_of_each(9, 9, 9);
    drop(source);
    assert!(is_open(&stage));
    let source = manager.source("a").unwrap();
    drop(manager);
    assert!(is_open(&stage));
    let mut producer = source.producer(&stage);
    drop(source);
    assert!(is_open(&stage));
    producer.try_send(row("a", 0)).unwrap();
    let permit = producer.source().try_reserve(&stage, 1).unwrap();
    drop(producer);
    assert_eq!(ids(&take(&stage, 1).into_records()), [0]);
    assert!(is_open(&stage));
    drop(permit);
    assert!(!is_open(&stage));
}

#[test]
fn workers_end_when_the_threads_that_push_end() {
    for _ in 0..50 {
        let (manager, stage, _) = one_of_each(64, 64, 16);
        or_abort("workers", || {
            thread::scope(|scope| {
                let stage = &stage;
                for id in 0..4 {
                    let source = manager.source(&id.to_string()).unwrap();
                    scope.spawn(move || {
                        for id in 0..100 {
                            source.send_blocking(stage, row("", id)).unwrap();
                        }
                    });
                }
                drop(manager);
                let workers: [_; 2] = std::array::from_fn(|_| {
                    scope.spawn(|| {
                        let mut taken = 0;
                        while let Ok(batch) = stage.recv_batch_blocking(7) {
                            taken += batch.into_records().len();
                        }
                        taken
                    })
                });
                let taken = workers.map(|worker| worker.join().unwrap());
                assert_eq!(taken.iter().sum::<usize>(), 400);
            });
        });
    }
}
