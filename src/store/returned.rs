//! The returned records of a stage: those that are taken before newer ones, and those that are not
//! due yet. See [`docs::internals`](crate::docs::internals#lanes).

use std::collections::{BTreeMap, VecDeque};

use super::contents::{BatchContents, Run};
use crate::caps::{Places, Sequence};

/// Fragments of former blocks, the oldest first.
pub(super) struct Returned<E> {
    fragments: BTreeMap<Position, Fragment<E>>,
    /// Fragments that are not due yet, by due time and arrival.
    delayed: BTreeMap<(u64, u64), Fragment<E>>,
    /// How many places the stage had given when `sequence` was the next, not reduced modulo 2^31.
    count: u64,
    sequence: Sequence,
    arrivals: u64,
}

/// The order in which fragments are taken: by class, then by sequence or due time, then by arrival.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    class: Class,
    count: u64,
    arrival: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// Delayed records that have become due, by due time.
    Due,
    /// Records that were handed out by name and came back, by sequence.
    HandedOut,
    /// All others, by sequence.
    NeverLeft,
}

/// The records of a run.
pub(super) struct Fragment<E> {
    pub(super) run: Run,
    /// Whether each record is handed out alone.
    pub(super) isolated: bool,
    pub(super) records: VecDeque<E>,
}

impl<E> Default for Returned<E> {
    fn default() -> Self {
        Self {
            fragments: BTreeMap::new(),
            delayed: BTreeMap::new(),
            // Far from zero, so that the positions of older records are not negative.
            count: 1 << 32,
            sequence: Sequence::default(),
            arrivals: 0,
        }
    }
}

impl<E> Returned<E> {
    pub(super) fn insert(&mut self, fragment: Fragment<E>, places: &Places) {
        let now = places.next();
        self.count += u64::from(self.sequence.distance(now));
        self.sequence = now;
        let class =
            if fragment.run.first.is_returned() { Class::HandedOut } else { Class::NeverLeft };
        let count = self.count - u64::from(fragment.run.first.distance(now));
        let position = Position { class, count, arrival: self.arrival() };
        self.fragments.insert(position, fragment);
    }

    fn arrival(&mut self) -> u64 {
        self.arrivals += 1;
        self.arrivals
    }

    /// Returns the run of the next record that can be taken.
    pub(super) fn front(&self) -> Option<Run> {
        self.fragments.first_key_value().map(|(_, fragment)| fragment.run)
    }

    /// Puts a fragment among those that are not due yet.
    pub(super) fn delay(&mut self, fragment: Fragment<E>, due: u64) {
        let arrival = self.arrival();
        self.delayed.insert((due, arrival), fragment);
    }

    /// Returns when the next delayed fragment is due, or `u64::MAX` if there is none.
    pub(super) fn next_due(&self) -> u64 {
        self.delayed.first_key_value().map_or(u64::MAX, |(&(due, _), _)| due)
    }

    /// Moves the fragments that are due at `now` to those that can be taken, and returns their
    /// number of records.
    pub(super) fn promote(&mut self, now: u64) -> u64 {
        let mut records = 0;
        while let Some(entry) = self.delayed.first_entry()
            && entry.key().0 <= now
        {
            let ((due, arrival), fragment) = entry.remove_entry();
            records += fragment.records.len() as u64;
            self.fragments.insert(Position { class: Class::Due, count: due, arrival }, fragment);
        }
        records
    }

    /// Adds records to a batch that is to hold at most `max`, and returns their number. An isolated
    /// record makes a batch of its own: it joins no batch, and no record joins it.
    pub(super) fn take(&mut self, contents: &mut BatchContents<E>, max: usize) -> u64 {
        let before = contents.len();
        while contents.len() < max
            && !contents.is_complete()
            && let Some((mut position, mut fragment)) = self.fragments.pop_first()
        {
            if fragment.isolated && !contents.is_empty() {
                contents.complete();
                self.fragments.insert(position, fragment);
                break;
            }
            let wanted = if fragment.isolated { 1 } else { max - contents.len() };
            let len = fragment.records.len().min(wanted);
            contents.take_front(fragment.run.front(len), &mut fragment.records);
            if fragment.isolated {
                contents.isolate();
            }
            if fragment.records.is_empty() {
                continue;
            }
            if position.class != Class::Due {
                // The records that were taken may come back, and then come before the rest.
                position.count += len as u64;
            }
            fragment.run = fragment.run.after(len);
            if fragment.records.len() < fragment.records.capacity() / 2 {
                fragment.records.shrink_to_fit();
            }
            self.fragments.insert(position, fragment);
        }
        (contents.len() - before) as u64
    }
}
