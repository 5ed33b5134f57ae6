//! A batch: records that a worker has taken and must settle exactly once.

use std::fmt;
use std::sync::Arc;

use super::settle::{Outcome, Settling, acknowledge};
use crate::caps::Sequence;
use crate::record::Envelope;
use crate::store::{BatchContents, Block, Records, StageCore, to_u32};

/// Records that a worker has taken from a stage and not yet settled.
///
/// The records stay charged to the stage, to their sources and to the whole buffer. A batch is
/// settled once: by [`ack`](Self::ack), [`return_to_buffer`](Self::return_to_buffer),
/// [`settle`](Self::settle), [`into_records`](Self::into_records) or [`forward`](Self::forward). A
/// batch that is dropped is returned, so that no record is lost if its worker panics or its task is
/// cancelled.
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
/// let mut batch = stage.try_recv_batch(10)?;
/// assert_eq!(batch.len(), 3);
/// for record in &mut batch {
///     assert_eq!(record.retry_count, 1);
///     record.record += 1;
/// }
/// assert_eq!(batch.iter().map(|record| record.record).sum::<i32>(), 63);
/// batch.ack();
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
    ) -> Self {
        let mut contents = BatchContents::default();
        contents.push_many(account, first.returned(), records);
        Self { stage, contents }
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
    pub fn return_to_buffer(self) {
        drop(self);
    }

    /// Calls `decide` for each record in order, then settles each record by its outcome.
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
    pub fn settle(mut self, mut decide: impl FnMut(&mut E) -> Outcome) {
        self.settling().decide(&mut decide);
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
        let records = self.contents.take_records();
        self.stage.release(self.contents.runs());
        records.into_vec()
    }

    /// Splits the batch in two: `self` keeps the first `at` records, and the others are returned as
    /// a batch.
    ///
    /// Both batches must be settled. If `at` is [`len`](Self::len) or more, the returned batch is
    /// empty.
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
        let [first, second] =
            std::mem::take(&mut self.contents).split_by(|place| usize::from(place >= at));
        self.contents = first;
        Self::new(Arc::clone(&self.stage), second)
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
    /// Moves the records to places in another stage that the caller has taken for them.
    pub(crate) fn move_to(mut self, next: &StageCore<E>, mut first: Sequence) {
        let len = to_u32(self.len());
        let records = self.contents.take_records();
        // Release the old places first: as soon as a worker of the next stage has settled the
        // records, neither stage may count them.
        self.stage.admission().release_places(&*self.stage, len);
        if let [run] = self.contents.runs() {
            next.push(Block { account: run.account, first, records });
        } else {
            let mut records = records.into_vec().into_iter();
            for run in self.contents.runs() {
                let block = records.by_ref().take(run.len as usize).collect();
                let records = Records::from_vec(block);
                next.push(Block { account: run.account, first, records });
                first = first.plus(run.len);
            }
        }
        self.stage.admission().notify_places(&*self.stage);
    }

    pub(crate) fn stage(&self) -> &Arc<StageCore<E>> {
        &self.stage
    }

    /// Returns the stage and the contents, which the caller must settle.
    pub(crate) fn into_contents(mut self) -> (Arc<StageCore<E>>, BatchContents<E>) {
        (Arc::clone(&self.stage), std::mem::take(&mut self.contents))
    }

    #[cold]
    fn return_all(&mut self) {
        drop(self.settling());
    }

    fn settling(&mut self) -> Settling<'_, E> {
        Settling::new(&self.stage, &mut self.contents)
    }
}

/// Returns the batch to its stage, unless it was settled.
impl<E: Envelope> Drop for Batch<E> {
    #[inline]
    fn drop(&mut self) {
        if !self.is_empty() {
            self.return_all();
        }
    }
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
