//! A batch: records that a worker has taken and must settle exactly once.

use std::borrow::Cow;
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use super::settle::{Outcome, Settled, Settling, acknowledge};
use crate::caps::Sequence;
use crate::record::Envelope;
use crate::store::{
    BatchContents, Block, DeadLetterReason, Records, Run, StageCore, Units, to_u32,
};
use crate::trace::event;
use crate::unwind::Panics;

/// Records that a worker has taken from a stage and not yet settled.
///
/// The records stay charged to the stage, to their sources and to the whole buffer. A batch is
/// settled once: by [`ack`](Self::ack), [`return_to_buffer`](Self::return_to_buffer),
/// [`return_after`](Self::return_after), [`requeue`](Self::requeue),
/// [`dead_letter`](Self::dead_letter), [`settle`](Self::settle),
/// [`into_records`](Self::into_records) or [`forward`](Self::forward).
///
/// Iterate over `&batch` or `&mut batch` to work on the records; `batch.iter().as_slice()` is a
/// slice of them. To settle them one by one, use [`settle`](Self::settle) or
/// [`into_singles`](Self::into_singles).
///
/// # Dropped batches
///
/// A batch that is dropped is returned and counts one retry, as by
/// [`return_to_buffer`](Self::return_to_buffer), so that no record is lost if its task is
/// cancelled.
///
/// If its thread is panicking, its records are also *isolated*: each is handed out in a batch of
/// its own until it is settled. A record that makes its worker panic then uses up its own retries,
/// not those of other records. Set [`max_retries`](crate::Builder::max_retries), or it comes back
/// forever.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
///
/// let manager = BufferManager::new(BufferSettings::default());
/// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
/// source.try_send_batch(&stage, vec![BufferedRecord::new(20, "a", "p", "filter"); 3])?;
///
/// let worker = std::thread::spawn({
///     let stage = stage.clone();
///     move || {
///         let _batch = stage.try_recv_batch(10).unwrap();
///         panic!("a worker panics while holding a batch");
///     }
/// });
/// assert!(worker.join().is_err());
///
/// // The records are still there, and come one by one.
/// for _ in 0..3 {
///     let mut batch = stage.try_recv_batch(10)?;
///     assert_eq!(batch.len(), 1);
///     for record in &mut batch {
///         assert_eq!(record.retry_count, 1);
///         record.record += 1;
///     }
///     assert_eq!(batch.iter().map(|record| record.record).sum::<i32>(), 21);
///     batch.ack();
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a batch that is dropped is returned to its stage: settle it"]
pub struct Batch<E: Envelope> {
    stage: Arc<StageCore<E>>,
    contents: BatchContents<E>,
}

impl<E: Envelope> Batch<E> {
    #[inline]
    pub(crate) fn new(stage: Arc<StageCore<E>>, contents: BatchContents<E>) -> Self {
        Self { stage, contents }
    }

    /// Creates a batch of records that were handed out and are now charged to this account again.
    pub(crate) fn returned(
        stage: Arc<StageCore<E>>,
        account: u32,
        first: Sequence,
        records: Vec<E>,
        units: &[u32],
    ) -> Self {
        let run = Run::new(account, first.returned(), records.len());
        Self { stage, contents: BatchContents::charged(run, units, records) }
    }

    /// Returns the number of records in the batch.
    #[inline]
    pub fn len(&self) -> usize {
        self.contents.len()
    }

