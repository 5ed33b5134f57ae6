//! The calls that wait, in the sequential model: a call is a future that is kept from one step to the
//! next. It is polled only when it was woken, so that a wake-up that is lost is seen: after each step
//! a call that is left waiting must have something to wait for.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use conveyor_buffer::{
    Batch, Closed, ForwardError, Permit, RecvTimeoutError, RejectReason, RejectedBatch,
};
use pollster::block_on;

use super::{
    Entry, Model, NAMES, Open, Operation, Pair, Record, Row, StageModel, answer_of_one, rows_of,
};

/// For how many steps a call that wants room is kept. A request that is bypassed more often than that
/// allows reserves what it needs, which this model does not know.
const STEPS: usize = 2;

/// A call that waits.
struct Kept<T> {
    future: Pin<Box<dyn Future<Output = T>>>,
    woken: Arc<Woken>,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<T> Kept<T> {
    fn new(future: impl Future<Output = T> + 'static) -> Self {
        Self { future: Box::pin(future), woken: Arc::new(Woken(AtomicBool::new(true))) }
    }

    /// The result, if the call was woken and has one.
    fn poll(&mut self) -> Option<T> {
        let waker = Waker::from(Arc::clone(&self.woken));
        while self.woken.0.swap(false, Ordering::Relaxed) {
            if let Poll::Ready(result) = self.future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return Some(result);
            }
        }
        None
    }
}

/// The calls that wait now: one of each kind at most.
#[derive(Default)]
pub(super) struct Waiting {
    wanting: Option<Wanting>,
    receiving: Option<Receiving>,
    draining: Option<Kept<()>>,
}

/// A call that waits for room.
struct Wanting {
    call: Call,
    to: usize,
    steps: usize,
    /// Whether it stands in line.
    waited: bool,
}

enum Call {
    Send {
        sent: Kept<Result<(), RejectedBatch<Record>>>,
        from: usize,
        rows: Vec<Row>,
    },
    Reserve {
        permit: Kept<Result<Permit<Record>, RejectReason>>,
        from: usize,
        len: usize,
        records: Vec<Record>,
    },
    Forward {
        forwarded: Kept<Result<(), ForwardError<Record>>>,
        stage: usize,
        entries: Vec<Entry>,
    },
}

struct Receiving {
    batch: Kept<Result<Batch<Record>, Closed>>,
    stage: usize,
    max: usize,
}

/// What the model says of a call that wants room.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Fits,
    Waits,
    Refused(RejectReason),
}

impl Model {
    /// How a push of `len` records stands that takes all or waits.
    fn standing(&self, from: usize, to: usize, len: usize, units: usize) -> Standing {
        let (source, stage) = (&self.sources[from], &self.stages[to]);
        let (own, total) = (source.capacity, self.total_for(source.name));
        let places = stage.capacity;
        let too_large = |capacity, limit| {
            Standing::Refused(RejectReason::TooLarge { records: len, capacity, limit })
        };
        if len > own {
            too_large(own, format!("source {}", NAMES[source.name]))
        } else if len > total {
            too_large(total, "the buffer".to_owned())
        } else if len > places {
            too_large(places, format!("stage {}", NAMES[stage.name]))
        } else if let Some(reason) = self.never_fits(from, len, units) {
            Standing::Refused(reason)
        } else if self.closed || source.shut || stage.shut {
            Standing::Refused(RejectReason::Closed)
        } else if self.obstacle(from, to, len, units).is_some() {
            Standing::Waits
        } else {
            Standing::Fits
        }
    }

    /// A push of `len` records, whatever comes of it.
    fn note_push(&mut self, from: usize, to: usize, len: usize) {
        if len > 0 {
            self.sources[from].latest = Some(to);
        }
    }

    /// What a push of all these records is charged.
    fn units_of(&self, rows: &[Row]) -> usize {
        rows.iter().map(|row| self.charge_of(row)).sum()
    }

