//! Workers that wait for records: for the first or for a full batch, alone or with others.

mod common;

use std::thread;
use std::time::Duration;

use conveyor_buffer::{RecvTimeoutError, Stage};

use common::waiting::*;
use common::*;

#[test]
fn a_worker_waits_for_the_first_record_only() {
    let (_manager, stage, source) = one_of_each(9, 9, 9);
    let mut worker = waiting(stage.recv_batch(5));
    source.try_send(&stage, row("a", 0)).unwrap();
    let batch = worker.woken().unwrap();
    assert_eq!(ids(&batch), [0]);
    source.try_send_batch(&stage, rows("a", 1..9)).unwrap();
    assert_eq!(ids(&at_once(stage.recv_batch(5)).unwrap()), [1, 2, 3, 4, 5]);
}

#[test]
fn a_worker_that_lingers_takes_what_is_returned_and_nothing_is_counted_twice() {
    let (_manager, stage, source) = one_of_each(9, 9, 9);
    source.try_send_batch(&stage, rows("a", 0..3)).unwrap();
    let returned = take(&stage, 2);
    let mut worker = waiting(stage.recv_batch_linger(3, FOR_EVER));
    assert_eq!(stage.len(), 0);
    returned.return_to_buffer();
    let batch = worker.woken().unwrap();
    assert_eq!(ids(&batch), [2, 0, 1]);
    assert_eq!((stage.len(), stage.in_flight()), (0, 3));
}

#[test]
fn a_return_and_a_forward_wake_a_worker_too() {
    let (manager, stage, source) = one_of_each(9, 9, 9);
    let next = manager.stage("next").unwrap();
    source.try_send(&stage, row("a", 0)).unwrap();
    let batch = take(&stage, 1);
    let mut worker = waiting(stage.recv_batch(1));
    batch.return_to_buffer();
    let batch = worker.woken().unwrap();
    assert_eq!(batch.iter().next().unwrap().retries, 1);
    let mut worker = waiting(next.recv_batch(1));
    batch.try_forward(&next).unwrap();
    worker.woken().unwrap().ack();
}

#[test]
fn a_batch_of_none_is_a_batch_of_one() {
    let (_manager, stage, source) = one_of_each(9, 9, 9);
    let mut worker = waiting(stage.recv_batch(0));
    source.try_send_batch(&stage, rows("a", 0..3)).unwrap();
    assert_eq!(worker.woken().unwrap().len(), 1);
    assert_eq!(at_once(stage.recv_batch_linger(0, FOR_EVER)).unwrap().len(), 1);
    assert_eq!(stage.recv_batch_linger_blocking(0, FOR_EVER).unwrap().len(), 1);
}

#[test]
fn a_thread_waits_as_a_task_does() {
    let (_manager, stage, source) = one_of_each(9, 9, 9);
    or_abort("blocking workers", || {
        thread::scope(|scope| {
            let one = scope.spawn(|| stage.recv_batch_blocking(1).unwrap().into_records());
            let timed =
                scope.spawn(|| stage.recv_batch_timeout(1, FOR_EVER).unwrap().into_records());
            let full = scope
                .spawn(|| stage.recv_batch_linger_blocking(3, FOR_EVER).unwrap().into_records());
            let mut seen = Vec::new();
            for id in 0..5 {
                source.send_blocking(&stage, row("a", id)).unwrap();
            }
            for worker in [one, timed, full] {
                seen.extend(ids(&worker.join().unwrap()));
            }
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2, 3, 4]);
        });
    });
}

#[test]
fn a_worker_whose_time_is_up_is_told_so_and_takes_nothing() {
    let (manager, stage, source) = one_of_each(9, 9, 9);
    for brief in [Duration::ZERO, Duration::from_millis(2)] {
        let error = stage.recv_batch_timeout(5, brief).unwrap_err();
        assert!(error.is_timeout() && !error.is_closed());
    }
    source.try_send(&stage, row("a", 0)).unwrap();
    assert_eq!(ids(&stage.recv_batch_timeout(5, Duration::ZERO).unwrap()), [0]);
    drain(&stage);
    manager.close();
    assert_eq!(stage.recv_batch_timeout(5, FOR_EVER).unwrap_err(), RecvTimeoutError::Closed);
}

