//! What the threads do, at random, and what must be true of it.

use std::sync::Arc;

use pollster::block_on;
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;

use crate::buffer::{Buffer, Caps, DELAYS, Row, SOURCES, STAGES};
use crate::error::{RejectReason, TryRecvError};
use crate::explore::explore;
use crate::handle::{Batch, ForwardError, Outcome, Producer};
use crate::sync::advance;
use crate::waits::fickle;

/// A number from 0 up to, and without, `below`.
fn any(below: usize) -> usize {
    thread_rng().gen_range(0..below)
}

/// One thread, with what it holds and what it has seen.
struct Actor {
    buffer: Arc<Buffer>,
    next_id: u64,
    /// Batches that it has not settled yet, with their stages.
    open: Vec<(usize, Batch<Row>)>,
    /// Producers, with their sources and stages, that may have records pending.
    producers: Vec<(usize, usize, Producer<Row>)>,
    /// Records that hold no credits any more, and may be returned by name.
    handed_out: Vec<Row>,
    accepted: Vec<u64>,
    gone: Vec<u64>,
    /// Whether the buffer refused a push because it is closed.
    saw_close: bool,
}

impl Actor {
    fn new(buffer: &Arc<Buffer>, number: u64) -> Self {
        Self {
            buffer: Arc::clone(buffer),
            next_id: number << 32,
            open: Vec::new(),
            producers: Vec::new(),
            handed_out: Vec::new(),
            accepted: Vec::new(),
            gone: Vec::new(),
            saw_close: false,
        }
    }

    fn rows(&mut self, source: usize, len: usize) -> Vec<Row> {
        let first = self.next_id;
        self.next_id += len as u64;
        (first..self.next_id).map(|id| Row::new(id, source)).collect()
    }

    /// Pushes a record or several, by name or by handle.
    fn push(&mut self, source: usize, stage: usize) {
        let len = if any(2) == 0 { 1 } else { any(8) };
        let rows = self.rows(source, len);
        let ids: Vec<u64> = rows.iter().map(|row| row.id).collect();
        let manager = &self.buffer.manager;
        let by_name = any(2) == 0;
        let handles = manager.stage(STAGES[stage]).ok().zip(manager.source(SOURCES[source]).ok());
        let refused = match (rows, handles) {
            (mut rows, handles) if rows.len() == 1 => {
                let row = rows.remove(0);
                let pushed = match handles {
                    Some((stage, source)) if !by_name => source.try_send(&stage, row),
                    _ => block_on(manager.buffer_for_stage(STAGES[stage], row)),
                };
                pushed.err().map(|rejected| (vec![rejected.record], rejected.reason))
            }
            (rows, Some((stage, source))) if !by_name => {
                let pushed = source.try_send_batch(&stage, rows);
                pushed.err().map(|rejected| (rejected.records, rejected.reason))
            }
            (rows, _) => {
                let pushed = block_on(manager.buffer_batch_for_stage(STAGES[stage], rows));
                pushed.err().map(|rejected| (rejected.records, rejected.reason))
            }
        };
        let mut accepted = len;
        if let Some((rows, reason)) = refused {
            accepted -= rows.len();
            let rest = rows.iter().map(|row| row.id);
            assert!(rest.eq(ids[accepted..].iter().copied()), "refused are the last of them");
            self.note_refusal(&reason);
        }
        self.buffer.entered(stage, source, accepted);
        self.accepted.extend(&ids[..accepted]);
    }

