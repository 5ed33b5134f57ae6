//! What a puller and its settlers have done so far.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts of a [`Puller`](crate::Puller) and its [`Settler`](crate::Settler)s since the start.
///
/// Each count only grows. Counts are read one after the other, so that two of them may differ by
/// what happened in between.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PullStats {
    /// Pull requests sent.
    pub requests: u64,
    /// Messages received.
    pub pulled: u64,
    /// Messages received whose delivery count was above 1.
    pub redelivered: u64,
    /// Messages acknowledged upstream.
    pub acked: u64,
    /// Messages handed back upstream.
    pub nacked: u64,
    /// Messages terminated upstream: dead letters, and messages that could not be decoded.
    pub terminated: u64,
    /// Messages that could not be decoded.
    pub undecodable: u64,
    /// *In progress* sent.
    pub in_progress: u64,
    /// Records whose settling upstream failed. They were handed back to the caller.
    pub failed: u64,
    /// Dead letters that could not be published, and were handed back upstream instead.
    pub unpublished: u64,
}

/// The counts behind [`PullStats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) requests: Counter,
    pub(crate) pulled: Counter,
    pub(crate) redelivered: Counter,
    pub(crate) acked: Counter,
    pub(crate) nacked: Counter,
    pub(crate) terminated: Counter,
    pub(crate) undecodable: Counter,
    pub(crate) in_progress: Counter,
    pub(crate) failed: Counter,
    pub(crate) unpublished: Counter,
}

impl Counters {
    pub(crate) fn read(&self) -> PullStats {
        PullStats {
            requests: self.requests.get(),
            pulled: self.pulled.get(),
            redelivered: self.redelivered.get(),
            acked: self.acked.get(),
            nacked: self.nacked.get(),
            terminated: self.terminated.get(),
            undecodable: self.undecodable.get(),
            in_progress: self.in_progress.get(),
            failed: self.failed.get(),
            unpublished: self.unpublished.get(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    // A count publishes nothing else, so Relaxed is enough.
    pub(crate) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
