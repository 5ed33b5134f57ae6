//! Watermarks, backpressure signals, and the hysteresis between them.

use std::fmt;
use std::sync::Arc;

use crate::event::{Event, Listener};
use crate::settings::{SettingsError, nearest_threshold};
use crate::sync::{AtomicU8, SeqCst};

/// Returns the default low watermark for a high one: three quarters of it.
///
/// Computed in hundredths, so that 0.8 gives exactly 0.6.
fn low_for(high: f64) -> f64 {
    high * 75.0 / 100.0
}

/// What a source is asked to do.
///
/// The variants are ordered by urgency: the stronger of two signals is their maximum.
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
pub enum BackpressureSignal {
    /// There is room: push at the normal rate.
    #[default]
    Resume,
    /// The level is above the high watermark: push less.
    SlowDown,
    /// A cap is reached: push nothing until records are settled.
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

/// The position of a level relative to the watermarks.
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

    /// Converts the watermarks to numbers of records of a cap.
    ///
    /// `high` is the largest number that is not above the high watermark, `low` the smallest that
    /// is not below the low watermark.
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

/// The watermarks of one cap, in records.
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

/// A signal and the zone from which it was last derived, packed into one word.
///
/// | bits | meaning |
/// | --- | --- |
/// | 3..2 | zone |
/// | 1..0 | signal |
pub(crate) struct SignalCell {
    word: AtomicU8,
    /// Notified when the signal changes.
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

    /// Tries once to replace the word, and notifies the listeners if the signal changes.
    ///
    /// On failure, returns the current word.
    fn replace(&self, current: u8, new: u8) -> Result<(), u8> {
        self.word.compare_exchange(current, new, SeqCst, SeqCst)?;
        if unpack(current).0 != unpack(new).0 {
            self.changes.notify_all();
        }
        Ok(())
    }

    /// Returns a listener for the next change. Callers create it before they read the signal.
    pub(crate) fn listen(&self) -> Listener {
        self.changes.listen()
    }

    /// Resets the cell for an account that is opened again.
    pub(crate) fn reset(&self) {
        self.word.store(pack(BackpressureSignal::Resume, Zone::Low), SeqCst);
    }

    /// Sets the signal manually. It stays until the level enters another zone.
    fn set(&self, signal: BackpressureSignal) {
        self.update(|_, zone| (signal, zone));
    }

    /// Derives the signal from one reading of the level.
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

    /// Derives the signal from a level that other threads change too.
    ///
    /// `seen` is the zone of the level after the caller's own change; `read` reads the level again
    /// and must be a read-modify-write of its word.
    ///
    /// The level and the cell form a store-load (Dekker) handshake. A thread changes the level,
    /// then reads the cell; if it writes the cell, it reads the level again. That read either
    /// observes a concurrent change of the level, or precedes it in the modification order of the
    /// level's word; in the second case the other thread observes the new cell. Hence the last
    /// thread to return leaves the cell in the zone of the level.
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
/// [`Pause`](BackpressureSignal::Pause). It returns to [`Resume`](BackpressureSignal::Resume) only
/// below the low watermark. Between the watermarks it does not change, except that `Pause` becomes
/// `SlowDown`.
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
        Self { inner: Arc::new(Inner { watermarks, cell: SignalCell::new() }) }
    }

    pub(crate) fn watermarks(&self) -> Watermarks {
        self.inner.watermarks
    }

    pub(crate) fn cell(&self) -> &SignalCell {
        &self.inner.cell
    }

    /// Sets the signal manually, and notifies every [subscriber](Self::subscribe) if it changes.
    ///
    /// The signal stays until the level of the buffer, or a call of [`observe`](Self::observe),
    /// enters another zone.
    pub fn signal(&self, signal: BackpressureSignal) {
        self.inner.cell.set(signal);
    }

    /// Returns the current signal.
    pub fn current(&self) -> BackpressureSignal {
        self.inner.cell.signal()
    }

    /// Derives the signal from a utilization from 0.0 to 1.0, and returns it. NaN changes nothing.
    pub fn observe(&self, utilization: f64) -> BackpressureSignal {
        if utilization.is_nan() {
            return self.current();
        }
        self.inner.cell.observe(self.inner.watermarks.zone(utilization))
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