    /// Does something with a producer, of which it has two at most.
    fn produce(&mut self, source: usize, stage: usize) {
        let manager = &self.buffer.manager;
        if self.producers.len() < 2
            && let Ok(to) = manager.stage(STAGES[stage])
            && let Ok(from) = manager.source(SOURCES[source])
        {
            let producer = from.producer(&to).with_block_size(1 + any(6));
            self.producers.push((source, stage, producer));
        }
        if self.producers.is_empty() {
            return;
        }
        let (source, stage, mut producer) = self.producers.swap_remove(0);
        match any(8) {
            // It is dropped, with whatever is pending.
            0 => return,
            1 => {
                producer.flush();
                assert_eq!(producer.pending(), 0);
            }
            _ => {
                for row in self.rows(source, 1 + any(4)) {
                    let id = row.id;
                    let sent = match any(4) {
                        0 => fickle(producer.send(row)),
                        _ => Some(producer.try_send(row)),
                    };
                    match sent {
                        Some(Ok(())) => {
                            self.buffer.entered(stage, source, 1);
                            self.accepted.push(id);
                        }
                        Some(Err(rejected)) => {
                            assert_eq!((rejected.record.id, producer.pending()), (id, 0));
                            self.note_refusal(&rejected.reason);
                            if rejected.is_closed() {
                                return;
                            }
                        }
                        None => {}
                    }
                }
            }
        }
        self.producers.push((source, stage, producer));
    }

    fn note_refusal(&mut self, reason: &RejectReason) {
        // A name may have been removed since it was looked up.
        assert!(reason.is_full() || reason.is_closed(), "{reason}");
        self.saw_close |= reason.is_closed() && self.buffer.manager.is_closed();
    }

    fn take(&mut self, stage: usize) {
        let Ok(handle) = self.buffer.manager.stage(STAGES[stage]) else { return };
        let max = 1 + any(6);
        match handle.try_recv_batch(max) {
            Ok(batch) => {
                assert!((1..=max).contains(&batch.len()));
                self.buffer.taken(&batch);
                self.open.push((stage, batch));
            }
            // A worker without work lets time pass.
            Err(_) => advance(DELAYS[1]),
        }
    }

    /// Does something with a batch that it holds.
    fn work(&mut self) {
        let Some((stage, mut batch)) = self.open.pop() else { return };
        let buffer = Arc::clone(&self.buffer);
        match any(12) {
            0 | 1 => self.ack(stage, batch),
            2 => {
                batch.iter_mut().for_each(|row| buffer.returns(stage, row));
                batch.return_to_buffer();
            }
            3 => {
                batch.iter().for_each(|row| buffer.leaves(stage, row));
                self.handed_out.extend(batch.into_records());
            }
            9 => {
                let delay = DELAYS[any(DELAYS.len())];
                batch.iter_mut().for_each(|row| buffer.returns_after(stage, row, delay));
                batch.return_after(delay);
            }
            10 => batch.requeue(),
            11 => isolate(batch),
            4 => self.settle(stage, batch),
            5 | 6 => {
                let next = any(STAGES.len());
                self.forward(stage, next, batch);
            }
            7 => {
                let rest = batch.split_off(any(batch.len() + 1));
                self.open.extend([(stage, batch), (stage, rest)]);
            }
            _ => {
                let (yes, no) = batch.partition(|_| any(2) == 0);
                self.open.extend([(stage, yes), (stage, no)]);
            }
        }
    }

    fn ack(&mut self, stage: usize, batch: Batch<Row>) {
        batch.iter().for_each(|row| self.buffer.leaves(stage, row));
        self.gone.extend(batch.iter().map(|row| row.id));
        batch.ack();
    }

    fn settle(&mut self, stage: usize, batch: Batch<Row>) {
        batch.settle(|row| match any(6) {
            0 => {
                self.buffer.returns(stage, row);
                Outcome::Return
            }
            4 => {
                let delay = DELAYS[any(DELAYS.len())];
                self.buffer.returns_after(stage, row, delay);
                Outcome::ReturnAfter(delay)
            }
            5 => Outcome::Requeue,
            1 => {
                self.buffer.leaves(stage, row);
                Outcome::DeadLetter
            }
            _ => {
                self.buffer.leaves(stage, row);
                self.gone.push(row.id);
                Outcome::Ack
            }
        });
    }