    /// Returns `true` if the batch holds no records.
    ///
    /// A batch taken from a stage holds at least one record. A part that was split off may be
    /// empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Iterates over the records in order.
    #[inline]
    pub fn iter(&self) -> std::slice::Iter<'_, E> {
        self.contents.as_slice().iter()
    }

    /// Iterates over the records in order, with mutable access.
    #[inline]
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, E> {
        self.contents.as_mut_slice().iter_mut()
    }

    /// Acknowledges all records: drops them and releases their credits and places.
    ///
    /// # Panics
    ///
    /// Panics if the drop of a record does. All credits and places are released nevertheless.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
    ///
    /// let batch = stage.try_recv_batch(10)?;
    /// assert_eq!(source.available_credits(), 4_999);
    /// batch.ack();
    /// assert_eq!(source.available_credits(), 5_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn ack(mut self) {
        acknowledge(&self.stage, &mut self.contents);
    }

    /// Returns all records to the front of their stage and adds one to each retry count.
    ///
    /// Records that have used up their retries go to the dead letters instead. The call cannot
    /// fail, because the records have kept their places.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
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
    pub fn return_to_buffer(self) -> Settled {
        self.settle_with(|settling| settling.decide_all(Outcome::Return))
    }

    /// Returns all records and adds one to each retry count. They come back to the front of their
    /// stage after `delay`.
    ///
    /// A record that waits keeps its credit and place and counts in
    /// [`Stage::delayed`](crate::Stage::delayed). When it is due, it wakes a waiting worker;
    /// [`drain`](crate::BufferManager::drain) waits for it, and a buffer that is closed keeps it.
    /// Records that have become due come before all others, in the order of their due times.
    ///
    /// Records that have used up their retries go to the dead letters instead.
    ///
    /// A helper thread of the library watches the time. If it cannot be started, the records come
    /// back at once.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("load")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "load"))?;
    ///
    /// let settled = stage.try_recv_batch(1)?.return_after(Duration::from_millis(20));
    /// assert_eq!(settled.delayed, 1);
    /// assert_eq!((stage.len(), stage.in_flight(), stage.delayed()), (0, 0, 1));
    ///
    /// let batch = stage.recv_batch_blocking(1)?; // waits until the record is due
    /// assert_eq!(batch.iter().next().unwrap().retry_count, 1);
    /// batch.ack();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn return_after(self, delay: Duration) -> Settled {
        self.settle_with(|settling| settling.decide_all(Outcome::ReturnAfter(delay)))
    }

    /// Puts all records back to the front of their stage and counts no retry.
    ///
    /// For records that were not tried: the worker was told to stop, or the service that it needs
    /// is known to be down.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::builder(BufferSettings::default()).max_retries(0).build()?;
    /// let (stage, source) = (manager.stage("load")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "load"))?;
    ///
    /// stage.try_recv_batch(1)?.requeue();
    /// let batch = stage.try_recv_batch(1)?;
    /// assert_eq!(batch.iter().next().unwrap().retry_count, 0);
    /// batch.ack();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn requeue(self) {
        let (stage, mut contents) = self.into_contents();
        stage.places().flow().requeued.add_some(contents.len());
        let mut panics = Panics::default();
        stage.measure_again(&mut contents, &mut panics);
        stage.push_returned(contents, false);
        panics.resume();
    }

    /// Moves all records to the dead letters, whatever their retry counts. Each letter carries the
    /// reason.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("parse")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new("NA", "a", "p", "parse"))?;
    ///
    /// stage.try_recv_batch(1)?.dead_letter("not a number");
    /// let letter = manager.dead_letters().try_recv().unwrap();
    /// assert_eq!(letter.reason.to_string(), "rejected: not a number");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn dead_letter(self, reason: impl Into<Cow<'static, str>>) -> Settled {
        self.settle_with(|settling| settling.give_up(DeadLetterReason::Rejected(reason.into())))
    }

    /// Calls `decide` for each record in order, then settles each record by its outcome.
    ///
    /// The records are settled when the call returns. Where the work takes effect later, as with
    /// the commit of a transaction, use [`partition`](Self::partition) and acknowledge after the
    /// commit: see [Write in transactions](crate::docs::patterns#write-in-transactions).
    ///
    /// # Panics
    ///
    /// Panics if `decide` does. The records decided before are settled accordingly, and the others
    /// are returned.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord, Outcome};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// for line in ["1", "NA", "3"] {
    ///     source.try_send(&stage, BufferedRecord::new(line, "a", "p", "filter"))?;
    /// }
    ///
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
    pub fn settle(self, decide: impl FnMut(&mut E) -> Outcome) -> Settled {
        self.settle_with(|settling| settling.decide(decide))
    }

    /// Acknowledges all records and hands them to the caller.
    ///
    /// If the records were pushed as one `Vec` and received as a whole, the call returns that `Vec`
    /// without copying.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let lines = vec![BufferedRecord::new("line", "a", "p", "filter"); 3];
    /// source.try_send_batch(&stage, lines.clone())?;
    ///
    /// assert_eq!(stage.try_recv_batch(3)?.into_records(), lines);
    /// assert_eq!(stage.in_flight(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "the records are out of the buffer now; ack drops them in place"]
    pub fn into_records(mut self) -> Vec<E> {
        self.stage.places().flow().handed_out.add_some(self.len());
        let records = self.contents.take_records();
        self.stage.release(self.contents.runs());
        records.into_vec()
    }

    /// Splits the batch in two: `self` keeps the first `at` records, and the others are returned as
    /// a batch.
    ///
    /// The cost is that of the smaller part. Both batches must be settled. If `at` is
    /// [`len`](Self::len) or more, the returned batch is empty.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send_batch(&stage, vec![BufferedRecord::new("line", "a", "p", "filter"); 5])?;
    ///
    /// let mut batch = stage.try_recv_batch(5)?;
    /// let rest = batch.split_off(2);
    /// assert_eq!((batch.len(), rest.len()), (2, 3));
    /// batch.ack();
    /// rest.return_to_buffer();
    /// assert_eq!(stage.len(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn split_off(&mut self, at: usize) -> Self {
        Self::new(Arc::clone(&self.stage), self.contents.split_off(at))
    }

    /// Splits the batch into batches of one record each, in order, at a constant cost for each.
    ///
    /// A worker that fails at one record can then settle that record alone; `batch.iter().next()`
    /// returns the record. If the iterator is dropped early, the records that it has not handed out
    /// go back to the front of their stage, and no retry is counted.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("load")?, manager.source("a")?);
    /// source.try_send_batch(&stage, vec![BufferedRecord::new("line", "a", "p", "load"); 3])?;
    ///
    /// let mut singles = stage.try_recv_batch(10)?.into_singles();
    /// singles.next().unwrap().ack();
    /// singles.next().unwrap().return_to_buffer();
    /// drop(singles);
    ///
    /// let batch = stage.try_recv_batch(10)?;
    /// assert_eq!(batch.iter().map(|record| record.retry_count).collect::<Vec<_>>(), [1, 0]);
    /// batch.ack();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_singles(self) -> Singles<E> {
        Singles(Untried(self))
    }

    /// Splits the batch into the records for which `belongs` returns `true`, and the others.
    ///
    /// Both parts keep the order of their records. Both must be settled: for example, a worker
    /// forwards the first part and returns the second.
    ///
    /// # Panics
    ///
    /// Panics if `belongs` does. The whole batch is then returned.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// for line in ["1", "NA", "3"] {
    ///     source.try_send(&stage, BufferedRecord::new(line, "a", "p", "filter"))?;
    /// }
    ///
    /// let batch = stage.try_recv_batch(10)?;
    /// let (good, bad) = batch.partition(|record| record.record.parse::<i32>().is_ok());
    /// assert_eq!((good.len(), bad.len()), (2, 1));
    /// good.ack();
    /// bad.return_to_buffer();
    /// assert_eq!(stage.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn partition(mut self, belongs: impl FnMut(&mut E) -> bool) -> (Self, Self) {
        // The batch stays whole while `belongs` runs, so that a panic returns all of it.
        let verdicts: Vec<bool> = self.iter_mut().map(belongs).collect();
        let contents = std::mem::take(&mut self.contents);
        let [yes, no] = contents.split_by(|place| usize::from(!verdicts[place]));
        let stage = Arc::clone(&self.stage);
        self.contents = yes;
        (self, Self::new(stage, no))
    }
}

