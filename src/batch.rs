//! A batch: records in a worker's hands, settled exactly once.

use std::fmt;
use std::sync::Arc;

use crate::block::{Age, Block, Held, Records, count};
use crate::dead_letters::Label;
use crate::record::Envelope;
use crate::stage::{Stage, StageCore};

/// Records that a worker has taken from a stage and not settled yet.
///
/// They stay charged to the stage, their sources and the whole buffer. A batch is settled once: by
/// [`ack`](Self::ack), [`return_to_buffer`](Self::return_to_buffer), [`settle`](Self::settle),
/// [`into_records`](Self::into_records) or [`try_forward`](Self::try_forward). A batch that is
/// dropped instead, because its worker panicked or its task was cancelled, is returned: no record is
/// lost with a worker.
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
///
/// let manager = BufferManager::new(BufferSettings::default());
/// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
/// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
///
/// let worker = std::thread::spawn({
///     let stage = stage.clone();
///     move || {
///         let _batch = stage.try_recv_batch(10).unwrap();
///         panic!("a worker dies with a batch in hand");
///     }
/// });
/// assert!(worker.join().is_err());
///
/// let batch = stage.try_recv_batch(10)?;
/// assert_eq!(batch.iter().next().unwrap().retry_count, 1);
/// batch.ack();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a batch that is dropped is returned to its stage: settle it"]
pub struct Batch<E: Envelope> {
    stage: Arc<StageCore<E>>,
    held: Held<E>,
}

/// What becomes of one record of a batch, in [`Batch::settle`].
///
/// ```
/// use conveyor_buffer::Outcome;
///
/// let outcome = if "NA".parse::<u32>().is_ok() { Outcome::Ack } else { Outcome::Return };
/// assert_eq!(outcome, Outcome::Return);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is done with: it is dropped, and its credits are free again.
    Ack,
    /// It failed: it goes back to its stage, one retry counted, or to the dead letters if that would
    /// pass the retry limit.
    Return,
    /// It is hopeless: it goes to the dead letters, whatever its retry count.
    DeadLetter,
}

impl<E: Envelope> Batch<E> {
    #[inline]
    pub(crate) fn new(stage: Arc<StageCore<E>>, held: Held<E>) -> Self {
        Self { stage, held }
    }

    /// A batch of records that were handed out and have been charged to that account anew.
    pub(crate) fn readmitted(
        stage: Arc<StageCore<E>>,
        account: u32,
        age: Age,
        records: Vec<E>,
    ) -> Self {
        let mut held = Held::default();
        held.push_many(account, age.readmitted(), records);
        Self { stage, held }
    }