    fn forward(&mut self, stage: usize, next: usize, mut batch: Batch<Row>) {
        let Ok(handle) = self.buffer.manager.stage(STAGES[next]) else {
            return self.open.push((stage, batch));
        };
        let len = batch.len();
        let isolated = batch.iter().any(|row| row.is_isolated);
        batch.iter_mut().for_each(|row| row.is_isolated = false);
        self.buffer.leave_places(stage, len);
        match batch.try_forward(&handle) {
            Ok(()) => self.buffer.entered_places(next, len),
            Err(ForwardError { mut batch, .. }) => {
                assert_eq!(batch.len(), len, "what is not forwarded comes back whole");
                batch.iter_mut().for_each(|row| row.is_isolated = isolated);
                self.buffer.entered_places(stage, len);
                self.open.push((stage, batch));
            }
        }
    }

    /// Returns records of one source by name; they may be refused, like a push.
    fn return_by_name(&mut self, stage: usize) {
        let Some(source) = self.handed_out.last().map(|row| row.source) else { return };
        let alike = self.handed_out.iter().rev().take_while(|row| row.source == source).count();
        let len = 1 + any(alike);
        let mut rows = self.handed_out.split_off(self.handed_out.len() - len);
        rows.iter_mut().for_each(Row::is_out);
        let returns = rows.iter_mut().filter_map(|row| self.buffer.tries_again(row).then_some(()));
        let returns = returns.count();
        match block_on(self.buffer.manager.return_to_buffer(STAGES[stage], rows)) {
            Ok(returned) => {
                assert_eq!(returned, returns);
                self.buffer.entered(stage, source, returned);
            }
            Err(rejected) => {
                self.buffer.entered(stage, source, rejected.accepted);
                self.handed_out.extend(rejected.records);
            }
        }
    }

    fn receive(&mut self) {
        let letter = self.buffer.letters().try_recv();
        self.gone.extend(letter.map(|letter| letter.record.id));
    }

    fn remove_a_name(&self) {
        let manager = &self.buffer.manager;
        // Those in use are refused; the others are made again by the next who names them.
        let _ = if any(2) == 0 {
            manager.remove_stage(STAGES[any(STAGES.len())])
        } else {
            manager.remove_source(SOURCES[any(SOURCES.len())])
        };
    }

    /// Settles what it holds, and tells what it saw accepted and gone.
    fn finish(mut self) -> [Vec<u64>; 2] {
        self.producers.clear();
        while let Some((stage, mut batch)) = self.open.pop() {
            if any(2) == 0 {
                self.ack(stage, batch);
            } else {
                batch.iter_mut().for_each(|row| self.buffer.returns(stage, row));
                drop(batch);
            }
        }
        self.gone.extend(self.handed_out.iter().map(|row| row.id));
        [self.accepted, self.gone]
    }
}

/// Puts a batch back as one that a panic drops. A real panic would be seen in all threads, because a
/// schedule runs them on one thread of the system.
fn isolate(mut batch: Batch<Row>) {
    batch.iter_mut().for_each(|row| row.is_isolated = true);
    let (stage, contents) = batch.into_contents();
    stage.push_returned(contents, true);
}

/// Runs one thread for each role, and tells which ids were accepted and which are gone, in order.
fn run_all<const N: usize>(
    buffer: &Arc<Buffer>,
    roles: [fn(&mut Actor); N],
    meanwhile: impl FnOnce(),
) -> [Vec<u64>; 2] {
    let threads: Vec<_> = (1..)
        .zip(roles)
        .map(|(number, role)| {
            let mut actor = Actor::new(buffer, number);
            thread::spawn(move || {
                role(&mut actor);
                actor.finish()
            })
        })
        .collect();
    meanwhile();
    let mut all = [Vec::new(), Vec::new()];
    for thread in threads {
        let seen = thread.join().unwrap();
        all.iter_mut().zip(seen).for_each(|(all, seen)| all.extend(seen));
    }
    all.iter_mut().for_each(|ids| ids.sort_unstable());
    all
}

