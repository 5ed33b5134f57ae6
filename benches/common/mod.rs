//! Shared by the benchmarks of the library and by the program in `comparison/`: the records and the
//! work that is timed.
#![allow(dead_code, reason = "each benchmark uses a part of it")]

pub mod blocking;
pub mod conveyor;
pub mod latency;
pub mod work;

use std::sync::LazyLock;

use conveyor_buffer::Envelope;

/// The number of records in a batch.
pub const BATCH: usize = 100;

/// A record: 8 bytes and a payload. It names its source by number.
pub struct Record<const PAYLOAD: usize> {
    pub source: u32,
    pub retries: u32,
    pub payload: [u8; PAYLOAD],
}

/// A record of 8 bytes: a tick, a counter.
pub type Small = Record<0>;
/// A record of 104 bytes: a row of numbers and a few pointers. Most figures are of this one.
pub type Medium = Record<96>;
/// A record of 328 bytes: a struct of many fields.
pub type Large = Record<320>;

const _: () = assert!(size_of::<Small>() == 8);
const _: () = assert!(size_of::<Medium>() == 104);
const _: () = assert!(size_of::<Large>() == 328);

impl<const PAYLOAD: usize> Record<PAYLOAD> {
    pub fn of(source: u32) -> Self {
        Self { source, retries: 0, payload: [0; PAYLOAD] }
    }
}

/// The number of source names.
const NAMES: u32 = 10_000;

/// Returns the name of a source. Only the calls by name use it.
pub fn source_name(source: u32) -> &'static str {
    static TABLE: LazyLock<Vec<String>> =
        LazyLock::new(|| (0..NAMES).map(|source| format!("source-{source}")).collect());
    &TABLE[source as usize]
}

impl<const PAYLOAD: usize> Envelope for Record<PAYLOAD> {
    fn source_id(&self) -> &str {
        source_name(self.source)
    }
    fn retry_count(&self) -> u32 {
        self.retries
    }
    fn increment_retry(&mut self) {
        self.retries += 1;
    }
}

/// A record that knows the number of its source. Competitors with a cap per source need it.
pub trait Sourced: Envelope + Sync {
    fn of(source: u32) -> Self;
    fn source(&self) -> u32;
}

impl<const PAYLOAD: usize> Sourced for Record<PAYLOAD> {
    fn of(source: u32) -> Self {
        Self::of(source)
    }
    fn source(&self) -> u32 {
        self.source
    }
}
