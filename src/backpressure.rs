//! Watermarks, signals, and the hysteresis between them.

use std::fmt;
use std::sync::Arc;

use crate::event::{Event, Listener};
use crate::settings::{SettingsError, nearest_threshold};
use crate::sync::{AtomicU8, SeqCst};

/// The low watermark that goes with a high one when only the high one is given: three quarters of
/// it. In hundredths, so that 0.8 gives 0.6 and not the number after it.
fn low_for(high: f64) -> f64 {
    high * 75.0 / 100.0
}

/// What a source is asked to do.
///
/// The order is the order of urgency, so that the stronger of two signals is their maximum.
///
/// ```
/// use conveyor_buffer::BackpressureSignal::{Pause, Resume, SlowDown};
///
/// assert_eq!(Resume.max(SlowDown), SlowDown);
/// assert!(SlowDown < Pause);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum BackpressureSignal {
    /// There is room: push at the normal rate.
    #[default]
    Resume,
    /// The high watermark was passed: push less.
    SlowDown,
    /// A cap is reached: push nothing until some records are settled.
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

/// Where a level stands between the watermarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zone {
    /// Below the low watermark.
    Low,
    /// From the low to the high watermark, both included.
    Middle,
    /// Above the high watermark.
    High,
    /// At the cap.
    Full,
}

/// The two watermarks, as shares of a cap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Watermarks {
    pub(crate) high: f64,
    pub(crate) low: f64,
}

impl Watermarks {
    pub(crate) fn new(high: f64, low: f64) -> Result<Self, SettingsError> {
        // Written so that NaN fails.
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

    fn zone(self, utilization: f64) -> Zone {
        if utilization >= 1.0 {
            Zone::Full
        } else if utilization > self.high {
            Zone::High
        } else if utilization < self.low {
            Zone::Low
        } else {
            Zone::Middle
        }
    }

    /// The same watermarks as numbers of records of a cap: `high` is the most records that are not
    /// above the high watermark, `low` the fewest that are not below the low one.
    pub(crate) fn of(self, capacity: u32) -> Marks {
        let share = |records: u32| f64::from(records) / f64::from(capacity);
        // The product is off by less than one record, so that one step either way mends it.
        let mut high = (self.high * f64::from(capacity)) as u32;
        while high < capacity && share(high + 1) <= self.high {
            high += 1;
        }
        while share(high) > self.high {
            high -= 1;
        }
        let mut low = (self.low * f64::from(capacity)) as u32;
        while low > 0 && share(low - 1) >= self.low {
            low -= 1;
        }
        while share(low) < self.low {
            low += 1;
        }
        Marks { high, low, capacity }
    }
}

/// Watermarks of one cap, in records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) high: u32,
    pub(crate) low: u32,
    pub(crate) capacity: u32,
}

impl Marks {
    #[inline]
    pub(crate) fn zone(self, records: u32) -> Zone {
        if records >= self.capacity {
            Zone::Full
        } else if records > self.high {
            Zone::High
        } else if records < self.low {
            Zone::Low
        } else {
            Zone::Middle
        }
    }
}

/// A signal and the zone that it was last derived from, in one word.
///
/// | bits | meaning |
/// | --- | --- |
/// | 3..2 | zone |
/// | 1..0 | signal |
pub(crate) struct SignalCell {
    word: AtomicU8,
    /// Rings when the signal has changed.
    changes: Event,
}

const ZONE_SHIFT: u32 = 2;
const SIGNAL_MASK: u8 = 0b11;

impl SignalCell {
    pub(crate) fn new() -> Self {
        let word = AtomicU8::new(pack(BackpressureSignal::Resume, Zone::Low));
        Self { word, changes: Event::default() }
    }

    pub(crate) fn signal(&self) -> BackpressureSignal {
        unpack(self.word.load(SeqCst)).0
    }

    /// One attempt to replace the word, which tells whoever listens of another signal; the actual
    /// word where it has changed.
    fn replace(&self, current: u8, new: u8) -> Result<(), u8> {
        self.word.compare_exchange(current, new, SeqCst, SeqCst)?;
        if unpack(current).0 != unpack(new).0 {
            self.changes.notify_all();
        }
        Ok(())
    }

    /// Resolves when the signal has changed. To be made before the signal is read.
    pub(crate) fn listen(&self) -> Listener {
        self.changes.listen()
    }

    /// Forgets all, for an account that starts anew.
    pub(crate) fn reset(&self) {
        self.word.store(pack(BackpressureSignal::Resume, Zone::Low), SeqCst);
    }

    /// Sets the signal by hand. It stands until the level next enters another zone.
    fn set(&self, signal: BackpressureSignal) {
        self.update(|_, zone| (signal, zone));
    }

