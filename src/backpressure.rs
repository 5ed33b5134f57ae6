//! Watermarks, backpressure signals, and the hysteresis between them.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use crate::event::{Event, Listener};
use crate::settings::{SettingsError, nearest_threshold};
use crate::sync::{AtomicSetting, AtomicU8, SeqCst};
use crate::trace::Owner;

/// Returns the default low watermark for a high one: three quarters of it.
///
/// Computed in hundredths, so that 0.8 gives exactly 0.6.
pub(crate) fn low_for(high: f64) -> f64 {
    high * 75.0 / 100.0
}

/// What a source is asked to do.
///
/// The variants are ordered by urgency: the stronger of two signals is their maximum. With the
/// feature `serde`, they are `resume`, `slow_down` and `pause`.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::BackpressureSignal::{Pause, Resume, SlowDown};
///
/// assert_eq!(Resume.max(SlowDown), SlowDown);
/// assert!(SlowDown < Pause);
/// assert_eq!(SlowDown.to_string(), "slow down");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum BackpressureSignal {
    /// There is room: push at the normal rate.
    #[default]
    Resume,
    /// The level is above the high watermark: push less.
    SlowDown,
    /// A cap was reached: push nothing until the level has fallen.
    Pause,
}

impl fmt::Display for BackpressureSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resume => "resume",
            Self::SlowDown => "slow down",
            Self::Pause => "pause",
        })
    }
}

/// The position of a level relative to the watermarks and the cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zone {
    /// Below the low watermark.
    Low,
    /// From the low to the high watermark, both included.
    Middle,
    /// Above the high watermark.
    High,
    /// At the cap, or since it was reached not below the mark at which a pause ends.
    Full,
}

const ZONES: [Zone; 4] = [Zone::Low, Zone::Middle, Zone::High, Zone::Full];

/// The two watermarks, as shares of a cap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Watermarks {
    pub(crate) high: f64,
    pub(crate) low: f64,
}

impl Watermarks {
    pub(crate) fn new(high: f64, low: f64) -> Result<Self, SettingsError> {
        // NaN fails this comparison.
        if low > 0.0 && low <= high && high <= 1.0 {
            Ok(Self { high, low })
        } else {
            Err(SettingsError::Watermarks { high, low })
        }
    }

    pub(crate) fn from_threshold(threshold: f64) -> Result<Self, SettingsError> {
        if threshold > 0.0 && threshold <= 1.0 {
            Ok(Self { high: threshold, low: low_for(threshold) })
        } else {
            Err(SettingsError::Threshold { value: threshold })
        }
    }

    /// Returns the share of a cap below which a pause ends: halfway from the high watermark to the
    /// cap.
    fn pause_end(self) -> f64 {
        f64::midpoint(self.high, 1.0)
    }

    /// Returns the zone of a level that was in the zone `before`.
    fn zone(self, before: Zone, utilization: f64) -> Zone {
        if utilization >= 1.0 || before == Zone::Full && utilization >= self.pause_end() {
            Zone::Full
        } else if utilization > self.high {
            Zone::High
        } else if utilization < self.low {
            Zone::Low
        } else {
            Zone::Middle
        }
    }

    /// Converts the watermarks to numbers of records of a cap.
    ///
    /// `high` is the largest number that is not above the high watermark, `low` the smallest that
    /// is not below the low watermark, and `pause_end` the smallest that is not below the end of a
    /// pause.
    pub(crate) fn of(self, capacity: u32) -> Marks {
        let share = |records: u32| f64::from(records) / f64::from(capacity);
        // Rounding errs by less than one record, so that one step corrects it.
        let mut high = (self.high * f64::from(capacity)) as u32;
        while high < capacity && share(high + 1) <= self.high {
            high += 1;
        }
        while share(high) > self.high {
            high -= 1;
        }
        let first_from = |mark: f64| {
            let mut records = (mark * f64::from(capacity)) as u32;
            while records > 0 && share(records - 1) >= mark {
                records -= 1;
            }
            while share(records) < mark {
                records += 1;
            }
            records
        };
        let (low, pause_end) = (first_from(self.low), first_from(self.pause_end()));
        Marks { high, low, pause_end, capacity }
    }
}

/// The watermarks of one cap, in records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) high: u32,
    pub(crate) low: u32,
    pub(crate) pause_end: u32,
    pub(crate) capacity: u32,
}