/// Pushes and now and then looks.
fn feed(actor: &mut Actor) {
    for _ in 0..30 {
        let (source, stage) = (any(SOURCES.len()), any(STAGES.len()));
        match any(3) {
            0 => actor.produce(source, stage),
            _ => actor.push(source, stage),
        }
    }
}

/// Takes, works, returns.
fn drudge(actor: &mut Actor) {
    for _ in 0..40 {
        match any(8) {
            0..=2 => actor.take(any(STAGES.len())),
            3..=5 => actor.work(),
            6 => actor.return_by_name(any(STAGES.len())),
            _ => actor.receive(),
        }
    }
}

/// Looks at every reading, and removes names that are idle.
fn keep_house(actor: &mut Actor) {
    for _ in 0..20 {
        actor.remove_a_name();
        actor.buffer.look();
    }
}

#[test]
fn whatever_calls_meet_every_record_is_settled_once_and_no_cap_is_passed() {
    explore(150, || {
        let buffer = Buffer::new(Caps::any());
        let roles = [feed, feed, feed, drudge, drudge, drudge, keep_house];
        let [accepted, mut gone] = run_all(&buffer, roles, || {});
        gone.extend(buffer.drain());
        gone.sort_unstable();
        assert_eq!(accepted, gone, "each record is settled once");
        buffer.assert_all_is_free();
    });
}

#[test]
fn forwards_between_two_small_stages_that_others_fill_lose_nothing() {
    /// Takes from either stage, and moves on what it took.
    fn shuffle(actor: &mut Actor) {
        for _ in 0..30 {
            let stage = any(STAGES.len());
            actor.take(stage);
            if let Some((stage, batch)) = actor.open.pop() {
                actor.forward(stage, 1 - stage, batch);
            }
            if actor.open.len() > 1 {
                actor.work();
            }
        }
    }

    explore(200, || {
        let mut caps = Caps::any();
        caps.total = 12;
        caps.per_source = 6;
        caps.per_stage = 2 + any(4) as u32;
        let buffer = Buffer::new(caps);
        let roles = [feed, feed, shuffle, shuffle, shuffle];
        let [accepted, mut gone] = run_all(&buffer, roles, || {});
        gone.extend(buffer.drain());
        gone.sort_unstable();
        assert_eq!(accepted, gone, "each record is settled once");
        buffer.assert_all_is_free();
    });
}

#[test]
fn a_lone_worker_sees_each_source_in_order_whatever_it_returns() {
    const EACH: u64 = 20;

    /// Pushes records 0 to `EACH` of one source, those that were refused again.
    fn push_in_order(buffer: &Buffer, source: usize) {
        let (stage, handle) = (buffer.stage(0), buffer.source(source));
        let mut producer = (any(2) == 0).then(|| handle.producer(&stage));
        let mut next = 0;
        while next < EACH {
            let len = (1 + any(5) as u64).min(EACH - next);
            let rows = (next..next + len).map(|id| Row::new(id, source));
            let accepted = match &mut producer {
                Some(producer) => {
                    rows.map(|row| producer.try_send(row)).take_while(Result::is_ok).count() as u64
                }
                None => match handle.try_send_batch(&stage, rows.collect()) {
                    Ok(()) => len,
                    Err(rejected) => rejected.accepted as u64,
                },
            };
            next += accepted;
            if accepted < len {
                // Until the worker has made room.
                thread::yield_now();
            }
        }
    }

    fn put_back(buffer: &Buffer, mut batch: Batch<Row>) {
        if any(2) == 0 {
            return batch.requeue();
        }
        batch.iter_mut().for_each(|row| buffer.returns(0, row));
        batch.return_to_buffer();
    }

    explore(150, || {
        let buffer = Buffer::new(Caps { retry_limit: None, ..Caps::any() });
        let pushers: Vec<_> = (0..SOURCES.len())
            .map(|source| {
                let buffer = Arc::clone(&buffer);
                thread::spawn(move || push_in_order(&buffer, source))
            })
            .collect();
        let stage = buffer.stage(0);
        let mut expected = [0; SOURCES.len()];
        while expected.iter().any(|&next| next < EACH) {
            let max = 1 + any(6);
            // While a worker waits, a producer publishes what its block holds so far.
            let taken = match any(3) {
                0 => fickle(stage.recv_batch(max)).and_then(Result::ok),
                _ => stage.try_recv_batch(max).ok(),
            };
            let Some(mut batch) = taken else {
                thread::yield_now();
                continue;
            };
            buffer.taken(&batch);
            // The rest of it comes again before all others.
            let rest = batch.split_off(any(batch.len() + 1));
            for row in &batch {
                assert_eq!(row.id, expected[row.source], "of {}", SOURCES[row.source]);
                expected[row.source] += 1;
            }
            if any(2) == 0 {
                batch.ack();
                put_back(&buffer, rest);
            } else {
                put_back(&buffer, rest);
                batch.ack();
            }
        }
        pushers.into_iter().for_each(|pusher| pusher.join().unwrap());
        buffer.assert_all_is_free();
    });
}