    /// Follows one reading.
    fn observe(&self, zone: Zone) -> BackpressureSignal {
        self.update(|signal, _| (next(signal, zone), zone))
    }

    fn update(
        &self,
        change: impl Fn(BackpressureSignal, Zone) -> (BackpressureSignal, Zone),
    ) -> BackpressureSignal {
        let mut word = self.word.load(SeqCst);
        loop {
            let (signal, zone) = unpack(word);
            let (signal, zone) = change(signal, zone);
            match self.replace(word, pack(signal, zone)) {
                Ok(()) => return signal,
                Err(actual) => word = actual,
            }
        }
    }

    /// Follows a level that other threads move as well. `seen` is the zone in which the caller's own
    /// change left the level; `read` reads the level anew.
    ///
    /// Whoever writes the cell reads the level again afterwards, and `read` must be a
    /// read-modify-write of the level's word: then it either sees a later change of the level, or
    /// that later change comes after it and its maker sees what was written here. So the last one to
    /// leave has left the cell true.
    #[inline]
    pub(crate) fn follow(&self, seen: Zone, read: impl Fn() -> Zone) {
        let word = self.word.load(SeqCst);
        if word >> ZONE_SHIFT != seen as u8 {
            self.catch_up(word, read);
        }
    }

    #[cold]
    fn catch_up(&self, mut word: u8, read: impl Fn() -> Zone) {
        loop {
            let (signal, zone) = unpack(word);
            let now = read();
            if zone == now {
                return;
            }
            let new = pack(next(signal, now), now);
            word = match self.replace(word, new) {
                Ok(()) => new,
                Err(actual) => actual,
            };
        }
    }
}

fn pack(signal: BackpressureSignal, zone: Zone) -> u8 {
    (zone as u8) << ZONE_SHIFT | signal as u8
}

fn unpack(word: u8) -> (BackpressureSignal, Zone) {
    let signal = match word & SIGNAL_MASK {
        0 => BackpressureSignal::Resume,
        1 => BackpressureSignal::SlowDown,
        _ => BackpressureSignal::Pause,
    };
    let zone = match word >> ZONE_SHIFT {
        0 => Zone::Low,
        1 => Zone::Middle,
        2 => Zone::High,
        _ => Zone::Full,
    };
    (signal, zone)
}

/// The hysteresis: between the watermarks a source that was slowed stays slowed.
fn next(current: BackpressureSignal, zone: Zone) -> BackpressureSignal {
    match zone {
        Zone::Full => BackpressureSignal::Pause,
        Zone::High => BackpressureSignal::SlowDown,
        Zone::Low => BackpressureSignal::Resume,
        Zone::Middle => current.min(BackpressureSignal::SlowDown),
    }
}

/// Turns a utilization into a signal, with hysteresis.
///
/// Above the high watermark it says [`SlowDown`](BackpressureSignal::SlowDown), at 1.0
/// [`Pause`](BackpressureSignal::Pause), and only below the low watermark
/// [`Resume`](BackpressureSignal::Resume) again; in between, what it said stands (a `Pause` becomes
/// `SlowDown` as soon as there is room).
///
/// A [`BufferManager`](crate::BufferManager) has one that follows the whole buffer's level by
/// itself, [`controller`](crate::BufferManager::controller). One made with [`new`](Self::new) stands
/// alone and says what it is told. Cloning is cheap, and clones share their signal.
///
/// ```
/// use conveyor_buffer::{BackpressureController, BackpressureSignal};
///
/// let controller = BackpressureController::new(0.8); // resumes below 0.6
/// assert_eq!(controller.observe(0.81), BackpressureSignal::SlowDown);
/// assert_eq!(controller.observe(0.7), BackpressureSignal::SlowDown);
/// assert_eq!(controller.observe(0.59), BackpressureSignal::Resume);
/// ```
#[derive(Clone)]
pub struct BackpressureController {
    inner: Arc<Inner>,
}

struct Inner {
    watermarks: Watermarks,
    cell: SignalCell,
}

impl BackpressureController {
    /// Makes a controller whose high watermark is `threshold` (a utilization, above 0.0 and at most
    /// 1.0) and whose low one is three quarters of it.
    ///
    /// It never fails: a threshold above 1.0 counts as 1.0; NaN and whatever is not above 0.0 count
    /// as the default, 0.8. [`with_watermarks`](Self::with_watermarks) reports bad values instead.
    ///
    /// ```
    /// use conveyor_buffer::BackpressureController;
    ///
    /// let controller = BackpressureController::new(0.8);
    /// assert_eq!(controller.high_watermark(), 0.8);
    /// assert_eq!(controller.low_watermark(), 0.6);
    /// assert_eq!(BackpressureController::new(f64::NAN).high_watermark(), 0.8);
    /// ```
    pub fn new(threshold: f64) -> Self {
        let high = nearest_threshold(threshold);
        Self::from_watermarks(Watermarks { high, low: low_for(high) })
    }

