//! A bounded buffer between the stages of a record pipeline, without locks on the data path.
//!
//! Sources push records, stages buffer them, workers take batches, and what fails goes back. Three
//! caps hold at every instant: on all records, on the records of each stage, and on the records of
//! each source. Near a cap, sources are told to slow down; at one, a push is refused and the record
//! handed back. Nothing that was accepted is lost, also when a worker dies with a batch in hand.
//!
//! # By name
//!
//! [`BufferManager`] does everything by the names of stages and sources. Its `async` calls never
//! wait, and run on any executor.
//!
//! ```
//! use std::time::Instant;
//!
//! use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
//!
//! # pollster::block_on(async {
//! let settings = BufferSettings {
//!     max_total_records: 100_000,
//!     max_per_stage: 10_000,
//!     max_per_source: 5_000,
//!     backpressure_threshold: 0.8,
//! };
//! let manager = BufferManager::new(settings);
//!
//! // Buffer a record for a stage.
//! # let my_record = "of any type";
//! let record = BufferedRecord {
//!     record: my_record,
//!     source_id: "kafka-1".to_string(),
//!     pipeline_id: "analytics".to_string(),
//!     target_stage_id: "filter".to_string(),
//!     buffered_at: Instant::now(),
//!     retry_count: 0,
//! };
//! manager.buffer_for_stage("filter", record).await?;
//!
//! // Get a batch to work on.
//! let batch = manager.get_batch("filter", 100).await;
//! assert_eq!(batch.len(), 1);
//!
//! // Return what failed: it comes again before newer records, one retry counted.
//! let failed_records = batch;
//! manager.return_to_buffer("filter", failed_records).await?;
//! assert_eq!(manager.get_batch("filter", 100).await[0].retry_count, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! # Flow control
//!
//! Above a threshold (80 % unless set) a source should slow down; it may go on when the buffer has
//! drained. Ask as below, or let [`Source::signal`] tell, which has hysteresis.
//!
//! ```
//! use conveyor_buffer::{BackpressureController, BackpressureSignal};
//! # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
//! # pollster::block_on(async {
//! # let threshold = 0.8;
//! # let manager = BufferManager::new(BufferSettings { max_per_source: 10, ..Default::default() });
//! # let record = BufferedRecord::new("line", "source-1", "analytics", "filter");
//! # manager.buffer_batch_for_stage("filter", vec![record; 9]).await?;
//! let controller = BackpressureController::new(threshold);
//!
//! // Check whether backpressure should be applied.
//! if manager.should_backpressure("source-1").await {
//!     controller.signal(BackpressureSignal::SlowDown);
//! }
//! assert_eq!(controller.current(), BackpressureSignal::SlowDown);
//!
//! // What a source may still push.
//! let credits = manager.available_credits("source-1").await;
//! assert_eq!(credits, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! # By handle
//!
//! [`Source`] and [`Stage`] skip the look-up of names, and a [`Batch`] keeps its records' credits
//! until the work on them is done: acknowledged, returned, moved on to the next stage, or given up.
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
//! good.try_forward(&load).expect("the next stage has room");
//! bad.return_to_buffer(); // cannot fail
//!
//! assert_eq!((parse.len(), load.len()), (1, 2));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Waiting
//!
//! The `try_` calls answer at once. Without the prefix they are async, on any executor: a source
//! waits for credits and a place, a worker for a record, a batch for a place in the next stage. The
//! forms that end in `_blocking` and `_timeout` park the thread instead. A future of these may be
//! dropped at any time: no record in the buffer, no credit and no wake-up is lost.
//!
//! ```
//! use std::thread;
//! use std::time::Duration;
//!
//! use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
//!
//! let manager = BufferManager::new(BufferSettings { max_per_source: 10, ..Default::default() });
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
//! # What holds
//!
//! - `used <= leased <= cap` for every source, and the leases of all sources together stay within
//!   the global cap.
//! - A stage's cap counts the records that are queued *and* those in unsettled batches.
//! - A record holds its credits from acceptance until it is acknowledged, dead-lettered or handed
//!   out of the library.
//! - A refusal is honest: with nobody else running, the limit that it names really is reached. It
//!   hands the records back.
//! - One source and one worker see first in, first out; returned records come first, oldest first.
//!
//! # Where the time goes
//!
//! A push that fits its source's lease is one compare-and-swap on the source's account, one on the
//! stage's occupancy, and one on the stage's ring. The pool that all sources share is written once
//! for many records while it is far from its cap. Records that are pushed together travel as one
//! block: a batch of 100 costs about what a single record does. A worker's thread keeps the memory of
//! the last batch that it settled for the next (128 KiB at most), and so gathers single records
//! without allocating. Those who wait do so in a room with a lock; as long as it is empty, a push and
//! a settling each look at one flag.
//!
//! # Features
//!
//! - `futures` adds `Stage::batches`, a `Stream` of batches, and `Source::sink`, a `Sink` of records.
//! - `loom` adds the model-checking test target of this package. It changes nothing in the library.
//!
//! None is on unless asked for.

#![forbid(unsafe_code)]
#![warn(missing_docs, missing_debug_implementations, rust_2018_idioms, unreachable_pub)]

mod admission;
mod backpressure;
mod caps;
pub mod docs;
mod error;
mod event;
mod handle;
mod manager;
mod record;
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
pub use handle::{Batch, DeadLetters, Outcome, Permit, SignalReceiver, Source, Stage};
#[cfg(feature = "futures")]
pub use handle::{Batches, RecordSink};
pub use manager::{BufferManager, Builder, Remaining};
pub use record::{BufferedRecord, Envelope};
pub use settings::{BufferSettings, SettingsError};
pub use store::DeadLetter;

/// The README's example, as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