    /// The limit that such a push waits at.
    fn obstacle(&self, from: usize, to: usize, len: usize, units: usize) -> Option<RejectReason> {
        let (source, stage) = (&self.sources[from], &self.stages[to]);
        let (own, room) = (source.capacity - source.used, self.room(source.name));
        let full = if own < len && own <= room {
            let (source_id, held) = (NAMES[source.name].into(), source.used);
            Some(RejectReason::SourceFull { source_id, held, capacity: source.capacity })
        } else if room < len {
            Some(self.full(source.name, len))
        } else if let Some(reason) = self.lack_of_bytes(from, units) {
            Some(reason)
        } else if stage.capacity - stage.occupied < len {
            let (stage_id, held) = (NAMES[stage.name].into(), stage.occupied);
            Some(RejectReason::StageFull { stage_id, held, capacity: stage.capacity })
        } else {
            None
        };
        full.map(|reason| self.with_parked(reason, from, to))
    }

    /// How a forward stands that moves the whole batch or waits.
    fn standing_of_forward(&self, stage: usize, to: usize, len: usize) -> Standing {
        match self.refusal_of_forward(to, len) {
            None => Standing::Fits,
            Some(reason) if reason.is_full() && stage != to => Standing::Waits,
            Some(reason) => Standing::Refused(reason),
        }
    }

    /// Why a batch of `len` records cannot be moved now.
    pub(super) fn refusal_of_forward(&self, to: usize, len: usize) -> Option<RejectReason> {
        let StageModel { name, capacity, occupied: held, shut, .. } = self.stages[to];
        if len == 0 {
            None
        } else if len > capacity {
            let limit = format!("stage {}", NAMES[name]);
            Some(RejectReason::TooLarge { records: len, capacity, limit })
        } else if shut {
            Some(RejectReason::Closed)
        } else if capacity - held >= len {
            None
        } else {
            let full = RejectReason::StageFull { stage_id: NAMES[name].into(), held, capacity };
            // The stage alone is in the way, whatever the source.
            Some(self.with_parked(full, usize::MAX, to))
        }
    }
}

impl Wanting {
    /// The source of a push.
    fn source(&self) -> Option<usize> {
        match self.call {
            Call::Send { from, .. } | Call::Reserve { from, .. } => Some(from),
            Call::Forward { .. } => None,
        }
    }

    /// Records that the call has and that are not in the buffer.
    fn outside(&self) -> usize {
        match &self.call {
            Call::Send { rows, .. } => rows.len(),
            Call::Reserve { records, .. } => records.len(),
            Call::Forward { .. } => 0,
        }
    }
}

impl Waiting {
    /// Records in waiting calls that are not in the buffer.
    pub(super) fn outside(&self) -> usize {
        self.wanting.as_ref().map_or(0, Wanting::outside)
    }
}

impl Pair {
    /// Begins a call that waits, in place of the one of its kind that waits already.
    pub(super) fn begin(&mut self, operation: Operation) {
        match operation {
            Operation::SendAndWait { source, stage, of, records } => {
                self.cancel();
                let Some(((to, stage), (from, source))) = self.handles(stage, source) else {
                    return;
                };
                let records = self.records(records, |_| of);
                let rows = rows_of(&records);
                self.model.note_push(from, to, rows.len());
                let sent = Kept::new(async move { source.send_batch(&stage, records).await });
                self.want(Call::Send { sent, from, rows }, to);
            }
            Operation::Reserve { source, stage, of, records, sent } => {
                self.cancel();
                let Some(((to, stage), (from, source))) = self.handles(stage, source) else {
                    return;
                };
                let permit = Kept::new(async move { source.reserve(&stage, records).await });
                let (len, records) = (records.max(1), self.records(sent, |_| of));
                self.model.note_push(from, to, len);
                self.want(Call::Reserve { permit, from, len, records }, to);
            }
            Operation::ForwardAndWait { batch, stage } => {
                self.cancel();
                let Some((to, next)) = self.stage(stage) else { return };
                if self.open.is_empty() {
                    return;
                }
                let index = batch % self.open.len();
                let Open { stage, batch, entries } = self.open.swap_remove(index);
                let forwarded = Kept::new(async move { batch.forward(&next).await });
                self.want(Call::Forward { forwarded, stage, entries }, to);
            }
            Operation::ReceiveAndWait { stage, max } => {
                let Some((stage, handle)) = self.stage(stage) else { return };
                let batch = Kept::new(async move { handle.recv_batch(max).await });
                self.waiting.receiving = Some(Receiving { batch, stage, max: max.max(1) });
            }
            Operation::Drain => {
                let manager = self.manager.clone();
                self.waiting.draining = Some(Kept::new(async move { manager.drain().await }));
            }
            _ => self.cancel(),
        }
    }

