//! Calls that wait, and some that are given up, up to a close. A schedule in which everybody waits is a
//! deadlock, which the explorer reports.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use shuttle::future::block_on;
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;

use crate::buffer::{Buffer, Caps, DELAYS, Row, SOURCES, STAGES};
use crate::explore::explore;
use crate::handle::Batch;
use crate::sync::advance;

/// A number from 0 up to, and without, `below`.
fn any(below: usize) -> usize {
    thread_rng().gen_range(0..below)
}

/// Polls a future a few times, and drops it if it is not done.
pub(crate) fn fickle<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..any(3) {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => return Some(output),
            Poll::Pending => thread::yield_now(),
        }
    }
    None
}

/// Waits, or gives up now and then.
fn wait<F: Future>(future: F) -> Option<F::Output> {
    if any(3) == 0 { fickle(future) } else { Some(block_on(future)) }
}

/// Pushes until it is told of the close, and tells what was accepted.
fn push(buffer: &Buffer, number: u64, source: usize, stages: usize) -> Vec<u64> {
    let handle = buffer.source(source);
    let (mut accepted, mut next) = (Vec::new(), number << 32);
    let own = any(stages);
    let mut producer = handle.producer(&buffer.stage(own)).with_block_size(1 + any(6));
    loop {
        if any(3) == 0 {
            let sent = wait(producer.send(Row::new(next, source)));
            if matches!(sent, Some(Ok(()))) {
                buffer.entered(own, source, 1);
                accepted.push(next);
            }
            next += 1;
            if matches!(sent, Some(Err(_))) {
                return accepted;
            }
            continue;
        }
        // What it holds back would keep this thread and others waiting.
        producer.flush();
        let stage = any(stages);
        let to = buffer.stage(stage);
        let caps = buffer.caps;
        let most = caps.total.min(caps.per_stage).min(caps.per_source).min(4) as usize;
        let ids: Vec<u64> = (next..).take(1 + any(most)).collect();
        next += ids.len() as u64;
        let rows: Vec<_> = ids.iter().map(|&id| Row::new(id, source)).collect();
        let sent = match any(3) {
            0 => wait(handle.reserve(&to, rows.len())).map(|permit| {
                let sent = permit.map(|permit| permit.send_batch(rows).expect("reserved"));
                sent.map_err(|reason| (0, reason))
            }),
            1 => {
                let sent = handle.try_send_batch(&to, rows);
                Some(sent.map_err(|rejected| (rejected.accepted, rejected.reason)))
            }
            _ => wait(handle.send_batch(&to, rows))
                .map(|sent| sent.map_err(|rejected| (rejected.accepted, rejected.reason))),
        };
        let (len, closed) = match sent {
            None => (0, false),
            Some(Ok(())) => (ids.len(), false),
            Some(Err((len, reason))) => {
                assert!(reason.is_full() || reason.is_closed(), "{reason}");
                (len, reason.is_closed())
            }
        };
        buffer.entered(stage, source, len);
        accepted.extend(&ids[..len]);
        if closed {
            return accepted;
        }
    }
}

/// Works at a stage until it is told that nothing more will come, and tells what it acknowledged.
fn work(buffer: &Buffer, stage: usize) -> Vec<u64> {
    let (here, mut gone) = (buffer.stage(stage), Vec::new());
    loop {
        let max = 1 + any(4);
        let taken = match any(4) {
            0 => wait(here.recv_batch(max)),
            // It lingers until its batch is full or the buffer is closed.
            1 => Some(here.recv_batch_linger_blocking(max, Duration::MAX)),
            // There is no time under a schedule: it lingers for none.
            _ => wait(here.recv_batch_linger(max, Duration::ZERO)),
        };
        if let Some(Ok(batch)) = &taken {
            buffer.taken(batch);
        }
        match taken {
            None => {}
            Some(Err(_)) => return gone,
            Some(Ok(mut batch)) if any(6) == 0 => {
                let delay = DELAYS[any(DELAYS.len())];
                batch.iter_mut().for_each(|row| buffer.returns_after(stage, row, delay));
                batch.return_after(delay);
                if !delay.is_zero() {
                    // The time passes at any later moment.
                    thread::spawn(move || advance(delay));
                }
            }
            Some(Ok(batch)) if any(8) == 0 => batch.requeue(),
            Some(Ok(batch)) if stage + 1 < STAGES.len() => forward(buffer, stage, batch),
            Some(Ok(batch)) => {
                batch.iter().for_each(|row| buffer.leaves(stage, row));
                gone.extend(batch.iter().map(|row| row.id));
                batch.ack();
            }
        }
    }
}

fn forward(buffer: &Buffer, stage: usize, batch: Batch<Row>) {
    let len = batch.len();
    buffer.leave_places(stage, len);
    match wait(batch.forward(&buffer.stage(stage + 1))) {
        Some(Ok(())) => buffer.entered_places(stage + 1, len),
        Some(Err(error)) => {
            // Never: the next stage is as large, and stays open.
            unreachable!("a batch that fits was refused: {error}");
        }
        // It went back to the stage, where another may have taken it on by now: the gauge leaves it
        // out, and so shows less than there is.
        None => {}
    }
}

/// Runs these threads up to a close, and checks that all was settled once and nothing is held.
fn run(caps: Caps, pushers: usize, workers: [usize; STAGES.len()]) {
    let caps = Caps { retry_limit: None, ..caps };
    let buffer = Buffer::new(caps);
    // Before the close, for no name can be made after it.
    (0..STAGES.len()).for_each(|stage| drop(buffer.stage(stage)));
    (0..SOURCES.len()).for_each(|source| drop(buffer.source(source)));
    let pushing: Vec<_> = (0..pushers)
        .map(|n| {
            let buffer = Arc::clone(&buffer);
            thread::spawn(move || push(&buffer, n as u64, n % SOURCES.len(), STAGES.len()))
        })
        .collect();
    let working: Vec<_> = workers
        .iter()
        .enumerate()
        .flat_map(|(stage, &workers)| vec![stage; workers])
        .map(|stage| {
            let buffer = Arc::clone(&buffer);
            thread::spawn(move || work(&buffer, stage))
        })
        .collect();
    for _ in 0..any(40) {
        buffer.look();
    }
    buffer.manager.close();
    fickle(buffer.manager.drain());
    block_on(buffer.manager.drain());
    let settle = |threads: Vec<thread::JoinHandle<Vec<u64>>>| {
        let mut ids: Vec<u64> =
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        ids.sort_unstable();
        ids
    };
    let (accepted, gone) = (settle(pushing), settle(working));
    assert_eq!(accepted, gone, "each record is settled once");
    assert!(buffer.manager.remaining().is_empty());
    buffer.assert_all_is_free();
}

#[test]
fn pushes_workers_and_forwards_that_wait_all_go_home_after_a_close() {
    explore(150, || run(Caps::any(), 3, [2, 1]));
}

#[test]
fn one_credit_for_everybody_is_enough() {
    explore(100, || {
        run(Caps { total: 1 + any(2) as u32, per_stage: 1, ..Caps::any() }, 2, [1, 1]);
    });
}