impl Marks {
    fn bands(self) -> Bands {
        let below_cap = self.capacity.saturating_sub(1);
        Bands {
            least: [0, self.low, self.high.saturating_add(1), self.pause_end],
            most: [self.low.saturating_sub(1), self.high.min(below_cap), below_cap, u32::MAX],
        }
    }
}

/// For each zone the least and the most records of a level in it. The most are fewer than the
/// least if no level is in the zone.
struct Bands {
    least: [u32; 4],
    most: [u32; 4],
}

impl Bands {
    /// Returns the zone of a level that was in the zone `before`.
    fn zone(&self, before: Zone, level: u32) -> Zone {
        let (least, most) =
            (|zone: Zone| self.least[zone as usize], |zone: Zone| self.most[zone as usize]);
        if (least(before)..=most(before)).contains(&level) {
            before
        } else if level > most(Zone::High) {
            Zone::Full
        } else if level >= least(Zone::High) {
            Zone::High
        } else if level < least(Zone::Middle) {
            Zone::Low
        } else {
            Zone::Middle
        }
    }
}

/// A signal that follows a level, or is set by hand.
pub(crate) struct SignalCell {
    word: AtomicU8,
    /// The [`Bands`] of the level. A thread that writes them then writes the word of the level, and
    /// updates the signal: see [`docs::internals`](crate::docs::internals#changing-a-cap).
    least: [AtomicSetting; 4],
    most: [AtomicSetting; 4],
    /// Notified when the signal changes.
    changes: Event,
    owner: Owner,
}

/// The word of a [`SignalCell`].
///
/// | bits | meaning |
/// | --- | --- |
/// | 7..6 | zone of the level |
/// | 3..2 | signal set by hand, plus one; 0 if there is none |
/// | 1..0 | signal derived from the level |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct State {
    zone: Zone,
    by_hand: Option<BackpressureSignal>,
    measured: BackpressureSignal,
}

const ZONE_SHIFT: u32 = 6;
const HAND_SHIFT: u32 = 2;
const SIGNAL_MASK: u8 = 0b11;

impl State {
    const START: Self =
        Self { zone: Zone::Low, by_hand: None, measured: BackpressureSignal::Resume };

    fn signal(self) -> BackpressureSignal {
        self.by_hand.unwrap_or(self.measured)
    }

    /// Returns the state after the level has been seen in that zone. A signal set by hand ends when
    /// the zone changes.
    fn seen_in(self, zone: Zone) -> Self {
        if zone == self.zone {
            return self;
        }
        Self { zone, by_hand: None, measured: next(self.measured, zone) }
    }

    fn into_bits(self) -> u8 {
        let by_hand = self.by_hand.map_or(0, |signal| signal as u8 + 1);
        (self.zone as u8) << ZONE_SHIFT | by_hand << HAND_SHIFT | self.measured as u8
    }

    fn from_bits(bits: u8) -> Self {
        let signal = |bits: u8| match bits & SIGNAL_MASK {
            0 => BackpressureSignal::Resume,
            1 => BackpressureSignal::SlowDown,
            _ => BackpressureSignal::Pause,
        };
        Self {
            zone: ZONES[usize::from(bits >> ZONE_SHIFT)],
            by_hand: (bits >> HAND_SHIFT & SIGNAL_MASK).checked_sub(1).map(signal),
            measured: signal(bits),
        }
    }
}

impl SignalCell {
    pub(crate) fn new() -> Self {
        Self {
            word: AtomicU8::new(State::START.into_bits()),
            least: std::array::from_fn(|_| AtomicSetting::new(0)),
            most: std::array::from_fn(|_| AtomicSetting::new(u32::MAX)),
            changes: Event::default(),
            owner: Owner::default(),
        }
    }

    /// Creates a cell that follows a level with these marks.
    pub(crate) fn with_marks(marks: Marks) -> Self {
        let cell = Self::new();
        cell.set_marks(marks);
        cell
    }

    /// Replaces the marks of the level.
    pub(crate) fn set_marks(&self, marks: Marks) {
        let bands = marks.bands();
        for zone in 0..ZONES.len() {
            self.least[zone].store(bands.least[zone], SeqCst);
            self.most[zone].store(bands.most[zone], SeqCst);
        }
    }

