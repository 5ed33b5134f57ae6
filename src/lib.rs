//! A bounded buffer between the stages of a record pipeline, without locks on the data path.
//!
//! Sources push records, stages buffer them, workers take batches, and records that fail go back.
//! Three caps hold at every instant: on all records, on the records of each stage, and on the
//! records of each source. Near a cap, the buffer signals its sources to slow down; at a cap, it
//! refuses a push and hands the record back. No accepted record is lost, even if a worker panics
//! while holding a batch.
//!
//! | type | role |
//! | --- | --- |
//! | [`BufferManager`] | the whole buffer: creates, finds and removes stages and sources |
//! | [`Source`] | pushes records, which are charged to its account |
//! | [`Stage`] | buffers records until workers take them |
//! | [`Batch`] | records that a worker has taken and must settle |
//! | [`Permit`] | credits and places reserved for records to come |
//! | [`DeadLetters`] | records that failed for good |
//! | [`BackpressureController`], [`SignalReceiver`] | flow control |
//!
//! # Handles
//!
//! A [`Batch`] keeps the credits of its records until the work on them is done: acknowledged,
//! returned, forwarded to the next stage, or moved to the dead letters.
//!
//! ```
//! use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
//!
//! let manager = BufferManager::builder(BufferSettings::default()).max_retries(3).build()?;
//! let (parse, load) = (manager.stage("parse")?, manager.stage("load")?);
//! let source = manager.source("kafka-1")?;
//!
//! for line in ["17", "NA", "4"] {
//!     source.try_send(&parse, BufferedRecord::new(line, "kafka-1", "analytics", "parse"))?;
//! }
//!
//! let batch = parse.try_recv_batch(100)?;
//! let (good, bad) = batch.partition(|record| record.record.parse::<u32>().is_ok());
//! good.try_forward(&load)?;
//! bad.return_to_buffer(); // cannot fail
//!
//! assert_eq!((parse.len(), load.len()), (1, 2));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Waiting
//!
//! Calls with the prefix `try_` return at once. Calls without it are async and run on any executor:
//! a source waits for credits and places, a worker for records, a batch for places in the next
//! stage. Calls that end in `_blocking` or `_timeout` park the thread instead; do not use them
//! inside an async task. A future may be dropped at any time: no buffered record, no credit and no
//! wake-up is lost.
//!
//! ```
//! use std::thread;
//! use std::time::Duration;
//!
//! use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
//!
//! let settings = BufferSettings { max_per_source: 10, ..BufferSettings::default() };
//! let manager = BufferManager::new(settings);
//! let (stage, source) = (manager.stage("load")?, manager.source("kafka-1")?);
//!
//! let worker = thread::spawn({
//!     let stage = stage.clone();
//!     move || {
//!         let mut sum = 0;
//!         while let Ok(batch) = stage.recv_batch_linger_blocking(10, Duration::from_millis(5)) {
//!             sum += batch.iter().map(|record: &BufferedRecord<u64>| record.record).sum::<u64>();
//!             batch.ack();
//!         }
//!         sum
//!     }
//! });
//! for number in 1..=100 {
//!     source.send_blocking(&stage, BufferedRecord::new(number, "kafka-1", "sums", "load"))?;
//! }
//! manager.close();
//! manager.drain_timeout(Duration::from_secs(60))?;
//! assert_eq!(worker.join().unwrap(), 5_050);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Calls by name
//!
//! [`BufferManager`] also has calls that name the stage and the source each time. They are `async`,
//! never wait, and run on any executor.
//!
//! ```
//! use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
//!
//! # pollster::block_on(async {
//! let manager = BufferManager::new(BufferSettings {
//!     max_total_records: 100_000,
//!     max_per_stage: 10_000,
//!     max_per_source: 5_000,
//!     backpressure_threshold: 0.8,
//! });
//!
//! let record = BufferedRecord::new("of any type", "kafka-1", "analytics", "filter");
//! manager.buffer_for_stage("filter", record).await?;
//!
//! let batch = manager.get_batch("filter", 100).await;
//! assert_eq!(batch.len(), 1);
//!
//! // A returned record comes before newer ones, with one retry counted.
//! manager.return_to_buffer("filter", batch).await?;
//! assert_eq!(manager.get_batch("filter", 100).await[0].retry_count, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! # Flow control
//!
//! Above a threshold of 80 % of a cap by default, a source should slow down until the buffer has
//! drained: its own cap, the global cap, or that of the stage that it pushed to last. Poll
//! [`should_backpressure`](BufferManager::should_backpressure) as below, or follow
//! [`Source::signal`], which has hysteresis.
//!
//! ```
//! use conveyor_buffer::{
//!     BackpressureController, BackpressureSignal, BufferManager, BufferSettings, BufferedRecord,
//! };
//!
//! # pollster::block_on(async {
//! let settings = BufferSettings { max_per_source: 10, ..BufferSettings::default() };
//! let manager = BufferManager::new(settings);
//! let record = BufferedRecord::new("line", "source-1", "analytics", "filter");
//! manager.buffer_batch_for_stage("filter", vec![record; 9]).await?;
//!
//! let controller = BackpressureController::new(0.8);
//! if manager.should_backpressure("source-1").await {
//!     controller.signal(BackpressureSignal::SlowDown);
//! }
//! assert_eq!(controller.current(), BackpressureSignal::SlowDown);
//! assert_eq!(manager.available_credits("source-1").await, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! # Guarantees
//!
//! - **Caps.** `used <= leased <= cap` for every source, and the leases of all sources together
//!   stay within the global cap. A stage's cap counts its queued records and those in unsettled
//!   batches.
//! - **Conservation.** A record holds its credit from acceptance until it is acknowledged,
//!   dead-lettered or handed out of the library.
//! - **Honest refusals.** If no other thread uses the buffer, the limit named in a refusal is
//!   reached. A refusal hands the records back.
//! - **Order.** One source and one worker see first in, first out. Returned records come first, the
//!   oldest before the others.
//! - **Fairness.** A request that fits under its caps is granted eventually, whatever the pace of
//!   the workers and the pushes of other sources: see [`Source::send_batch`].
//!
//! # Performance
//!
//! A push within its source's lease is three compare-and-swaps: on the source's account, on the
//! stage's occupancy, and on the stage's ring. Far from the global cap, the pool that all sources
//! share is written once for many records. Records pushed together travel as one block, so that a
//! batch of 100 costs about as much as a single record. A worker thread reuses the memory of the
//! last batch that it settled (at most 128 KiB), and gathers single records without allocating.
//! Calls that wait share a lock; as long as there are none, pushing and settling each check one
//! flag.
//!
//! # Limitations
//!
//! - **Memory.** A stage allocates its ring up front, one slot for each record that it may hold:
//!   see [`BufferSettings::max_per_stage`]. Records are moved by value: see [`Envelope`].
//! - **Real-time priorities.** The data path is not lock-free in the strict sense. A thread that is
//!   preempted in the middle of a push delays the threads behind it until it runs again; under
//!   real-time priorities, threads of a higher priority may then spin without letting it run. Give
//!   all threads that use a buffer the same priority.
//! - **`fork`.** A child process must not use a buffer of its parent: threads that were in the
//!   middle of an operation do not exist in the child, and neither does the thread that runs the
//!   timers.
//! - **Lingering in `select!`.** A [`recv_batch_linger`](Stage::recv_batch_linger) future that is
//!   created in each iteration of a `select!` loop starts over each time. Create it once, keep it,
//!   and poll it by `&mut`.
//! - **Order with several workers.** Concurrent workers of one stage may overtake each other.
//! - **Deadlocks.** A worker can wait for credits or places that only it, or another waiting
//!   worker, can release: see [`Source::send`] and [`Batch::forward`].
//!
//! # Feature flags
//!
//! No feature is enabled by default.
//!
//! - `futures` adds `Stage::batches`, a `Stream` of batches, `Source::sink`, a `Sink` of records, and
//!   `DeadLetters::stream`.
//! - `serde` adds `Config`, a configuration of all that a [`Builder`] takes, from a TOML or JSON file,
//!   and makes [`BufferSettings`] and [`BackpressureSignal`] readable and writable.
//! - `loom` adds the model-checking test target of this package. It does not change the library.

