//! The word of a stage's own cap: how many records it holds, and which it admits next.

use crate::block::Age;

/// The word of a stage's own cap.
///
/// | bits | meaning |
/// | --- | --- |
/// | 63 | closed: nothing more is admitted |
/// | 62..32 | records admitted so far, modulo 2^31: the age of the next |
/// | 31..0 | records queued or in unsettled batches |
#[derive(Clone, Copy)]
pub(crate) struct Occupancy(pub(crate) u64);

const COUNT_SHIFT: u32 = 32;

impl Occupancy {
    /// The bit of a closed stage.
    pub(crate) const CLOSED: u64 = 1 << 63;

    pub(crate) fn occupied(self) -> u32 {
        self.0 as u32
    }

    pub(crate) fn is_closed(self) -> bool {
        self.0 & Self::CLOSED != 0
    }

    pub(crate) fn next_age(self) -> Age {
        Age::new((self.0 >> COUNT_SHIFT) as u32)
    }

    pub(crate) fn admit(self, records: u32) -> Self {
        Self(self.count_on(records).0 + u64::from(records))
    }

    /// As many ages later.
    pub(crate) fn count_on(self, records: u32) -> Self {
        let admitted = ((self.0 & !Self::CLOSED) >> COUNT_SHIFT) + u64::from(records);
        // A carry out of the count is cut off.
        let count = admitted << COUNT_SHIFT & !Self::CLOSED;
        Self(self.0 & Self::CLOSED | count | u64::from(self.occupied()))
    }
}
