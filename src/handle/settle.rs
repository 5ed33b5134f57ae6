//! Settling a batch record by record: what a worker decides, and how it is carried out.

use std::borrow::Cow;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::caps::Sequence;
use crate::record::Envelope;
use crate::retry::RetryPolicy;
use crate::store::{BatchContents, DeadLetterReason, LetterMeta, StageCore};
use crate::unwind::Panics;

/// The outcome of one record, as decided in [`Batch::settle`](crate::Batch::settle).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord, Outcome};
///
/// let manager = BufferManager::new(BufferSettings::default());
/// let (stage, source) = (manager.stage("load")?, manager.source("a")?);
/// for line in ["200", "429 Too Many Requests", "400 Bad Request"] {
///     source.try_send(&stage, BufferedRecord::new(line, "a", "p", "load"))?;
/// }
///
/// let settled = stage.try_recv_batch(10)?.settle(|record| match &record.record[..3] {
///     "200" => Outcome::Ack,
///     "429" => Outcome::ReturnAfter(Duration::from_secs(60)),
///     _ => Outcome::Reject("bad request"),
/// });
/// assert_eq!((settled.acknowledged, settled.delayed, settled.dead_lettered), (1, 1, 1));
/// let letter = manager.dead_letters().try_recv().unwrap();
/// assert_eq!(letter.reason.to_string(), "rejected: bad request");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The record is done: drop it and release its credit and place.
    Ack,
    /// The record failed: return it to its stage and add one to its retry count. It comes back
    /// after the [`retry_backoff`](crate::Builder::retry_backoff), or at once if there is none.
    ///
    /// A record that has used up its retries goes to the dead letters instead.
    Return,
    /// The record failed: like [`Return`](Self::Return), but it comes back after this time.
    ReturnAfter(Duration),
    /// The record was not tried: put it back to the front of its stage, with its retry count
    /// unchanged.
    Requeue,
    /// The record cannot succeed: move it to the dead letters, whatever its retry count.
    DeadLetter,
    /// Like [`DeadLetter`](Self::DeadLetter), with a reason that the dead letter carries.
    ///
    /// [`Batch::dead_letter`](crate::Batch::dead_letter) takes a reason that is made at run time:
    /// [Write in transactions](crate::docs::patterns#write-in-transactions) shows how.
    Reject(&'static str),
}

/// How many records of a batch were settled in which way.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
///
/// let manager = BufferManager::builder(BufferSettings::default()).max_retries(1).build()?;
/// let (stage, source) = (manager.stage("load")?, manager.source("a")?);
/// source.try_send_batch(&stage, vec![BufferedRecord::new("line", "a", "p", "load"); 3])?;
///
/// assert_eq!(stage.try_recv_batch(3)?.return_to_buffer().returned, 3);
/// assert_eq!(stage.try_recv_batch(3)?.return_to_buffer().dead_lettered, 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Settled {
    /// Records that are done.
    pub acknowledged: usize,
    /// Records that went back to the stage, with one more retry counted.
    pub returned: usize,
    /// Records that will come back later, with one more retry counted.
    pub delayed: usize,
    /// Records that went back to the stage as they were.
    pub requeued: usize,
    /// Records that went to the dead letters.
    pub dead_lettered: usize,
}

/// A batch whose outcomes are being decided.
///
/// Its drop carries the outcomes out, whether the decisions are complete or a panic ended them.
/// Undecided records are returned, and isolated if the thread is unwinding.
pub(super) struct Settling<'a, E: Envelope> {
    stage: &'a Arc<StageCore<E>>,
    contents: &'a mut BatchContents<E>,
    /// The outcomes decided so far, in the order of the records. Acknowledged records at the
    /// front, which is the common case, are only counted.
    acked: usize,
    decided: Vec<Outcome>,
    /// The outcome of all further records, if they have one.
    rest: Option<Outcome>,
    /// The reason of the records that are decided as [`Outcome::DeadLetter`].
    given_up: DeadLetterReason,
    settled: &'a mut Settled,
}

