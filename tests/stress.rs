//! Many threads and calls that wait, over a pipeline of three stages with tiny caps. It ends by a close
//! and a drain, and every record that was accepted has come out once.

mod common;

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use conveyor_buffer::{Source, Stage};

use common::waiting::*;
use common::*;

/// Pushes until the buffer is closed, and tells how many records were accepted.
fn push(source: &Source<Row>, stage: &Stage<Row>, seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let mut next = 0;
    loop {
        let len = 1 + rng.below(3) as u64;
        let batch = rows(source.id(), next..next + len);
        let brief = Duration::from_micros(rng.below(200) as u64);
        let refused = match rng.below(5) {
            0 => source.send_batch_blocking(stage, batch).err(),
            1 => source.send_batch_timeout(stage, batch, brief).err(),
            2 => source.try_send_batch(stage, batch).err(),
            3 => {
                // Waits for a moment, and gives up.
                let _ = Manual::new(source.send_batch(stage, batch)).poll().map(|sent| {
                    next += if sent.is_ok() { len } else { 0 };
                });
                continue;
            }
            _ => block_on(source.send_batch(stage, batch)).err(),
        };
        match refused {
            None => next += len,
            Some(rejected) => {
                next += rejected.accepted as u64;
                if rejected.is_closed() {
                    return next;
                }
            }
        }
    }
}

/// Moves batches on until the stage is drained; a few are returned or given up.
fn relay(stage: &Stage<Row>, next: &Stage<Row>, seed: u64, returns: bool) {
    let mut rng = Rng::new(seed);
    loop {
        let max = 1 + rng.below(3);
        if rng.one_in(4) {
            drop(Manual::new(stage.recv_batch_linger(max, FOR_EVER)).poll());
        }
        let batch = match rng.below(3) {
            0 => stage.recv_batch_blocking(max),
            1 => block_on(stage.recv_batch(max)),
            _ => stage.recv_batch_linger_blocking(max, Duration::from_micros(50)),
        };
        let Ok(batch) = batch else { return };
        assert!((1..=max).contains(&batch.len()));
        match rng.below(8) {
            0 if returns => {
                batch.return_to_buffer();
            }
            1 if returns => drop(Manual::new(batch.forward(next)).poll()),
            2 | 3 => block_on(batch.forward(next)).expect("the next stage is open"),
            _ => batch.forward_blocking(next).expect("the next stage is open"),
        }
    }
}

/// Runs it until so many records came out, and checks what came out.
fn run(round: u64, relays: usize, returns: bool, caps: conveyor_buffer::BufferSettings) {
    const ENOUGH: usize = 600;
    let manager = Manager::new(caps);
    let stages = ["parse", "join", "load"].map(|id| manager.stage(id).unwrap());
    let sources = ["a", "b", "c"].map(|id| manager.source(id).unwrap());
    let came_out = AtomicUsize::new(0);
    let (accepted, seen) = thread::scope(|scope| {
        let pushers: Vec<_> = (0..)
            .zip(&sources)
            .map(|(n, source)| {
                scope.spawn({
                    let stage = &stages[0];
                    move || push(source, stage, round * 100 + n)
                })
            })
            .collect();
        for n in 0..relays {
            for at in 0..2 {
                let (stage, next) = (&stages[at], &stages[at + 1]);
                let seed = round * 100 + 10 + (2 * n + at) as u64;
                scope.spawn(move || relay(stage, next, seed, returns));
            }
        }
        let loaders: Vec<_> = (0..relays)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = Vec::new();
                    while let Ok(batch) = stages[2].recv_batch_blocking(2) {
                        came_out.fetch_add(batch.len(), SeqCst);
                        seen.extend(batch.iter().cloned());
                        batch.ack();
                    }
                    seen
                })
            })
            .collect();
        while came_out.load(SeqCst) < ENOUGH {
            assert!(block_on(manager.get_total_buffered()) <= caps.max_total_records);
            assert!(stages.iter().all(|stage| stage.utilization() <= 1.0));
            assert!(sources.iter().all(|source| source.utilization() <= 1.0));
            thread::yield_now();
        }
        manager.close();
        manager.drain_timeout(FOR_EVER).unwrap();
        let accepted: Vec<u64> = pushers.into_iter().map(|pusher| pusher.join().unwrap()).collect();
        let seen: Vec<Row> =
            loaders.into_iter().flat_map(|loader| loader.join().unwrap()).collect();
        (accepted, seen)
    });
    for (source, accepted) in sources.iter().zip(accepted) {
        let mut of_it = ids(seen.iter().filter(|row| &*row.source == source.id()));
        if relays > 1 || returns {
            of_it.sort_unstable();
        }
        // With lone workers, in order.
        assert!(of_it.iter().copied().eq(0..accepted), "source {}: {of_it:?}", source.id());
    }
    assert_nothing_is_held(&manager, &stages, &sources);
}

#[test]
fn many_threads_that_wait_lose_nothing_and_all_go_home() {
    or_abort("many threads", || {
        for round in 0..10 {
            let caps = caps(3 + round as usize % 5, 3 + round as usize % 2, 3 + round as usize % 3);
            run(round, 2, true, caps);
        }
    });
}

#[test]
fn lone_workers_see_each_source_in_order_though_everybody_waits() {
    or_abort("lone workers", || {
        for round in 0..10 {
            run(100 + round, 1, false, caps(4 + round as usize % 4, 3, 3));
        }
    });
}