    /// Takes a level of zero out of its zone, so that each thread that has lowered the level to zero
    /// calls [`follow`](Self::follow). Until the marks are replaced.
    pub(crate) fn leave_at_zero(&self) {
        self.least[Zone::Low as usize].store(1, SeqCst);
    }

    fn bands(&self) -> Bands {
        let load = |marks: &[AtomicSetting; 4]| std::array::from_fn(|i| marks[i].load(SeqCst));
        Bands { least: load(&self.least), most: load(&self.most) }
    }

    /// Starts again, for a level of zero.
    pub(crate) fn restart(&self) {
        self.word.store(State::START.into_bits(), SeqCst);
    }

    fn state(&self) -> State {
        State::from_bits(self.word.load(SeqCst))
    }

    pub(crate) fn signal(&self) -> BackpressureSignal {
        self.state().signal()
    }

    /// Tries once to replace the word, and notifies the listeners if the signal changes.
    ///
    /// On failure, returns the current state.
    fn replace(&self, current: State, new: State) -> Result<(), State> {
        self.word
            .compare_exchange(current.into_bits(), new.into_bits(), SeqCst, SeqCst)
            .map_err(State::from_bits)?;
        if current.signal() != new.signal() {
            self.changes.notify_all();
            self.owner.signal_changed(&new.signal());
        }
        Ok(())
    }

    /// Names what the signal belongs to.
    pub(crate) fn set_owner(&self, kind: &'static str, id: &Arc<str>) {
        self.owner.set(kind, id);
    }

    /// Returns a listener for the next change. Callers create it before they read the signal.
    pub(crate) fn listen(&self) -> Listener {
        self.changes.listen()
    }

    fn update(&self, change: impl Fn(State) -> State) {
        let mut state = self.state();
        loop {
            let new = change(state);
            match self.replace(state, new) {
                Ok(()) => return,
                Err(actual) => state = actual,
            }
        }
    }

    /// Returns whether a level that the caller has raised has left the zone, so that the caller must
    /// call [`follow`](Self::follow). The level is `records` and `more` together.
    ///
    /// If it is below the zone, the thread that has lowered it calls that.
    #[inline]
    pub(crate) fn is_above(&self, records: u32, more: u32) -> bool {
        let zone = usize::from(self.word.load(SeqCst) >> ZONE_SHIFT);
        u64::from(records) + u64::from(more) > u64::from(self.most[zone].load(SeqCst))
    }

    /// Returns whether a level that the caller has lowered has left the zone, as
    /// [`is_above`](Self::is_above) does.
    #[inline]
    pub(crate) fn is_below(&self, records: u32, more: u32) -> bool {
        let zone = usize::from(self.word.load(SeqCst) >> ZONE_SHIFT);
        u64::from(records) + u64::from(more) < u64::from(self.least[zone].load(SeqCst))
    }

    /// Returns whether a level is outside the zone, so that the caller must call
    /// [`follow`](Self::follow).
    #[inline]
    pub(crate) fn is_outside(&self, level: u32) -> bool {
        self.is_above(level, 0) || self.is_below(level, 0)
    }

    /// Derives the signal from a level that other threads change too. `read` reads the level, and
    /// must be a read-modify-write of its word.
    ///
    /// The level and the cell form a store-load (Dekker) handshake. A thread changes the level,
    /// then reads the cell; if it writes the cell, it reads the level again. That read either
    /// observes a concurrent change of the level, or precedes it in the modification order of the
    /// level's word; in the second case the other thread observes the new cell. Hence the last
    /// thread to return leaves the cell in a zone that contains the level.
    ///
    /// Returns whether the level has entered another zone.
    pub(crate) fn follow(&self, read: impl Fn() -> u32) -> bool {
        let mut state = self.state();
        let mut moved = false;
        loop {
            // The level first: a thread that changes the marks writes the word of the level next.
            let level = read();
            let new = state.seen_in(self.bands().zone(state.zone, level));
            if new == state {
                return moved;
            }
            state = match self.replace(state, new) {
                Ok(()) => {
                    moved = true;
                    new
                }
                Err(actual) => actual,
            };
        }
    }
}

/// Applies the hysteresis: between the watermarks, a source that was slowed down stays slowed down.
fn next(current: BackpressureSignal, zone: Zone) -> BackpressureSignal {
    match zone {
        Zone::Full => BackpressureSignal::Pause,
        Zone::High => BackpressureSignal::SlowDown,
        Zone::Low => BackpressureSignal::Resume,
        Zone::Middle => current.min(BackpressureSignal::SlowDown),
    }
}

