//! The calls of other crates' channels, and their counterparts here.
//!
//! A channel is a stage with one source. Both are made from a
//! [`BufferManager`](crate::BufferManager), which holds the caps:
//!
//! | tokio `mpsc` | async-channel | crossbeam-channel | here |
//! | --- | --- | --- | --- |
//! | `channel(n)` | `bounded(n)` | `bounded(n)` | [`manager.stage(name)`](crate::BufferManager::stage), [`manager.source(name)`](crate::BufferManager::source), with a cap of n |
//! | `send(x).await` | `send(x).await` | | [`source.send(&stage, Record::new(x)).await`](crate::Source::send) |
//! | `blocking_send` | `send_blocking` | `send` | [`send_blocking`](crate::Source::send_blocking) |
//! | `send_timeout` | | `send_timeout` | [`send_timeout`](crate::Source::send_timeout) (parks the thread) |
//! | `try_send` | `try_send` | `try_send` | [`try_send`](crate::Source::try_send) |
//! | `reserve`, `reserve_many` | | | [`reserve`](crate::Source::reserve), [`reserve_up_to`](crate::Source::reserve_up_to) |
//! | `recv().await` | `recv().await` | | [`recv_batch(1).await`](crate::Stage::recv_batch) |
//! | `recv_many(&mut vec, n)` | | | [`recv_batch(n)`](crate::Stage::recv_batch) |
//! | `blocking_recv` | `recv_blocking` | `recv` | [`recv_batch_blocking`](crate::Stage::recv_batch_blocking) |
//! | | | `recv_timeout` | [`recv_batch_timeout`](crate::Stage::recv_batch_timeout) |
//! | `try_recv` | `try_recv` | `try_recv` | [`try_recv_batch`](crate::Stage::try_recv_batch) |
//! | `ReceiverStream` | `Receiver` is a `Stream` | `iter()` | `stage.batches(n)` with the feature `futures`; or `while let Ok(batch)` |
//! | `PollSender` | | | `source.sink(&stage)` with the feature `futures` |
//! | `rx.close()` | `close()` | | [`stage.close()`](crate::Stage::close), [`manager.close()`](crate::BufferManager::close) |
//! | drop of the last sender | the same | the same | drop of the last manager, source, producer, permit and sink |
//! | drop of the last receiver | the same | the same | nothing: [close the stage](super::limitations#workers-that-are-gone-are-not-noticed) |
//! | | `Receiver: Clone` | `Receiver: Clone` | [`Stage`](crate::Stage): `Clone` |
//!
//! # What is different
//!
//! - **What was received still counts.** A record keeps its place until it is settled. Call
//!   [`ack`](crate::Batch::ack) when the work is done, or
//!   [`into_records`](crate::Batch::into_records) to have the records as a channel gives them.
//! - **A batch that is dropped goes back.** Forget the `ack`, and the same records come again, for
//!   ever unless there is a [retry limit](crate::Builder::max_retries).
//! - **A source has a cap, too**: 5,000 records by default, where a stage has 10,000.
//! - **A failed push returns the record** in [`Rejected`](crate::Rejected), with the limit that
//!   refused it.
//! - **The manager is a handle that can push.** As long as you hold it, workers do not see
//!   [`Closed`](crate::Closed): close it or drop it.
//! - **There is no rendezvous channel**: a cap is 1 at least. There is no unbounded one either.
//! - **Threads cannot `select!` over stages.** Give each stage a thread, or use the async calls.
//!
//! # From tokio
//!
//! ```
//! use conveyor_buffer::{BufferManager, BufferSettings, Record};
//! use tokio::sync::mpsc;
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
//! # runtime.block_on(async {
//! // With a channel:
//! let (tx, mut rx) = mpsc::channel(100);
//! tokio::spawn(async move {
//!     for n in 1..=1_000_u64 {
//!         tx.send(n).await.unwrap();
//!     }
//! });
//! let (mut sum, mut numbers) = (0, Vec::new());
//! while rx.recv_many(&mut numbers, 10).await > 0 {
//!     sum += numbers.drain(..).sum::<u64>();
//! }
//! assert_eq!(sum, 500_500);
//!
//! // The same here:
//! let manager = BufferManager::new(BufferSettings { max_per_source: 100, ..Default::default() });
//! let (source, stage) = (manager.source("numbers")?, manager.stage("sum")?);
//! drop(manager); // the source alone keeps the buffer open
//! tokio::spawn({
//!     let stage = stage.clone();
//!     async move {
//!         for n in 1..=1_000_u64 {
//!             source.send(&stage, Record::new(n)).await.unwrap();
//!         }
//!     }
//! });
//! let mut sum = 0;
//! while let Ok(batch) = stage.recv_batch(10).await {
//!     sum += batch.iter().map(|n| **n).sum::<u64>();
//!     batch.ack();
//! }
//! assert_eq!(sum, 500_500);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # From async-channel or crossbeam-channel
//!
//! Several receivers share a stage as they share a channel: by clones.
//!
//! ```
//! use std::thread;
//!
//! use conveyor_buffer::{BufferManager, BufferSettings, Record};
//!
//! let manager = BufferManager::new(BufferSettings { max_per_stage: 100, ..Default::default() });
//! let (source, stage) = (manager.source("numbers")?, manager.stage("sum")?);
//! let workers = [(); 3].map(|()| {
//!     let stage = stage.clone();
//!     thread::spawn(move || {
//!         let mut sum = 0;
//!         while let Ok(batch) = stage.recv_batch_blocking(10) {
//!             // As a channel hands them out: they are settled at once.
//!             sum += batch.into_records().into_iter().map(Record::into_inner).sum::<u64>();
//!         }
//!         sum
//!     })
//! });
//!
//! for n in 1..=1_000 {
//!     source.send_blocking(&stage, Record::new(n))?;
//! }
//! drop((manager, source)); // as the drop of the last sender
//! let sum: u64 = workers.map(|worker| worker.join().unwrap()).into_iter().sum();
//! assert_eq!(sum, 500_500);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