    fn want(&mut self, call: Call, to: usize) {
        self.waiting.wanting = Some(Wanting { call, to, steps: 0, waited: false });
    }

    /// Gives up the call that waits for room.
    pub(super) fn cancel(&mut self) {
        let Some(wanting) = self.waiting.wanting.take() else { return };
        self.note_wait(&wanting);
        if let Call::Forward { forwarded, stage, entries } = wanting.call {
            drop(forwarded);
            self.model.requeue(stage, entries);
        }
    }

    /// Counts the wait of a call that ends.
    fn note_wait(&mut self, wanting: &Wanting) {
        if wanting.waited {
            self.model.waited(wanting.to, wanting.source());
        }
    }

    /// Gives up every call that waits.
    pub(super) fn cancel_all(&mut self) {
        self.cancel();
        self.waiting = Waiting::default();
    }

    /// Sees how the waiting calls stand after a step. `many` says that the step may have given
    /// something back many times.
    pub(super) fn follow(&mut self, many: bool) {
        if let Some(mut wanting) = self.waiting.wanting.take() {
            wanting.steps += 1;
            let too_long = many || wanting.steps > STEPS;
            self.follow_wanting(wanting);
            if too_long {
                self.cancel();
            }
        }
        if let Some(Receiving { mut batch, stage, max }) = self.waiting.receiving.take() {
            match batch.poll() {
                Some(Ok(batch)) => {
                    let entries = self.model.take(stage, max);
                    self.open(Open { stage, batch, entries });
                }
                Some(Err(Closed)) => self.model.assert_ended(stage),
                None => {
                    self.model.assert_waits(stage);
                    self.waiting.receiving = Some(Receiving { batch, stage, max });
                }
            }
        }
        if let Some(mut draining) = self.waiting.draining.take() {
            let settled = self.model.used == self.model.parked.len();
            assert_eq!(
                draining.poll().is_some(),
                settled,
                "drained when nothing is left, and only then"
            );
            if !settled {
                self.waiting.draining = Some(draining);
            }
        }
    }

    fn follow_wanting(&mut self, mut wanting: Wanting) {
        let (to, source) = (wanting.to, wanting.source());
        let decided = self.decide_wanting(&mut wanting, to);
        match decided {
            None => {
                wanting.waited = true;
                self.waiting.wanting = Some(wanting);
            }
            Some(reason) => {
                self.note_wait(&wanting);
                self.model.refused(to, source, reason.as_ref());
            }
        }
    }