#[test]
fn after_a_close_workers_go_home_when_the_last_record_is_settled_and_not_before() {
    /// Pushes until it is refused for good.
    fn push_until_closed(actor: &mut Actor) {
        while !actor.saw_close {
            match any(3) {
                0 => actor.produce(any(SOURCES.len()), 0),
                _ => actor.push(any(SOURCES.len()), 0),
            }
            thread::yield_now();
        }
    }

    /// Works at one stage until it is told that nothing will come any more.
    fn work_until_closed(actor: &mut Actor, own: usize) {
        let buffer = Arc::clone(&actor.buffer);
        let stage = buffer.stage(own);
        loop {
            match stage.try_recv_batch(1 + any(4)) {
                Ok(mut batch) => {
                    buffer.taken(&batch);
                    let mut rest = batch.split_off(any(batch.len() + 1));
                    if own == 0 {
                        actor.forward(0, 1, batch);
                    } else {
                        actor.ack(own, batch);
                    }
                    match any(3) {
                        0 => actor.settle(own, rest),
                        1 => actor.ack(own, rest),
                        _ => {
                            rest.iter_mut().for_each(|row| buffer.returns(own, row));
                            rest.return_to_buffer();
                        }
                    }
                    // What could not be forwarded is settled, or the others would wait for it.
                    while let Some((stage, batch)) = actor.open.pop() {
                        actor.ack(stage, batch);
                    }
                }
                Err(TryRecvError::Closed) => break,
                Err(TryRecvError::Empty) => {
                    advance(DELAYS[1]);
                    thread::yield_now();
                }
            }
        }
        assert!(!buffer.knows_of_records(), "a worker went home before the last record");
    }

    explore(150, || {
        let buffer = Buffer::new(Caps { letters: 3, ..Caps::any() });
        // Before the close, for no name can be made after it.
        (0..STAGES.len()).for_each(|stage| drop(buffer.stage(stage)));
        (0..SOURCES.len()).for_each(|source| drop(buffer.source(source)));
        let roles: [fn(&mut Actor); 5] = [
            push_until_closed,
            push_until_closed,
            |actor| work_until_closed(actor, 0),
            |actor| work_until_closed(actor, 1),
            |actor| work_until_closed(actor, 1),
        ];
        let [accepted, mut gone] = run_all(&buffer, roles, || {
            (0..any(200)).for_each(|_| buffer.look());
            buffer.manager.close();
        });
        assert!(block_on(buffer.manager.get_stages_with_data()).is_empty());
        gone.extend(buffer.drain());
        gone.sort_unstable();
        assert_eq!(accepted, gone, "each record is settled once");
        buffer.assert_all_is_free();
    });
}