/// Where one record goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Done,
    /// Back to its stage after the delay, if it is not zero.
    Back {
        delay: Duration,
        /// Whether one more retry was counted.
        tried: bool,
        /// Whether the record is to be handed out alone.
        isolated: bool,
    },
    Dead,
}

impl Way {
    /// For a record that was not tried, or whose own code panicked.
    const AT_ONCE: Self = Self::Back { delay: Duration::ZERO, tried: false, isolated: false };

    /// The part of the batch that the record belongs to, when the batch is split.
    fn part(self) -> usize {
        match self {
            Self::Done => 0,
            Self::Back { isolated: false, .. } => 1,
            Self::Back { isolated: true, .. } => 2,
            Self::Dead => 3,
        }
    }
}

/// What decides the ways of a batch's records, beside their outcomes.
struct Rules<'a> {
    policy: &'a RetryPolicy,
    /// The first sequence of the batch, from which the jitter of its delays is derived.
    batch: Option<Sequence>,
    /// Whether undecided records are isolated.
    isolates: bool,
    given_up: &'a DeadLetterReason,
}

/// The ways of a batch's records, and the metadata of the dead letters, both in the order of the
/// records. The first `acked` records are acknowledged; `rest` has the ways of the others.
#[derive(Default)]
struct Ways {
    acked: usize,
    rest: Vec<Way>,
    meta: Vec<LetterMeta>,
}

impl Ways {
    fn get(&self, place: usize) -> Way {
        place.checked_sub(self.acked).map_or(Way::Done, |place| self.rest[place])
    }

    fn delays(&self, of_isolated: bool) -> Vec<Duration> {
        let delay = |way: &Way| match *way {
            Way::Back { delay, isolated, .. } if isolated == of_isolated => Some(delay),
            _ => None,
        };
        self.rest.iter().filter_map(delay).collect()
    }

    fn count(&self) -> Settled {
        let mut settled = Settled { acknowledged: self.acked, ..Settled::default() };
        for way in &self.rest {
            *match *way {
                Way::Done => &mut settled.acknowledged,
                Way::Back { tried: false, .. } => &mut settled.requeued,
                Way::Back { delay: Duration::ZERO, .. } => &mut settled.returned,
                Way::Back { .. } => &mut settled.delayed,
                Way::Dead => &mut settled.dead_lettered,
            } += 1;
        }
        settled
    }

    /// Chooses the way of the next record. `outcome` is `None` if it was not decided. Calls the
    /// record's own code; if that panics, the record goes back at once.
    fn prepare<E: Envelope>(
        &mut self,
        record: &mut E,
        outcome: Option<Outcome>,
        rules: &Rules<'_>,
    ) {
        self.rest.push(Way::AT_ONCE);
        let mut reason = DeadLetterReason::RetriesExhausted;
        let way = match outcome {
            Some(Outcome::Ack) => Way::Done,
            Some(Outcome::Requeue) => Way::AT_ONCE,
            Some(Outcome::DeadLetter) => {
                reason = rules.given_up.clone();
                Way::Dead
            }
            Some(Outcome::Reject(why)) => {
                reason = DeadLetterReason::Rejected(Cow::Borrowed(why));
                Way::Dead
            }
            None | Some(Outcome::Return | Outcome::ReturnAfter(_)) => {
                let retries = record.retry_count();
                if rules.policy.is_exhausted(retries) {
                    Way::Dead
                } else {
                    record.increment_retry();
                    let delay = match outcome {
                        Some(Outcome::ReturnAfter(delay)) => delay,
                        _ => rules.policy.delay(retries, rules.batch),
                    };
                    Way::Back { delay, tried: true, isolated: rules.isolates && outcome.is_none() }
                }
            }
        };
        if way == Way::Dead {
            self.meta.push(LetterMeta::new(record, reason));
        }
        if let Some(last) = self.rest.last_mut() {
            *last = way;
        }
    }
}

impl<'a, E: Envelope> Settling<'a, E> {
    pub(super) fn new(
        stage: &'a Arc<StageCore<E>>,
        contents: &'a mut BatchContents<E>,
        settled: &'a mut Settled,
    ) -> Self {
        Self {
            stage,
            contents,
            acked: 0,
            decided: Vec::new(),
            rest: None,
            given_up: DeadLetterReason::Rejected(Cow::Borrowed("")),
            settled,
        }
    }