    /// Makes a controller with both watermarks given, as utilizations.
    ///
    /// # Errors
    ///
    /// [`SettingsError::Watermarks`] unless `0.0 < low <= high <= 1.0`.
    ///
    /// ```
    /// use conveyor_buffer::{BackpressureController, BackpressureSignal};
    ///
    /// let controller = BackpressureController::with_watermarks(0.9, 0.2).unwrap();
    /// controller.observe(0.95);
    /// assert_eq!(controller.observe(0.25), BackpressureSignal::SlowDown);
    /// assert!(BackpressureController::with_watermarks(0.5, 0.6).is_err());
    /// ```
    pub fn with_watermarks(high: f64, low: f64) -> Result<Self, SettingsError> {
        Watermarks::new(high, low).map(Self::from_watermarks)
    }

    pub(crate) fn from_watermarks(watermarks: Watermarks) -> Self {
        Self { inner: Arc::new(Inner { watermarks, cell: SignalCell::new() }) }
    }

    pub(crate) fn watermarks(&self) -> Watermarks {
        self.inner.watermarks
    }

    pub(crate) fn cell(&self) -> &SignalCell {
        &self.inner.cell
    }

    /// Sets the signal by hand, and tells every [subscriber](Self::subscribe) if it is another.
    ///
    /// It stands until a level that the controller follows, or an [`observe`](Self::observe), asks
    /// for another.
    ///
    /// ```
    /// use conveyor_buffer::{BackpressureController, BackpressureSignal};
    ///
    /// let controller = BackpressureController::new(0.8);
    /// controller.signal(BackpressureSignal::SlowDown);
    /// assert_eq!(controller.current(), BackpressureSignal::SlowDown);
    /// ```
    pub fn signal(&self, signal: BackpressureSignal) {
        self.inner.cell.set(signal);
    }

    /// The signal that stands now.
    ///
    /// ```
    /// use conveyor_buffer::{BackpressureController, BackpressureSignal};
    ///
    /// assert_eq!(BackpressureController::new(0.8).current(), BackpressureSignal::Resume);
    /// ```
    pub fn current(&self) -> BackpressureSignal {
        self.inner.cell.signal()
    }

    /// Takes note of a utilization (0.0 to 1.0) and says what follows from it. NaN changes nothing.
    ///
    /// ```
    /// use conveyor_buffer::{BackpressureController, BackpressureSignal};
    ///
    /// let controller = BackpressureController::new(0.8);
    /// assert_eq!(controller.observe(0.8), BackpressureSignal::Resume);
    /// assert_eq!(controller.observe(1.0), BackpressureSignal::Pause);
    /// assert_eq!(controller.observe(0.9), BackpressureSignal::SlowDown);
    /// ```
    pub fn observe(&self, utilization: f64) -> BackpressureSignal {
        if utilization.is_nan() {
            return self.current();
        }
        self.inner.cell.observe(self.inner.watermarks.zone(utilization))
    }

    /// The utilization above which the controller asks sources to slow down.
    ///
    /// ```
    /// # use conveyor_buffer::BackpressureController;
    /// assert_eq!(BackpressureController::new(0.5).high_watermark(), 0.5);
    /// ```
    pub fn high_watermark(&self) -> f64 {
        self.inner.watermarks.high
    }

    /// The utilization below which the controller lets sources go on.
    ///
    /// ```
    /// # use conveyor_buffer::BackpressureController;
    /// assert_eq!(BackpressureController::new(0.5).low_watermark(), 0.375);
    /// ```
    pub fn low_watermark(&self) -> f64 {
        self.inner.watermarks.low
    }
}

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
                    let around = |mark: u32| mark.saturating_sub(2)..=mark.saturating_add(2);
                    for records in around(marks.high).chain(around(marks.low)).chain([0, capacity])
                    {
                        let records = records.min(capacity);
                        let share = f64::from(records) / f64::from(capacity);
                        assert_eq!(
                            marks.zone(records),
                            watermarks.zone(share),
                            "{records} of {capacity} at {high}/{low}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_word_keeps_every_signal_and_zone() {
        use BackpressureSignal::{Pause, Resume, SlowDown};
        for signal in [Resume, SlowDown, Pause] {
            for zone in [Zone::Low, Zone::Middle, Zone::High, Zone::Full] {
                assert_eq!(unpack(pack(signal, zone)), (signal, zone));
            }
        }
    }
}