#[test]
fn a_worker_that_lingers_fills_its_batch() {
    let (_manager, stage, source) = one_of_each(9, 9, 9);
    let mut worker = waiting(stage.recv_batch_linger(4, FOR_EVER));
    source.try_send(&stage, row("a", 0)).unwrap();
    worker.waits();
    assert_eq!((stage.len(), stage.in_flight()), (0, 1));
    source.try_send_batch(&stage, rows("a", 1..3)).unwrap();
    worker.waits();
    source.try_send_batch(&stage, rows("a", 3..6)).unwrap();
    assert_eq!(ids(&worker.woken().unwrap()), [0, 1, 2, 3]);
    drop(worker);
    assert_eq!(drain(&stage), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_worker_that_lingers_is_woken_once_for_its_batch() {
    let (_manager, stage, source) = one_of_each(99, 99, 99);
    source.try_send(&stage, row("a", 0)).unwrap();
    let mut workers = [20, 10].map(|max| waiting(stage.recv_batch_linger(max, FOR_EVER)));
    assert_eq!(stage.in_flight(), 1, "the first lingers, the second waits for a record");
    source.try_send(&stage, row("a", 1)).unwrap();
    assert!(workers[1].take_wake());
    workers[1].waits();
    assert_eq!(stage.in_flight(), 2, "both linger");
    for id in 2..10 {
        source.try_send(&stage, row("a", id)).unwrap();
        assert_eq!(woken(&workers), 0, "after record {id}");
    }
    // Nine more are enough for the second.
    source.try_send_batch(&stage, rows("a", 10..13)).unwrap();
    let batch = workers[1].woken().unwrap();
    assert_eq!(ids(&batch), (1..11).collect::<Vec<_>>());
    // The first was woken as well, in vain.
    assert!(workers[0].take_wake());
    workers[0].waits();
    assert_eq!(stage.len(), 2, "it takes none before it can take all");
    for id in 13..29 {
        source.try_send(&stage, row("a", id)).unwrap();
        assert_eq!(workers[0].wakes(), 0, "after record {id}");
    }
    source.try_send(&stage, row("a", 29)).unwrap();
    assert_eq!(workers[0].woken().unwrap().len(), 20);
    batch.ack();
}

#[test]
fn the_worker_that_lacks_fewest_is_woken_whoever_came_first() {
    for wanted in [[3, 6], [6, 3]] {
        let (_manager, stage, source) = one_of_each(99, 99, 99);
        let mut workers = Vec::new();
        for max in wanted {
            source.try_send(&stage, row("a", 0)).unwrap();
            workers.push((max, waiting(stage.recv_batch_linger(max, FOR_EVER))));
        }
        source.try_send_batch(&stage, rows("a", 1..3)).unwrap();
        let (_, worker) = workers.iter_mut().find(|(max, _)| *max == 3).unwrap();
        assert_eq!(worker.woken().unwrap().into_records().len(), 3);
    }
}

#[test]
fn what_came_until_the_time_is_up_is_in_the_batch() {
    let (_manager, stage, source) = one_of_each(9, 9, 9);
    source.try_send(&stage, row("a", 0)).unwrap();
    let mut worker = waiting(stage.recv_batch_linger(4, Duration::from_millis(20)));
    source.try_send(&stage, row("a", 1)).unwrap();
    let batch = loop {
        match worker.poll() {
            Some(batch) => break batch.unwrap(),
            None => std::thread::yield_now(),
        }
    };
    assert_eq!(ids(&batch), [0, 1]);
}

#[test]
fn records_that_one_worker_lingers_for_are_there_for_others() {
    let (_manager, stage, source) = one_of_each(9, 9, 9);
    source.try_send(&stage, row("a", 0)).unwrap();
    let mut worker = waiting(stage.recv_batch_linger(4, FOR_EVER));
    source.try_send_batch(&stage, rows("a", 1..3)).unwrap();
    worker.waits();
    take(&stage, 1).ack();
    source.try_send_batch(&stage, rows("a", 3..5)).unwrap();
    assert_eq!(ids(&worker.woken().unwrap()), [0, 2, 3, 4]);
}

#[test]
fn a_batch_that_holds_all_that_its_stage_can_hold_is_full() {
    for (total, per_stage) in [(9, 3), (3, 9)] {
        let (_manager, stage, source) = one_of_each(total, per_stage, 9);
        source.try_send(&stage, row("a", 0)).unwrap();
        let mut worker = waiting(stage.recv_batch_linger(100, FOR_EVER));
        source.try_send_batch(&stage, rows("a", 1..3)).unwrap();
        assert_eq!(ids(&worker.woken().unwrap()), [0, 1, 2]);
    }
}

#[test]
fn a_worker_that_lingers_goes_when_the_time_is_up() {
    let (_manager, stage, source) = one_of_each(9, 9, 9);
    source.try_send_batch(&stage, rows("a", 0..2)).unwrap();
    for linger in [Duration::ZERO, Duration::from_millis(2)] {
        let batch = block_on(stage.recv_batch_linger(4, linger)).unwrap();
        assert_eq!(ids(&batch), [0, 1]);
        batch.settle(|_| conveyor_buffer::Outcome::Return);
        let batch = stage.recv_batch_linger_blocking(4, linger).unwrap();
        assert_eq!(ids(&batch), [0, 1]);
        drop(batch);
    }
}

#[test]
fn one_push_wakes_one_of_many_workers() {
    let (_manager, stage, source) = one_of_each(99, 99, 99);
    let mut workers: Vec<_> = (0..20).map(|_| waiting(stage.recv_batch(5))).collect();
    source.try_send(&stage, row("a", 0)).unwrap();
    assert_eq!(woken(&workers), 1);
    source.try_send_batch(&stage, rows("a", 1..9)).unwrap();
    assert_eq!(woken(&workers), 2);
    // The first takes six of nine; what it leaves, or the second, wakes another for the rest.
    let mut seen = Vec::new();
    let mut polls = 0;
    while let Some(at) = workers.iter().position(|worker| worker.wakes() > 0) {
        polls += 1;
        let mut worker = workers.swap_remove(at);
        match worker.poll() {
            Some(batch) => seen.extend(batch.unwrap().into_records().iter().map(|row| row.id)),
            None => assert!(worker.take_wake(), "it had to wait again"),
        }
    }
    assert!(seen.iter().copied().eq(0..9), "{seen:?}");
    assert!(polls <= 4, "{polls} workers were woken for nine records in two pushes");
    assert!(workers.iter().all(|worker| worker.wakes() == 0));
}

/// Gives up a worker's call after `polls` polls, with and without a record, while another waits.
fn give_up<T>(start: impl for<'a> Fn(&'a Stage<Row>) -> Manual<'a, T>) {
    for polls in 0..4 {
        for pushed_before in 0..3 {
            let (manager, stage, source) = one_of_each(9, 9, 9);
            let mut fickle = start(&stage);
            let mut polled = 0;
            while polled < polls && fickle.poll().is_none() {
                polled += 1;
                if polled <= pushed_before {
                    source.try_send(&stage, row("a", polled as u64 - 1)).unwrap();
                }
            }
            let pushed = polled.min(pushed_before) as u64;
            // It has its wake-up, if it was there first, and may have gathered records already.
            let mut other = Manual::new(stage.recv_batch(9));
            let first = other.poll();
            drop(fickle);
            let mut seen = Vec::new();
            if let Some(batch) = first {
                seen.extend(batch.unwrap().into_records());
            } else if pushed > 0 {
                seen.extend(other.woken().unwrap().into_records());
            }
            while let Ok(batch) = stage.try_recv_batch(9) {
                seen.extend(batch.into_records());
            }
            seen.sort_unstable_by_key(|row| row.id);
            assert_eq!(ids(&seen), (0..pushed).collect::<Vec<_>>(), "after {polled} polls");
            assert!(seen.iter().all(|row| row.retries == 0), "no retry is counted");
            drop(other);
            assert_nothing_is_held(&manager, &[stage], &[source]);
        }
    }
}

#[test]
fn a_worker_that_gives_up_at_any_poll_loses_no_record_and_no_wake_up() {
    give_up(|stage| Manual::new(async move { drop(stage.recv_batch_linger(5, FOR_EVER).await) }));
    // This one is never polled after its record came.
    for polls in 0..3 {
        let (_manager, stage, source) = one_of_each(9, 9, 9);
        let mut fickle = Manual::new(stage.recv_batch(1));
        (0..polls).for_each(|_| fickle.waits());
        let mut other = waiting(stage.recv_batch(1));
        source.try_send(&stage, row("a", 0)).unwrap();
        assert_eq!(fickle.wakes() + other.wakes(), 1);
        drop(fickle);
        assert_eq!(ids(&other.woken().unwrap()), [0]);
    }
}

#[test]
fn gathered_records_go_back_before_newer_ones_in_order_and_with_no_retry_counted() {
    let (manager, stage, a) = one_of_each(20, 20, 20);
    let b = manager.source("b").unwrap();
    a.try_send_batch(&stage, rows("a", 0..2)).unwrap();
    b.try_send_batch(&stage, rows("b", 2..4)).unwrap();
    a.try_send(&stage, row("a", 4)).unwrap();
    let fickle = waiting(stage.recv_batch_linger(9, FOR_EVER));
    b.try_send(&stage, row("b", 5)).unwrap();
    assert_eq!((stage.len(), stage.in_flight()), (1, 5));
    drop(fickle);
    assert_eq!((stage.len(), stage.in_flight()), (6, 0));
    let batch = take(&stage, 9);
    assert_eq!(ids(&batch), [0, 1, 2, 3, 4, 5]);
    assert!(batch.iter().all(|row| row.retries == 0));
    batch.ack();
    assert_nothing_is_held(&manager, &[stage], &[a, b]);
}

#[test]
fn workers_of_a_closed_buffer_drain_the_rest_and_then_see_the_close() {
    let (manager, stage, source) = one_of_each(9, 9, 9);
    let idle = manager.stage("idle").unwrap();
    source.try_send_batch(&stage, rows("a", 0..2)).unwrap();
    let mut workers: Vec<_> = (0..3).map(|_| waiting(idle.recv_batch(1))).collect();
    manager.close();
    // A record that is left might still be forwarded to the idle stage.
    workers.iter_mut().for_each(Manual::waits);
    at_once(stage.recv_batch(1)).unwrap().ack();
    let last = at_once(stage.recv_batch(1)).unwrap();
    let mut own = waiting(stage.recv_batch(1));
    workers.iter_mut().for_each(Manual::waits);
    last.ack();
    assert!(own.woken().is_err());
    assert!(workers.iter_mut().all(|worker| worker.woken().is_err()));
    assert!(at_once(stage.recv_batch_linger(9, FOR_EVER)).is_err());
    assert!(stage.recv_batch_blocking(1).is_err());
}

#[test]
fn workers_of_a_closed_stage_are_told_when_the_last_of_its_records_is_settled() {
    let (manager, stage, source) = one_of_each(9, 9, 9);
    let other = manager.stage("other").unwrap();
    source.try_send_batch(&stage, rows("a", 0..2)).unwrap();
    source.try_send(&other, row("a", 2)).unwrap();
    let batch = take(&stage, 2);
    let mut worker = waiting(stage.recv_batch(1));
    stage.close();
    worker.waits();
    batch.return_to_buffer();
    worker.woken().unwrap().ack();
    let last = take(&stage, 1);
    let mut workers: Vec<_> = (0..3).map(|_| waiting(stage.recv_batch(1))).collect();
    last.try_forward(&other).unwrap();
    assert!(workers.iter_mut().all(|worker| worker.woken().is_err()));
    assert_eq!(drain(&other), [2, 1]);
}

#[test]
fn a_worker_that_waits_at_an_idle_stage_is_told_when_it_is_removed() {
    let (manager, stage, _) = one_of_each(9, 9, 9);
    let mut workers: Vec<_> = (0..3).map(|_| waiting(stage.recv_batch(1))).collect();
    let mut lingering = waiting(stage.recv_batch_linger(5, FOR_EVER));
    manager.remove_stage("stage").unwrap();
    assert!(workers.iter_mut().all(|worker| worker.woken().is_err()));
    assert!(lingering.woken().is_err());
}

#[test]
fn a_close_ends_the_lingering() {
    let closers: [fn(&Manager, &Stage<Row>); 2] =
        [|_, stage| stage.close(), |manager, _| manager.close()];
    for close in closers {
        let (manager, stage, source) = one_of_each(9, 9, 9);
        source.try_send_batch(&stage, rows("a", 0..2)).unwrap();
        let mut worker = waiting(stage.recv_batch_linger(5, FOR_EVER));
        close(&manager, &stage);
        assert_eq!(ids(&worker.woken().unwrap()), [0, 1]);
        source.try_send(&stage, row("a", 2)).unwrap_err();
    }
}

#[test]
fn a_loop_that_never_waits_yields_after_128_batches() {
    let (_manager, stage, source) = one_of_each(1_000, 1_000, 1_000);
    source.try_send_batch(&stage, rows("a", 0..600)).unwrap();
    let mut pending = Vec::new();
    for taken in 0..400 {
        let mut receive = Manual::new(stage.recv_batch(1));
        let batch = receive.poll().unwrap_or_else(|| {
            pending.push(taken);
            assert_eq!(receive.wakes(), 1, "it wakes itself");
            assert_eq!((stage.len(), stage.in_flight()), (600 - taken, 0), "it holds nothing");
            receive.woken()
        });
        batch.unwrap().ack();
    }
    // A turn is 128 batches, and the call that yields takes its own without counting it.
    assert_eq!(pending, [128, 257, 386]);
    // One that is given up when it yields takes nothing, and another turn has begun.
    let other = stage.clone();
    for _ in 0..128 {
        at_once(other.recv_batch(1)).unwrap().ack();
    }
    Manual::new(other.recv_batch(1)).waits();
    at_once(other.recv_batch(1)).unwrap().ack();
    // A call that blocks does not yield, even for no time at all.
    for _ in 0..71 {
        stage.recv_batch_timeout(1, Duration::ZERO).unwrap().ack();
    }
    assert!(stage.is_empty());
    // One that has waited begins another turn.
    for _ in 0..127 {
        source.try_send(&stage, row("a", 0)).unwrap();
        let mut receive = Manual::new(other.recv_batch(1));
        receive.poll().unwrap_or_else(|| receive.woken()).unwrap().ack();
    }
    let mut receive = waiting(other.recv_batch(1));
    let _ = receive.poll();
    source.try_send(&stage, row("a", 0)).unwrap();
    receive.woken().unwrap().ack();
    drop(receive);
    source.try_send_batch(&stage, rows("a", 0..128)).unwrap();
    for _ in 0..128 {
        at_once(other.recv_batch(1)).unwrap().ack();
    }
}

#[test]
fn a_worker_that_never_waits_lets_the_other_tasks_of_its_thread_run() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (_manager, stage, source) = one_of_each(64, 64, 64);
    let polled = std::cell::Cell::new(0);
    runtime.block_on(async {
        let worker = async {
            for _ in 0..1_000 {
                source.try_send(&stage, row("a", 0)).unwrap();
                stage.recv_batch(1).await.unwrap().ack();
            }
        };
        let others = async {
            loop {
                polled.set(polled.get() + 1);
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = worker => {}
            () = others => {}
        }
    });
    assert!(polled.get() >= 7, "the other task ran {} times", polled.get());
}

#[test]
fn a_linger_follows_the_paused_clock_of_a_runtime() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let (_manager, stage, source) = one_of_each(64, 64, 64);
    runtime.unwrap().block_on(async {
        let began = tokio::time::Instant::now();
        let linger = || async { tokio::time::sleep(Duration::from_secs(3_600)).await };
        let feed = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            source.try_send(&stage, row("a", 0)).unwrap();
            tokio::time::sleep(Duration::from_secs(60)).await;
            source.try_send(&stage, row("a", 1)).unwrap();
        };
        let (batch, ()) = tokio::join!(stage.recv_batch_linger_with(9, linger()), feed);
        let batch = batch.unwrap();
        assert_eq!(ids(&batch), [0, 1]);
        // It counts from the first record.
        assert_eq!(began.elapsed().as_secs(), 3_660);
        batch.ack();
        // A full batch ends it.
        source.try_send_batch(&stage, rows("a", 0..9)).unwrap();
        stage.recv_batch_linger_with(9, linger()).await.unwrap().ack();
        assert_eq!(began.elapsed().as_secs(), 3_660);
    });
}

#[test]
fn a_linger_whose_timer_panics_gives_its_records_back() {
    let (_manager, stage, source) = one_of_each(9, 9, 9);
    source.try_send(&stage, row("a", 0)).unwrap();
    let lingering = stage.recv_batch_linger_with(5, async { panic!("the timer fails") });
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| block_on(lingering)));
    assert!(caught.is_err());
    assert_eq!((stage.len(), stage.in_flight()), (1, 0));
    assert_eq!(take(&stage, 1).into_records()[0].retries, 0);
}