    /// Sees whether a call that wants room is decided: granted, or refused for a reason.
    fn decide_wanting(&mut self, wanting: &mut Wanting, to: usize) -> Option<Option<RejectReason>> {
        match &mut wanting.call {
            Call::Send { sent, from, rows } => {
                let units = self.model.units_of(rows);
                let standing = self.model.standing(*from, to, rows.len(), units);
                match sent.poll() {
                    None => {
                        assert_eq!(standing, Standing::Waits);
                        None
                    }
                    Some(Ok(())) => {
                        assert!(rows.is_empty() || standing == Standing::Fits);
                        let answer = self.model.push_granted(to, *from, rows);
                        assert_eq!(answer, (rows.len(), None));
                        Some(None)
                    }
                    Some(Err(RejectedBatch { accepted, records, reason })) => {
                        assert_eq!(standing, Standing::Refused(reason.clone()));
                        assert_eq!((accepted, rows_of(&records)), (0, rows.clone()));
                        Some(Some(reason))
                    }
                }
            }
            Call::Reserve { permit, from, len, records } => {
                let standing = self.model.standing(*from, to, *len, 0);
                match permit.poll() {
                    None => {
                        assert_eq!(standing, Standing::Waits);
                        None
                    }
                    Some(Ok(permit)) => {
                        assert_eq!((standing, permit.len()), (Standing::Fits, *len));
                        let records = std::mem::take(records);
                        let rows = rows_of(&records);
                        let sent = rows.len().min(*len);
                        // A permit holds no bytes: the records take theirs.
                        let (sent, _) = self.model.fit_bytes(*from, &rows[..sent]);
                        let rest = permit.send_batch(records).err().unwrap_or_default();
                        assert_eq!(rows_of(&rest), rows[sent..]);
                        let answer = self.model.push_granted(to, *from, &rows[..sent]);
                        assert_eq!(answer, (sent, None));
                        Some(None)
                    }
                    Some(Err(reason)) => {
                        assert_eq!(standing, Standing::Refused(reason.clone()));
                        Some(Some(reason))
                    }
                }
            }
            Call::Forward { forwarded, stage, entries } => {
                let standing = self.model.standing_of_forward(*stage, to, entries.len());
                match forwarded.poll() {
                    None => {
                        assert_eq!(standing, Standing::Waits);
                        None
                    }
                    Some(Ok(())) => {
                        assert_eq!(standing, Standing::Fits);
                        assert!(self.model.forward(*stage, to, entries));
                        Some(None)
                    }
                    Some(Err(ForwardError { batch, reason, .. })) => {
                        assert_eq!(standing, Standing::Refused(reason.clone()));
                        let (stage, entries) = (*stage, std::mem::take(entries));
                        self.open(Open { stage, batch, entries });
                        Some(Some(reason))
                    }
                }
            }
        }
    }

    /// A push that waits for no time at all.
    pub(super) fn send_for_no_time(
        &mut self,
        source: usize,
        stage: usize,
        of: usize,
        records: usize,
    ) {
        self.cancel();
        let Some(((to, stage), (from, source))) = self.handles(stage, source) else { return };
        let records = self.records(records, |_| of);
        let rows = rows_of(&records);
        self.model.note_push(from, to, rows.len());
        let units = self.model.units_of(&rows);
        let expected = match self.model.standing(from, to, rows.len(), units) {
            _ if rows.is_empty() => None,
            Standing::Fits => None,
            Standing::Waits => self.model.obstacle(from, to, rows.len(), units),
            Standing::Refused(reason) => Some(reason),
        };
        let (refused, reason) = match source.send_batch_timeout(&stage, records, Duration::ZERO) {
            Ok(()) => (Vec::new(), None),
            Err(rejected) => (rejected.records, Some(rejected.reason)),
        };
        if !rows.is_empty() && self.model.standing(from, to, rows.len(), units) == Standing::Waits {
            self.model.waited(to, Some(from));
        }
        self.model.refused(to, Some(from), expected.as_ref());
        assert_eq!(reason, expected);
        let accepted = if reason.is_none() { &rows[..] } else { &[] };
        assert_eq!(rows_of(&refused), rows[accepted.len()..]);
        assert_eq!(self.model.push(to, from, accepted), (accepted.len(), None));
    }