    /// How many records the batch holds.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
    /// let batch = stage.try_recv_batch(10)?;
    /// assert_eq!(batch.len(), 1);
    /// batch.ack();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether the batch holds no record. One that was taken from a stage holds at least one; a
    /// part of a batch may be empty.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
    /// let batch = stage.try_recv_batch(10)?;
    /// assert!(!batch.is_empty());
    /// batch.ack();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The records, in order.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
    /// let batch = stage.try_recv_batch(10)?;
    /// assert_eq!(batch.iter().map(|record| record.record).collect::<Vec<_>>(), ["line"]);
    /// batch.ack();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn iter(&self) -> std::slice::Iter<'_, E> {
        self.held.as_slice().iter()
    }

    /// The records, in order, to work on in place.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new(20, "a", "p", "filter"))?;
    /// let mut batch = stage.try_recv_batch(10)?;
    /// batch.iter_mut().for_each(|record| record.record += 1);
    /// assert_eq!(batch.into_records()[0].record, 21);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, E> {
        self.held.as_mut_slice().iter_mut()
    }

    /// Acknowledges every record: they are dropped, and their credits are free again.
    ///
    /// # Panics
    ///
    /// Only if the drop of a record does, and then with all credits given back.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
    /// stage.try_recv_batch(10)?.ack();
    /// assert_eq!(stage.utilization(), 0.0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn ack(mut self) {
        acknowledge(&self.stage, &mut self.held);
    }

    /// Returns every record to the front of its stage, one retry counted for each. Those whose
    /// retry count would pass the limit go to the dead letters.
    ///
    /// This cannot fail: the records have kept their places.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new(1, "a", "p", "filter"))?;
    /// source.try_send(&stage, BufferedRecord::new(2, "a", "p", "filter"))?;
    /// stage.try_recv_batch(1)?.return_to_buffer();
    ///
    /// let batch = stage.try_recv_batch(10)?;
    /// let seen: Vec<_> = batch.iter().map(|record| (record.record, record.retry_count)).collect();
    /// assert_eq!(seen, [(1, 1), (2, 0)]);
    /// batch.ack();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn return_to_buffer(self) {
        drop(self);
    }

    /// Settles each record as `decide` says, in order.
    ///
    /// # Panics
    ///
    /// If `decide` does: the records before are settled as decided, and the others are returned.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord, Outcome};
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// for line in ["1", "NA", "3"] {
    ///     source.try_send(&stage, BufferedRecord::new(line, "a", "p", "filter"))?;
    /// }
    /// let mut sum = 0;
    /// stage.try_recv_batch(10)?.settle(|record| match record.record.parse::<i32>() {
    ///     Ok(number) => {
    ///         sum += number;
    ///         Outcome::Ack
    ///     }
    ///     Err(_) => Outcome::DeadLetter,
    /// });
    /// assert_eq!(sum, 4);
    /// assert_eq!(manager.dead_letters().try_recv().unwrap().record.record, "NA");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn settle(mut self, mut decide: impl FnMut(&mut E) -> Outcome) {
        let mut settling = self.settling();
        for place in 0..settling.held.len() {
            let outcome = decide(&mut settling.held.as_mut_slice()[place]);
            settling.outcomes.push(outcome);
        }
    }

    /// Acknowledges every record and hands all of them over. What was pushed as one `Vec` and taken
    /// whole comes out as that `Vec`.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let lines = vec![BufferedRecord::new("line", "a", "p", "filter"); 3];
    /// source.try_send_batch(&stage, lines.clone())?;
    /// assert_eq!(stage.try_recv_batch(3)?.into_records(), lines);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "the records are out of the buffer now; ack drops them in place"]
    pub fn into_records(mut self) -> Vec<E> {
        let records = self.held.take_records();
        self.stage.release(self.held.runs());
        records.into_vec()
    }

    /// Moves every record to the back of the next stage, together with the credits that it holds:
    /// only the places in the two stages change hands.
    ///
    /// A buffer that was closed still forwards, so that a pipeline can drain.
    ///
    /// # Errors
    ///
    /// The batch itself, whole, if the next stage has not room for all of it, was removed, or
    /// belongs to another buffer. A batch larger than the next stage's capacity never fits: cut it
    /// with [`split_off`](Self::split_off).
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let next = manager.stage("enrich")?;
    /// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
    /// stage.try_recv_batch(10)?.try_forward(&next).expect("the next stage is empty");
    /// assert_eq!((stage.in_flight(), next.len()), (0, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_forward(self, next: &Stage<E>) -> Result<(), Self> {
        if self.is_empty() {
            return Ok(());
        }
        let next = next.core();
        if !Arc::ptr_eq(next.ledger(), self.stage.ledger()) {
            return Err(self);
        }
        let places = next.admit_all(count(self.len()));
        if places.shortage.is_some() {
            return Err(self);
        }
        self.move_to(next, places.age);
        Ok(())
    }

    /// Cuts the batch in two: the first `at` records stay, the others come as a batch of their own.
    /// Both hold what they held.
    ///
    /// `at` may be any number; from [`len`](Self::len) on, the second batch is empty.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let lines = vec![BufferedRecord::new("line", "a", "p", "filter"); 5];
    /// source.try_send_batch(&stage, lines)?;
    /// let mut batch = stage.try_recv_batch(5)?;
    /// let rest = batch.split_off(2);
    /// assert_eq!((batch.len(), rest.len()), (2, 3));
    /// batch.ack();
    /// rest.return_to_buffer();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn split_off(&mut self, at: usize) -> Self {
        let [first, second] = std::mem::take(&mut self.held).deal(|place| usize::from(place >= at));
        self.held = first;
        Self::new(Arc::clone(&self.stage), second)
    }

    /// Deals the records into two batches: those for which `belongs` is true, and the others. Both
    /// keep the order, and hold what they held: so a worker forwards what succeeded and returns what
    /// failed.
    ///
    /// # Panics
    ///
    /// If `belongs` does: the whole batch is returned.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// for line in ["1", "NA", "3"] {
    ///     source.try_send(&stage, BufferedRecord::new(line, "a", "p", "filter"))?;
    /// }
    /// let numbers = |record: &mut BufferedRecord<&str>| record.record.parse::<i32>().is_ok();
    /// let (good, bad) = stage.try_recv_batch(10)?.partition(numbers);
    /// assert_eq!((good.len(), bad.len()), (2, 1));
    /// good.ack();
    /// bad.return_to_buffer();
    /// assert_eq!(stage.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn partition(mut self, belongs: impl FnMut(&mut E) -> bool) -> (Self, Self) {
        // While the verdicts are collected, the batch is whole, and a panic returns it.
        let verdicts: Vec<bool> = self.iter_mut().map(belongs).collect();
        let held = std::mem::take(&mut self.held);
        let [yes, no] = held.deal(|place| usize::from(!verdicts[place]));
        let stage = Arc::clone(&self.stage);
        self.held = yes;
        (self, Self::new(stage, no))
    }
}