    /// Decides the records in order.
    pub(super) fn decide(mut self, mut decide: impl FnMut(&mut E) -> Outcome) {
        for place in 0..self.contents.len() {
            let outcome = decide(&mut self.contents.as_mut_slice()[place]);
            if outcome == Outcome::Ack && self.decided.is_empty() {
                self.acked += 1;
            } else {
                self.decided.push(outcome);
            }
        }
    }

    /// Decides all records in the same way.
    pub(super) fn decide_all(mut self, outcome: Outcome) {
        self.rest = Some(outcome);
    }

    /// Gives up all records.
    pub(super) fn give_up(mut self, reason: DeadLetterReason) {
        self.given_up = reason;
        self.decide_all(Outcome::DeadLetter);
    }

    /// Counts retries and collects the metadata of dead letters. Calls the records' own code. If
    /// one record panics, the others are still prepared.
    fn prepare(&mut self, panics: &mut Panics) -> Ways {
        let mut ways = Ways { acked: self.acked, ..Ways::default() };
        let rules = Rules {
            policy: self.stage.retries(),
            batch: self.contents.runs().first().map(|run| run.first),
            isolates: thread::panicking(),
            given_up: &self.given_up,
        };
        let mut outcomes = std::mem::take(&mut self.decided).into_iter();
        let mut records = self.contents.as_mut_slice()[self.acked..].iter_mut();
        while records.len() > 0 {
            panics.catch(|| {
                for record in records.by_ref() {
                    let outcome = outcomes.next().or(self.rest);
                    ways.prepare(record, outcome, &rules);
                }
            });
        }
        ways
    }

    fn carry_out(&mut self, ways: Ways) {
        *self.settled = ways.count();
        let flow = self.stage.places().flow();
        flow.returned.add_some(self.settled.returned);
        flow.delayed.add_some(self.settled.delayed);
        flow.requeued.add_some(self.settled.requeued);
        let contents = std::mem::take(self.contents);
        let [mut acked, mut returned, mut isolated, dead] =
            contents.split_by(|place| ways.get(place).part());
        let mut panics = Panics::default();
        self.stage.measure_again(&mut returned, &mut panics);
        self.stage.measure_again(&mut isolated, &mut panics);
        self.put_back(returned, &ways.delays(false), false);
        self.put_back(isolated, &ways.delays(true), true);
        self.stage.dead_letter(dead, ways.meta);
        panics.catch(|| acknowledge(self.stage, &mut acked));
        panics.resume();
    }

    /// Returns records, each after its delay.
    fn put_back(&self, mut contents: BatchContents<E>, delays: &[Duration], isolated: bool) {
        for same in delays.chunk_by(PartialEq::eq) {
            let rest = contents.split_off(same.len());
            let part = std::mem::replace(&mut contents, rest);
            match same[0] {
                Duration::ZERO => self.stage.push_returned(part, isolated),
                delay => self.stage.push_delayed(part, isolated, delay),
            }
        }
    }
}

/// Resumes a panic of the record's own code after all outcomes are carried out. If the thread is
/// already unwinding, the panic ends here, because a second panic would abort the process.
impl<E: Envelope> Drop for Settling<'_, E> {
    fn drop(&mut self) {
        let mut panics = Panics::default();
        let ways = self.prepare(&mut panics);
        panics.catch(|| self.carry_out(ways));
        panics.resume();
    }
}

/// Drops records and then releases their credits and places, even if the drop of a record panics.
///
/// In this order no cap is exceeded.
#[inline]
pub(super) fn acknowledge<E: Envelope>(stage: &StageCore<E>, contents: &mut BatchContents<E>) {
    struct Release<'a, E: Envelope>(&'a StageCore<E>, &'a mut BatchContents<E>);

    impl<E: Envelope> Drop for Release<'_, E> {
        fn drop(&mut self) {
            self.0.release(self.1.runs());
        }
    }

    Release(stage, contents).1.drop_records();
}