    /// A permit for what there is now, used one record at a time. The rest is given back.
    pub(super) fn reserve_now(
        &mut self,
        source: usize,
        stage: usize,
        of: usize,
        max: usize,
        sent: usize,
    ) {
        self.cancel();
        let Some(((to, stage), (from, source))) = self.handles(stage, source) else { return };
        let records = self.records(sent, |_| of);
        let rows = rows_of(&records);
        self.model.note_push(from, to, 1);
        let room = self.model.room_for(from, to);
        let (own, total) = self.model.free_units(from);
        assert_eq!(source.capacity_for(&stage), room.min(own).min(total));
        let mut permit = match source.try_reserve_up_to(&stage, max) {
            Ok(permit) => permit,
            Err(reason) => {
                self.model.refused(to, Some(from), Some(&reason));
                assert_eq!(self.model.refusal_of_credits(to, from), Some(reason));
                return;
            }
        };
        let len = permit.len();
        assert_eq!((len, stage.reserved()), (max.max(1).min(room), len));
        for (record, row) in records.into_iter().zip(rows) {
            // A record for which there are too few bytes leaves the permit as it is.
            let fits = !permit.is_empty() && self.model.fit_bytes(from, &[row]).0 == 1;
            assert_eq!(permit.push(record).is_ok(), fits);
            if fits {
                // The credits that the permit still holds are free in the model.
                assert_eq!(self.model.push(to, from, &[row]), (1, None));
            }
        }
        drop(permit);
    }

    /// Pushes records one at a time by a producer. What it holds ahead counts as held in the library,
    /// and is free in the model.
    pub(super) fn produce(
        &mut self,
        source: usize,
        stage: usize,
        of: usize,
        records: usize,
        block: usize,
    ) {
        // What it gives back would serve a request that waits.
        self.cancel();
        let Some(((to, stage), (from, source))) = self.handles(stage, source) else { return };
        let receiving = self.waiting.receiving.as_ref();
        let mut worker_waits = receiving.is_some_and(|it| it.stage == to) && stage.is_empty();
        let mut producer = source.producer(&stage).with_block_size(block);
        for record in self.records(records, |_| of) {
            let row = record.row;
            let expected = if self.model.is_shut(from, to) {
                // Known before it asks for a place.
                (0, Some(RejectReason::Closed))
            } else if self.model.room_for(from, to) == 0 {
                (0, self.model.refusal_of_credits(to, from))
            } else {
                self.model.push(to, from, &[row])
            };
            self.model.refused(to, Some(from), expected.1.as_ref());
            assert_eq!(answer_of_one(producer.try_send(record), row), expected);
            let pending = producer.pending();
            if expected.1.is_some() || std::mem::take(&mut worker_waits) {
                assert_eq!(pending, 0, "a refusal publishes, and so does a worker that waits");
            }
            let ahead = stage.reserved() - pending;
            assert!(pending + ahead <= block.max(1), "{pending} pending and {ahead} ahead");
            assert_eq!(stage.len() + pending, self.model.stages[to].queue.len());
            assert_eq!(block_on(self.manager.get_total_buffered()), self.model.used + ahead);
            assert_eq!(source.available_credits() + ahead, self.model.available(from));
        }
        if block.is_multiple_of(2) {
            producer.flush();
            assert_eq!((producer.pending(), stage.reserved()), (0, 0));
        }
    }

    /// A worker that waits for no time at all.
    pub(super) fn receive_for_no_time(&mut self, stage: usize, max: usize) {
        let Some((stage, handle)) = self.stage(stage) else { return };
        match handle.recv_batch_timeout(max, Duration::ZERO) {
            Ok(batch) => {
                let entries = self.model.take(stage, max.max(1));
                self.open(Open { stage, batch, entries });
            }
            Err(RecvTimeoutError::Closed) => self.model.assert_ended(stage),
            Err(RecvTimeoutError::Timeout) => self.model.assert_waits(stage),
        }
    }
}