impl<E: Envelope> Batch<E> {
    /// Moves the records to places in another stage that were taken for them.
    pub(crate) fn move_to(mut self, next: &StageCore<E>, mut age: Age) {
        let len = count(self.len());
        let records = self.held.take_records();
        // The old places first: once a worker of the next stage has settled the records, nothing is left
        // of them anywhere.
        self.stage.free_places(len);
        if let [run] = self.held.runs() {
            next.enqueue(Block { account: run.account, age, records });
        } else {
            let mut records = records.into_vec().into_iter();
            for run in self.held.runs() {
                let block = records.by_ref().take(run.len as usize).collect();
                let records = Records::from_vec(block);
                next.enqueue(Block { account: run.account, age, records });
                age = age.plus(run.len);
            }
        }
        self.stage.attend();
    }

    pub(crate) fn stage(&self) -> &Arc<StageCore<E>> {
        &self.stage
    }

    /// What it holds, to be settled by the caller.
    pub(crate) fn into_held(mut self) -> (Arc<StageCore<E>>, Held<E>) {
        (Arc::clone(&self.stage), std::mem::take(&mut self.held))
    }

    #[cold]
    fn go_back(&mut self) {
        drop(self.settling());
    }

    fn settling(&mut self) -> Settling<'_, E> {
        Settling { stage: &self.stage, held: &mut self.held, outcomes: Outcomes::default() }
    }
}

/// A batch that is dropped is returned.
impl<E: Envelope> Drop for Batch<E> {
    #[inline]
    fn drop(&mut self) {
        if !self.is_empty() {
            self.go_back();
        }
    }
}

/// A batch whose records' outcomes are being decided. Dropping it carries them out, and returns the
/// records that have none: so it makes no difference whether the deciding ended or panicked.
struct Settling<'a, E: Envelope> {
    stage: &'a Arc<StageCore<E>>,
    held: &'a mut Held<E>,
    outcomes: Outcomes,
}