/// A controller that derives a signal from a utilization, with hysteresis.
///
/// Above the high watermark the signal is [`SlowDown`](BackpressureSignal::SlowDown), and at 1.0
/// [`Pause`](BackpressureSignal::Pause). `Pause` becomes `SlowDown` only below the middle between
/// the high watermark and 1.0: 0.9 unless set. `SlowDown` becomes
/// [`Resume`](BackpressureSignal::Resume) only below the low watermark. So a level that moves by a
/// few records around a mark does not change the signal each time.
///
/// The [`controller`](crate::BufferManager::controller) of a
/// [`BufferManager`](crate::BufferManager) follows the level of the whole buffer. A controller
/// created with [`new`](Self::new) is independent of any buffer, and changes only through
/// [`observe`](Self::observe) and [`signal`](Self::signal). Clones are cheap and share the signal.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{BackpressureController, BackpressureSignal};
///
/// let controller = BackpressureController::new(0.8);
/// assert_eq!((controller.high_watermark(), controller.low_watermark()), (0.8, 0.6));
///
/// assert_eq!(controller.observe(0.81), BackpressureSignal::SlowDown);
/// assert_eq!(controller.observe(0.7), BackpressureSignal::SlowDown);
/// assert_eq!(controller.observe(0.59), BackpressureSignal::Resume);
///
/// controller.signal(BackpressureSignal::Pause);
/// assert_eq!(controller.current(), BackpressureSignal::Pause);
/// ```
#[derive(Clone)]
pub struct BackpressureController {
    inner: Arc<Inner>,
}

struct Inner {
    watermarks: Watermarks,
    cell: SignalCell,
    /// Follows the bytes that the buffer holds. Without byte budgets, it asks for nothing.
    bytes: SignalCell,
}

impl BackpressureController {
    /// Creates a controller with the high watermark `threshold` and a low one at three quarters of
    /// it.
    ///
    /// `threshold` is a utilization above 0.0 and at most 1.0. The call never fails: a threshold
    /// above 1.0 becomes 1.0, and one that is NaN or not above 0.0 becomes the default, 0.8. Use
    /// [`with_watermarks`](Self::with_watermarks) to reject such values.
    pub fn new(threshold: f64) -> Self {
        let high = nearest_threshold(threshold);
        Self::from_watermarks(Watermarks { high, low: low_for(high) })
    }

    /// Creates a controller with two watermarks, given as utilizations.
    ///
    /// # Errors
    ///
    /// Returns [`SettingsError::Watermarks`] unless `0.0 < low <= high <= 1.0`.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BackpressureController, BackpressureSignal, SettingsError};
    ///
    /// let controller = BackpressureController::with_watermarks(0.9, 0.2)?;
    /// controller.observe(0.95);
    /// assert_eq!(controller.observe(0.25), BackpressureSignal::SlowDown);
    /// assert!(BackpressureController::with_watermarks(0.5, 0.6).is_err());
    /// # Ok::<(), SettingsError>(())
    /// ```
    pub fn with_watermarks(high: f64, low: f64) -> Result<Self, SettingsError> {
        Watermarks::new(high, low).map(Self::from_watermarks)
    }

    pub(crate) fn from_watermarks(watermarks: Watermarks) -> Self {
        let (cell, bytes) = (SignalCell::new(), SignalCell::new());
        Self { inner: Arc::new(Inner { watermarks, cell, bytes }) }
    }

    pub(crate) fn watermarks(&self) -> Watermarks {
        self.inner.watermarks
    }

    pub(crate) fn cell(&self) -> &SignalCell {
        &self.inner.cell
    }

    /// Returns the cell that follows the bytes that the buffer holds.
    pub(crate) fn bytes_cell(&self) -> &SignalCell {
        &self.inner.bytes
    }

    /// Updates the signal after the number of bytes that the buffer holds has changed. As any change
    /// of the level, one that crosses a mark ends a signal that was set by hand.
    pub(crate) fn follow_bytes(&self, level: u32, read: impl Fn() -> u32) {
        if self.inner.bytes.is_outside(level) && self.inner.bytes.follow(read) {
            self.inner.cell.update(|state| State { by_hand: None, ..state });
        }
    }

