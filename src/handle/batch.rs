//! A batch: records in a worker's hands, settled exactly once.

use std::fmt;
use std::sync::Arc;

use super::settle::{Outcome, Settling, acknowledge};
use crate::caps::Sequence;
use crate::record::Envelope;
use crate::store::{BatchContents, Block, Records, StageCore, to_u32};

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
    contents: BatchContents<E>,
}

impl<E: Envelope> Batch<E> {
    #[inline]
    pub(crate) fn new(stage: Arc<StageCore<E>>, contents: BatchContents<E>) -> Self {
        Self { stage, contents }
    }

    /// A batch of records that were handed out and have been charged to that account anew.
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
        self.contents.len()
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
        self.contents.as_slice().iter()
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
        self.contents.as_mut_slice().iter_mut()
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
        acknowledge(&self.stage, &mut self.contents);
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
        self.settling().decide(&mut decide);
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
        let records = self.contents.take_records();
        self.stage.release(self.contents.runs());
        records.into_vec()
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
        let [first, second] =
            std::mem::take(&mut self.contents).split_by(|place| usize::from(place >= at));
        self.contents = first;
        Self::new(Arc::clone(&self.stage), second)
    }

    /// Deals the records into two batches: those for which `belongs` is true, and the others. Both
    /// keep the order, and hold what they contents: so a worker forwards what succeeded and returns what
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
        let contents = std::mem::take(&mut self.contents);
        let [yes, no] = contents.split_by(|place| usize::from(!verdicts[place]));
        let stage = Arc::clone(&self.stage);
        self.contents = yes;
        (self, Self::new(stage, no))
    }
}

impl<E: Envelope> Batch<E> {
    /// Moves the records to places in another stage that were taken for them.
    pub(crate) fn move_to(mut self, next: &StageCore<E>, mut first: Sequence) {
        let len = to_u32(self.len());
        let records = self.contents.take_records();
        // The old places first: once a worker of the next stage has settled the records, nothing is left
        // of them anywhere.
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

    /// What it holds, to be settled by the caller.
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

/// A batch that is dropped is returned.
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