#![forbid(unsafe_code)]
#![warn(missing_docs, missing_debug_implementations, rust_2018_idioms, unreachable_pub)]

mod admission;
mod age;
mod backpressure;
mod caps;
pub mod docs;
mod error;
mod event;
mod handle;
mod manager;
mod record;
mod retry;
mod settings;
mod store;
mod sync;
mod timer;
#[cfg(test)]
mod unit_tests;
mod unwind;

pub use backpressure::{BackpressureController, BackpressureSignal};
pub use error::{
    Closed, RecvTimeoutError, RegistryError, RejectReason, Rejected, RejectedBatch, TryRecvError,
};
pub use handle::{
    Batch, DeadLetters, ForwardError, Outcome, Permit, Producer, Settled, SignalReceiver, Singles,
    Source, Stage,
};
#[cfg(feature = "futures")]
pub use handle::{Batches, DeadLetterStream, RecordSink};
#[cfg(feature = "serde")]
pub use manager::{BackoffConfig, Config, SourceConfig, StageConfig};
pub use manager::{BufferManager, Builder, Remaining};
pub use record::{BufferedRecord, Envelope, Record};
pub use retry::Backoff;
pub use settings::{BufferSettings, SettingsError};
pub use store::{DeadLetter, DeadLetterReason};

/// The example of the README, as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