    /// Sets the signal by hand, and notifies every [subscriber](Self::subscribe) if it changes.
    ///
    /// The signal replaces the measured one until the level of the buffer next crosses a mark (a
    /// watermark, the cap, or the end of a pause), or until the next call of
    /// [`observe`](Self::observe). From then on the measured signal counts, as if none had been set
    /// by hand. A level that moves without crossing a mark leaves the signal as it is, for as long
    /// as it takes.
    ///
    /// The signals of sources and stages stay measured: [`Source::signal`](crate::Source::signal)
    /// is the strongest of them and this one.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BackpressureSignal, BufferManager, BufferedRecord};
    ///
    /// let manager = BufferManager::with_limits(10, 10, 10, 0.8);
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let lines = |n| vec![BufferedRecord::new("line", "a", "p", "filter"); n];
    ///
    /// manager.controller().signal(BackpressureSignal::Pause);
    /// source.try_send_batch(&stage, lines(5))?;
    /// assert_eq!(source.signal(), BackpressureSignal::Pause);
    /// // With six of ten records, the level crosses the low watermark.
    /// source.try_send_batch(&stage, lines(1))?;
    /// assert_eq!(source.signal(), BackpressureSignal::Resume);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn signal(&self, signal: BackpressureSignal) {
        self.inner.cell.update(|state| State { by_hand: Some(signal), ..state });
    }

    /// Returns the current signal.
    pub fn current(&self) -> BackpressureSignal {
        let state = self.inner.cell.state();
        state.by_hand.unwrap_or_else(|| state.measured.max(self.inner.bytes.signal()))
    }

    /// Derives the signal from a utilization from 0.0 to 1.0, and returns it. Ends a signal that was
    /// set by hand. NaN changes nothing.
    pub fn observe(&self, utilization: f64) -> BackpressureSignal {
        if utilization.is_nan() {
            return self.current();
        }
        let watermarks = self.inner.watermarks;
        self.inner.cell.update(|state| State {
            by_hand: None,
            ..state.seen_in(watermarks.zone(state.zone, utilization))
        });
        self.current()
    }

    /// Returns the utilization above which sources are asked to slow down.
    pub fn high_watermark(&self) -> f64 {
        self.inner.watermarks.high
    }

    /// Returns the utilization below which sources are asked to resume.
    pub fn low_watermark(&self) -> f64 {
        self.inner.watermarks.low
    }
}

/// A panic leaves every count exact: see [`internals`](crate::docs::internals#panics-and-user-code).
impl UnwindSafe for BackpressureController {}
impl RefUnwindSafe for BackpressureController {}

impl fmt::Debug for BackpressureController {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackpressureController")
            .field("high_watermark", &self.high_watermark())
            .field("low_watermark", &self.low_watermark())
            .field("current", &self.current())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_agree_with_the_watermarks_they_come_from() {
        for capacity in (1..=300).chain([9_999, 100_000, u32::MAX]) {
            for high in [0.01, 0.1, 0.3, 0.57, 0.8, 0.999, 1.0] {
                for low in [0.005, low_for(high), high] {
                    let watermarks = Watermarks::new(high.max(low), low).unwrap();
                    let marks = watermarks.of(capacity);
                    let bands = marks.bands();
                    let around = |mark: u32| mark.saturating_sub(2)..=mark.saturating_add(2);
                    let pause_end = around(marks.pause_end);
                    for records in around(marks.high)
                        .chain(around(marks.low))
                        .chain(pause_end)
                        .chain([0, capacity])
                    {
                        let records = records.min(capacity);
                        let share = f64::from(records) / f64::from(capacity);
                        for before in ZONES {
                            assert_eq!(
                                bands.zone(before, records),
                                watermarks.zone(before, share),
                                "{records} of {capacity} at {high}/{low}, before {before:?}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_word_keeps_every_signal_and_zone() {
        use BackpressureSignal::{Pause, Resume, SlowDown};
        for measured in [Resume, SlowDown, Pause] {
            for by_hand in [None, Some(Resume), Some(SlowDown), Some(Pause)] {
                for zone in ZONES {
                    let state = State { zone, by_hand, measured };
                    assert_eq!(State::from_bits(state.into_bits()), state);
                }
            }
        }
    }
}