/// The outcomes decided so far, in the order of the records. The usual case, that all are
/// acknowledged, is only counted.
#[derive(Default)]
struct Outcomes {
    acked: usize,
    rest: Vec<Outcome>,
    /// How many records, from the front, are ready for their outcome: retries counted, dead letters
    /// labelled.
    ready: usize,
    /// The labels of the dead letters among them, in order.
    labels: Vec<Label>,
}

impl Outcomes {
    fn push(&mut self, outcome: Outcome) {
        if outcome == Outcome::Ack && self.rest.is_empty() {
            self.acked += 1;
        } else {
            self.rest.push(outcome);
        }
    }

    fn get(&self, place: usize) -> Outcome {
        match place.checked_sub(self.acked) {
            None => Outcome::Ack,
            Some(place) => self.rest.get(place).copied().unwrap_or(Outcome::Return),
        }
    }

    /// The outcome that can be carried out: a dead letter without a label is returned.
    fn final_outcome(&self, place: usize) -> Outcome {
        match self.get(place) {
            Outcome::DeadLetter if place >= self.ready => Outcome::Return,
            outcome => outcome,
        }
    }

    /// Makes one record ready, by calls of its own code.
    fn prepare<E: Envelope>(&mut self, place: usize, record: &mut E, limit: Option<u32>) {
        match self.get(place) {
            Outcome::Ack => {}
            Outcome::Return if !exhausted(record, limit) => record.increment_retry(),
            Outcome::Return | Outcome::DeadLetter => {
                self.labels.push(Label::new(record));
                let place = place - self.acked;
                if place >= self.rest.len() {
                    self.rest.resize(place + 1, Outcome::Return);
                }
                self.rest[place] = Outcome::DeadLetter;
            }
        }
        self.ready = place + 1;
    }
}

impl<E: Envelope> Drop for Settling<'_, E> {
    fn drop(&mut self) {
        let limit = self.stage.retry_limit();
        // This calls code of the record's type. Whatever that does, the guard settles.
        let settling = CarryOut { settling: self };
        let Settling { held, outcomes, .. } = &mut *settling.settling;
        for (place, record) in held.as_mut_slice().iter_mut().enumerate().skip(outcomes.acked) {
            outcomes.prepare(place, record, limit);
        }
    }
}

/// Whether one more return would pass the retry limit.
pub(crate) fn exhausted<E: Envelope>(record: &E, limit: Option<u32>) -> bool {
    limit.is_some_and(|limit| record.retry_count() >= limit)
}

/// Carries the outcomes out when it is dropped.
struct CarryOut<'a, 'b, E: Envelope> {
    settling: &'a mut Settling<'b, E>,
}

impl<E: Envelope> Drop for CarryOut<'_, '_, E> {
    fn drop(&mut self) {
        let Settling { stage, held, outcomes } = &mut *self.settling;
        let held = std::mem::take(*held);
        let [mut acked, returned, dead] = held.deal(|place| outcomes.final_outcome(place) as usize);
        stage.enqueue_front(returned);
        stage.bury(dead, std::mem::take(&mut outcomes.labels));
        acknowledge(stage, &mut acked);
    }
}

/// Drops records and gives back what they held, in this order, so that no cap is passed; also when a
/// record's drop panics.
#[inline]
fn acknowledge<E: Envelope>(stage: &StageCore<E>, held: &mut Held<E>) {
    struct Release<'a, E: Envelope>(&'a StageCore<E>, &'a mut Held<E>);

    impl<E: Envelope> Drop for Release<'_, E> {
        fn drop(&mut self) {
            self.0.release(self.1.runs());
        }
    }

    Release(stage, held).1.drop_records();
}

impl<E: Envelope> fmt::Debug for Batch<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("stage", self.stage.id())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl<'a, E: Envelope> IntoIterator for &'a Batch<E> {
    type Item = &'a E;
    type IntoIter = std::slice::Iter<'a, E>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, E: Envelope> IntoIterator for &'a mut Batch<E> {
    type Item = &'a mut E;
    type IntoIter = std::slice::IterMut<'a, E>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}