impl<E: Envelope> Batch<E> {
    /// Moves the records to the next stage, where the caller has taken places for them.
    pub(crate) fn move_to(mut self, next: &StageCore<E>, mut first: Sequence) {
        let mut panics = Panics::default();
        self.stage.measure_again(&mut self.contents, &mut panics);
        let len = to_u32(self.len());
        let records = self.contents.take_records();
        self.stage.places().flow().forwarded_out.add(u64::from(len));
        next.places().flow().forwarded_in.add(u64::from(len));
        next.places().end_ahead(len);
        // Release the old places first: as soon as a worker of the next stage has settled the
        // records, neither stage may count them.
        self.stage.admission().release_places(&*self.stage, len);
        if let [run] = self.contents.runs() {
            let block = Block { account: run.account, first, records };
            next.push_forwarded(block, run.pushed, Units::Same(run.charge));
        } else {
            let mut records = records.into_vec().into_iter();
            for runs in self.contents.runs().chunk_by(Run::differs_in_charge) {
                let len = runs.iter().map(|run| run.len).sum();
                let block = records.by_ref().take(len as usize).collect();
                let records = Records::from_vec(block);
                let block = Block { account: runs[0].account, first, records };
                next.push_forwarded(block, runs[0].pushed, Run::charges(runs));
                first = first.plus(len);
            }
        }
        self.stage.admission().notify_places(&*self.stage);
        panics.resume();
    }

