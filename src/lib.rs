//! A bounded in-memory buffer between the stages of a record pipeline.
//!
//! Sources push records, stages buffer them, workers take batches, and records that fail go back.
//! Three caps hold at every instant: on all records, on the records of each stage, and on the
//! records of each source. Near a cap, the buffer signals its sources to slow down; at a cap, a push
//! waits, or is refused with the record handed back. No accepted record is lost, even if a worker
//! panics while holding a batch.
//!
//! | type | role |
//! | --- | --- |
//! | [`BufferManager`] | the whole buffer: creates, finds and removes stages and sources |
//! | [`Source`] | pushes records, which are charged to its account |
//! | [`Producer`] | gathers single records of one thread or task into blocks |
//! | [`Stage`] | buffers records until workers take them |
//! | [`Batch`] | records that a worker has taken and must settle |
//! | [`Permit`] | credits and places reserved for records to come |
//! | [`DeadLetters`] | records that failed for good |
//! | [`BackpressureController`], [`SignalReceiver`] | flow control |
//! | [`Record`], [`BufferedRecord`], [`Envelope`] | what a record is |
//!
//! # Getting started
//!
//! Create a buffer, get handles to its stages and sources, and keep them. A source pushes; a worker
//! takes batches and *settles* each: it acknowledges, returns, forwards or dead-letters the records.
//! They hold their share of the caps until then.
//!
//! All stages of a buffer hold records of one type, here `Record<&str>`. Name it if the compiler
//! cannot infer it at the first use of a record.
//!
//! ```
//! use std::error::Error;
//! use std::thread;
//! use std::time::Duration;
//!
//! use conveyor_buffer::{Backoff, BufferManager, BufferSettings, Outcome, Record};
//!
//! fn main() -> Result<(), Box<dyn Error>> {
//!     let backoff = Backoff::exponential(Duration::from_millis(1), Duration::from_secs(1));
//!     let manager = BufferManager::<Record<&str>>::builder(BufferSettings::default())
//!         .max_retries(3)
//!         .retry_backoff(backoff)
//!         .build()?;
//!     let (parse, load) = (manager.stage("parse")?, manager.stage("load")?);
//!     let source = manager.source("orders.csv")?;
//!
//!     // Forwards the lines that are numbers. The others fail again each time, and become dead
//!     // letters after three retries.
//!     let parser = thread::spawn({
//!         let (parse, load) = (parse.clone(), load.clone());
//!         move || {
//!             while let Ok(batch) = parse.recv_batch_blocking(100) {
//!                 let (good, bad) = batch.partition(|line| line.parse::<u32>().is_ok());
//!                 bad.return_to_buffer(); // cannot fail
//!                 good.forward_blocking(&load).expect("the stage is open");
//!             }
//!         }
//!     });
//!     // Decides record by record. The first attempt at each line fails.
//!     let loader = thread::spawn(move || {
//!         let mut loaded = 0;
//!         while let Ok(batch) = load.recv_batch_blocking(100) {
//!             let settled = batch.settle(|line| match line.retries() {
//!                 0 => Outcome::Return,
//!                 _ => Outcome::Ack,
//!             });
//!             loaded += settled.acknowledged;
//!         }
//!         loaded
//!     });
//!
//!     for line in ["17", "NA", "4"] {
//!         source.send_blocking(&parse, Record::new(line))?; // waits while a cap is reached
//!     }
//!     manager.close(); // the workers end when every record is settled
//!     parser.join().expect("no panic");
//!     assert_eq!(loader.join().expect("no panic"), 2);
//!
//!     let letter = manager.dead_letters().try_recv().expect("one line was not a number");
//!     assert_eq!((*letter.record, letter.retry_count), ("NA", 3));
//!     Ok(())
//! }
//! ```
//!
//! # Waiting
//!
//! | calls | wait | use them |
//! | --- | --- | --- |
//! | [`send`](Source::send), [`recv_batch`](Stage::recv_batch), [`forward`](Batch::forward), .. | as futures, on any executor | in async code |
//! | .. with the suffix `_blocking` or `_timeout` | park the thread | on threads, never inside an async task |
//! | .. with the prefix `try_` | never: they return at once | anywhere |
//!
//! A source waits for credits and places, a worker for records, a batch for places in the next
//! stage. A future may be dropped at any time: no buffered record, no credit and no wake-up is lost.
//!
//! ```
//! use conveyor_buffer::{BufferManager, BufferSettings, Record};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
//! # runtime.block_on(async {
//! let caps = BufferSettings { max_per_source: 10, ..Default::default() };
//! let manager = BufferManager::<Record<u64>>::new(caps);
//! let (stage, source) = (manager.stage("load")?, manager.source("numbers")?);
//!
//! let worker = tokio::spawn(async move {
//!     let mut sum = 0;
//!     while let Ok(batch) = stage.recv_batch(10).await {
//!         sum += batch.iter().map(|number| **number).sum::<u64>();
//!         batch.ack();
//!     }
//!     sum
//! });
//! let stage = manager.stage("load")?; // the same stage again
//! for number in 1..=100 {
//!     source.send(&stage, Record::new(number)).await?;
//! }
//! manager.close();
//! manager.drain().await;
//! assert_eq!(worker.await?, 5_050);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! # Flow control
//!
//! Above a threshold of 80 % of a cap by default, a source should slow down until the buffer has
//! drained: its own cap, the global cap, or that of the stage that it pushed to last.
//! [`Source::signal`] tells, with hysteresis; [`Source::signals`] waits for a change.
//!
//! ```
//! use conveyor_buffer::{BackpressureSignal, BufferManager, BufferSettings, Record};
//!
//! let manager = BufferManager::new(BufferSettings { max_per_source: 10, ..Default::default() });
//! let (stage, source) = (manager.stage("load")?, manager.source("numbers")?);
//! source.try_send_batch(&stage, (1..=9).map(Record::new).collect())?;
//! assert_eq!(source.signal(), BackpressureSignal::SlowDown);
//!
//! stage.try_recv_batch(9)?.ack();
//! assert_eq!(source.signal(), BackpressureSignal::Resume);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Record types
//!
//! [`Record<T>`](Record) wraps any payload and counts its retries. [`BufferedRecord`] also names the
//! record's source, which the calls by name need. A type of your own implements [`Envelope`]:
//!
//! ```
//! use conveyor_buffer::{BufferManager, BufferSettings, Envelope};
//!
//! struct Order {
//!     shop: String,
//!     attempts: u32,
//! }
//!
//! impl Envelope for Order {
//!     fn source_id(&self) -> &str {
//!         &self.shop
//!     }
//!     fn retry_count(&self) -> u32 {
//!         self.attempts
//!     }
//!     fn increment_retry(&mut self) {
//!         self.attempts += 1;
//!     }
//! }
//!
//! let manager = BufferManager::new(BufferSettings::default());
//! let (stage, source) = (manager.stage("load")?, manager.source("north")?);
//! source.try_send(&stage, Order { shop: "north".to_owned(), attempts: 0 })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Calls by name
//!
//! [`BufferManager`] also has calls that name the stage and the source each time. They differ from
//! the handles:
//!
//! - **They never wait**, although they are `async`: a push at a cap is refused, and
//!   [`get_batch`](BufferManager::get_batch) returns an empty `Vec` if no record is queued. A worker
//!   that calls it in a loop polls.
//! - **`get_batch` acknowledges before the work.** It releases the credits of the records and hands
//!   them out of the library: they no longer count against the caps, and a worker that panics loses
//!   them.
//! - **[`return_to_buffer`](BufferManager::return_to_buffer) is a push**, and may be refused.
//!   [`Batch::return_to_buffer`] cannot.
//! - **They look up two names each time**, and create what does not exist.
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
//! [`should_backpressure`](BufferManager::should_backpressure) and
//! [`available_credits`](BufferManager::available_credits) read the level of a source by name, and a
//! [`BackpressureController`] of your own passes a signal on:
//!
//! ```
//! use conveyor_buffer::{
//!     BackpressureController, BackpressureSignal, BufferManager, BufferSettings, BufferedRecord,
//! };
//!
//! # pollster::block_on(async {
//! let manager = BufferManager::new(BufferSettings { max_per_source: 10, ..Default::default() });
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
//! # Guide
//!
//! The module [`docs`] has longer pages: [patterns](docs::patterns) with whole programs,
//! [performance](docs::performance), [limitations](docs::limitations),
//! [coming from a channel](docs::coming_from_a_channel), and [internals](docs::internals).
//!
//! # Feature flags
//!
//! No feature is enabled by default.
//!
//! - `futures` adds `Stage::batches`, a `Stream` of batches, `Source::sink`, a `Sink` of records, and
//!   `DeadLetters::stream`.
//! - `serde` adds `Config`, a configuration of all that a [`Builder`] takes, from a TOML or JSON file,
//!   and makes [`BufferSettings`] and [`BackpressureSignal`] readable and writable.
//! - `metrics` hands the statistics to the recorder of the `metrics` facade:
//!   `BufferManager::record_metrics`.
//! - `tracing` sends events for what is rare: a signal that changes, a dead letter, a batch that is
//!   dropped unsettled, a stage or source that is closed or removed, close and drain.
//! - `loom` adds the model-checking test target of this package. It does not change the library.

#![cfg_attr(docsrs, feature(doc_cfg))]
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
mod stats;
mod store;
mod sync;
mod timer;
mod trace;
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
pub use stats::{ByteStats, Counts, Quantiles, Refusals, SourceStats, StageStats, Stats, Waits};
pub use store::{DeadLetter, DeadLetterReason};

/// The example of the README, as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