    pub(crate) fn stage(&self) -> &Arc<StageCore<E>> {
        &self.stage
    }

    /// Returns the stage and the contents, which the caller must settle.
    pub(crate) fn into_contents(mut self) -> (Arc<StageCore<E>>, BatchContents<E>) {
        (Arc::clone(&self.stage), std::mem::take(&mut self.contents))
    }

    /// Moves the records that are too old to the dead letters. Returns the others, or `None` if
    /// none is left.
    pub(crate) fn without_expired(self) -> Option<Self> {
        match self.stage.expires() {
            None => Some(self),
            Some(expires) => self.split_expired(expires),
        }
    }

    #[cold]
    fn split_expired(mut self, expires: impl Fn(u32) -> bool) -> Option<Self> {
        let runs = self.contents.runs();
        if runs.iter().any(|run| expires(run.pushed)) {
            let expired = |run: &Run| std::iter::repeat_n(expires(run.pushed), run.len as usize);
            let expired: Vec<bool> = runs.iter().flat_map(expired).collect();
            let contents = std::mem::take(&mut self.contents);
            let [rest, old] = contents.split_by(|place| usize::from(expired[place]));
            self.contents = rest;
            let old = Self::new(Arc::clone(&self.stage), old);
            let rest = Untried(self);
            old.settle_with(|settling| settling.give_up(DeadLetterReason::Expired));
            self = rest.into_batch();
        }
        (!self.is_empty()).then_some(self)
    }

    fn settle_with(mut self, decide: impl FnOnce(Settling<'_, E>)) -> Settled {
        let mut settled = Settled::default();
        decide(Settling::new(&self.stage, &mut self.contents, &mut settled));
        settled
    }

    /// Returns records that were not settled.
    #[cold]
    fn return_undecided(&mut self) {
        event!(warn, stage = &**self.stage.id(), records = self.len(), "batch dropped unsettled");
        drop(Settling::new(&self.stage, &mut self.contents, &mut Settled::default()));
    }
}

/// Returns the batch to its stage, unless it was settled.
impl<E: Envelope> Drop for Batch<E> {
    #[inline]
    fn drop(&mut self) {
        if !self.is_empty() {
            self.return_undecided();
        }
    }
}

/// A batch that no worker has tried. Dropping it puts its records back to their stage and counts no
/// retry.
pub(crate) struct Untried<E: Envelope>(pub(crate) Batch<E>);

impl<E: Envelope> Untried<E> {
    /// Hands the batch out.
    pub(crate) fn into_batch(mut self) -> Batch<E> {
        self.0.split_off(0)
    }
}

impl<E: Envelope> Drop for Untried<E> {
    fn drop(&mut self) {
        self.0.split_off(0).requeue();
    }
}

/// An iterator over the records of a batch, each as a batch of its own, from
/// [`Batch::into_singles`].
pub struct Singles<E: Envelope>(Untried<E>);

impl<E: Envelope> Iterator for Singles<E> {
    type Item = Batch<E>;

    fn next(&mut self) -> Option<Batch<E>> {
        let rest = self.0.0.split_off(1);
        let single = std::mem::replace(&mut self.0.0, rest);
        (!single.is_empty()).then_some(single)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.0.0.len();
        (left, Some(left))
    }
}

impl<E: Envelope> ExactSizeIterator for Singles<E> {}

/// A panic leaves every count exact: see
/// [`internals`](crate::docs::internals#panics-and-user-code).
impl<E: Envelope + UnwindSafe> UnwindSafe for Singles<E> {}
impl<E: Envelope + RefUnwindSafe> RefUnwindSafe for Singles<E> {}

impl<E: Envelope> fmt::Debug for Singles<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Singles").field(&self.0.0).finish()
    }
}

/// A panic leaves every count exact: see
/// [`internals`](crate::docs::internals#panics-and-user-code).
impl<E: Envelope + UnwindSafe> UnwindSafe for Batch<E> {}
impl<E: Envelope + RefUnwindSafe> RefUnwindSafe for Batch<E> {}

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
