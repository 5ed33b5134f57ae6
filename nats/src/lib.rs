//! NATS JetStream in and out of a [`conveyor_buffer`].
//!
//! When one process is not enough, a stream holds the records and deals them out to several
//! processes, and each of them buffers its share in memory. This crate connects the two, over
//! [`async_nats`]:
//!
//! | type | role |
//! | --- | --- |
//! | [`Puller`] | pulls the messages of a durable consumer into the first stage |
//! | [`Delivery`] | a message in the buffer, with what is needed to settle it upstream |
//! | [`Carries`] | a record type of your own that contains a delivery |
//! | [`Settler`] | acknowledges, hands back, publishes dead letters, shuts down |
//! | [`Publisher`] | publishes the records of the last stage to a stream, without duplicates |
//!
//! *Upstream* is the consumer that a message came from. *Settled* means acknowledged, handed back
//! (`+NAK`) or terminated (`+TERM`) there.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use async_nats::jetstream;
//! use conveyor_buffer::{BufferManager, BufferSettings};
//! use conveyor_buffer_nats::{Delivery, PullOptions, Puller};
//!
//! # async fn load(_: &conveyor_buffer::Batch<Delivery>) -> Result<(), std::io::Error> { Ok(()) }
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//!     let context = jetstream::new(async_nats::connect("localhost").await?);
//!     let consumer = context.get_stream("ORDERS").await?.get_consumer("load").await?;
//!
//!     // This process holds at most 500 unacknowledged messages.
//!     let settings = BufferSettings { max_per_source: 500, ..BufferSettings::default() };
//!     let manager = BufferManager::<Delivery>::builder(settings).max_retries(3).build()?;
//!     let (stage, source) = (manager.stage("load")?, manager.source("orders")?);
//!
//!     let options = PullOptions::default();
//!     let puller = Puller::new(context, consumer, source, stage.clone(), Ok, options).await?;
//!     let settler = puller.settler();
//!
//!     let worker = tokio::spawn({
//!         let settler = settler.clone();
//!         async move {
//!             while let Ok(batch) = stage.recv_batch(100).await {
//!                 if load(&batch).await.is_err() {
//!                     batch.return_to_buffer(); // a retry in this process
//!                 } else if let Err(error) = settler.ack(batch).await {
//!                     error.batch.requeue(); // done, and not acknowledged
//!                 }
//!             }
//!         }
//!     });
//!     let letters = tokio::spawn({
//!         let (settler, manager) = (settler.clone(), manager.clone());
//!         async move { settler.publish_dead_letters(&manager).await }
//!     });
//!
//!     // Until the process is told to stop: then drain for 10 s, and hand back what is left.
//!     puller.run(async { /* a signal */ }).await?;
//!     settler.shut_down(&manager, Duration::from_secs(10)).await;
//!     worker.await?;
//!     letters.await??;
//!     Ok(())
//! }
//! ```
//!
//! `cargo run --release -p conveyor-buffer-nats --example flights_nats` shows two such processes,
//! of which one is killed.
//!
//! # What is promised
//!
//! - **No message is lost.** A message is acknowledged only by a call of a [`Settler`] or
//!   [`Publisher`], never by a drop, an error or a panic. If a process dies, other processes get
//!   what it held after `ack_wait`.
//! - **Upstream first.** A record is released from the buffer after it was settled upstream. If
//!   that fails, the caller gets the batch back, and the buffer still counts it.
//! - **The cap of the source bounds what is unacknowledged.** The puller asks the server only for
//!   as many messages as it holds permits for. If a stage is full, the puller stops asking, and the
//!   messages stay in the stream, where other processes can have them. Only
//!   [dead letters](conveyor_buffer::DeadLetters) that wait to be settled come on top, up to
//!   `dead_letter_capacity`.
//! - **What is held is not delivered to others**, as long as the process lives and is connected:
//!   *in progress* is sent for it before `ack_wait` runs out.
//! - **A stream gets each record once.** The [`Publisher`] sets message ids, so that the stream
//!   drops what a redelivery would publish again within its duplicate window.
//! - **In order**: messages enter the first stage in the order of their delivery.
//!
//! # What is not promised
//!
//! - **Exactly-once work.** Delivery is at least once: a process that dies after its work and
//!   before its acknowledgement leaves the work to be done again. Make it idempotent: an insert
//!   with [`stream_sequence`](Delivery::stream_sequence) as the key, or the [`Publisher`].
//!   [`delivered`](Delivery::delivered) above 1 marks messages that may have been worked on before.
//! - **An acknowledgement that is certain.** It counts when the client has taken it, and may be
//!   lost with the connection; then the message comes again.
//!   [`double_ack`](PullOptions::double_ack) waits for the server's confirmation.
//! - **Order across failures.** Retries, redeliveries, several workers and several processes
//!   overtake each other.
//! - **One copy beyond the duplicate window.** A record that is published again after the window of the
//!   target stream (`duplicate_window`, 2 minutes by default) is stored twice. The window must be
//!   longer than `ack_wait` and the longest outage together.
//!
//! # Choosing the numbers
//!
//! | setting | of | what it decides |
//! | --- | --- | --- |
//! | `max_per_source` (*cap*) | buffer | how many messages a process holds unacknowledged |
//! | `max_ack_pending` | consumer | how many all processes hold together |
//! | `ack_wait` | consumer | after how long others get what a dead process held |
//! | `max_retries`, `retry_backoff` | buffer | how often work is tried again in this process, and when |
//! | `max_deliver` | consumer | how often a message is delivered: lost processes and hand-backs |
//!
//! Choose them in this order:
//!
//! 1. **`ack_wait`**: as long as others may wait for what a dead process held, and longer than a
//!    reconnect takes. 30 s, the server's default, is a good start. It need not be as long as the
//!    work takes.
//! 2. **cap ≤ rate × `ack_wait` / 2**, with the rate at which one process settles messages. A
//!    message in a full buffer then waits for half of `ack_wait` at most, and none needs *in
//!    progress*. More gains no throughput: the buffer must cover the round trip to the server and
//!    the pauses of the work, which a second's worth of messages does. A cap beyond the rule works,
//!    and costs one small message for each held message and each half of `ack_wait`. If
//!    [`PullOptions::rate`] is set, [`Puller::new`] checks the rule; otherwise it allows what costs
//!    at most 10,000 such messages a second.
//! 3. **`max_ack_pending` ≥ processes × cap**, or -1. With less, one slow process with a full
//!    buffer leaves nothing for the others. [`Puller::new`] checks it for
//!    [`PullOptions::processes`].
//! 4. **Retries are local.** A batch that is returned to the buffer comes again in the same
//!    process, and upstream nothing happens; the delay of `retry_backoff` may be longer than
//!    `ack_wait`. When `max_retries` is used up, the record is a dead letter, which
//!    [`Settler::publish_dead_letters`] settles upstream as the [`DeadLetterRoute`] says. Use
//!    [`Settler::nak`] only where another process might succeed, or for delays that should not hold
//!    a place in this buffer.
//! 5. **`max_deliver`**: -1, or more than the restarts and hand-backs that a message may see. It is
//!    no limit of retries: a message that has reached it is never delivered again, and no dead
//!    letter tells of it.
//!
//! For example: three processes that settle 2,000 messages a second each, and `ack_wait` of 30 s.
//! The rule allows a cap of 30,000; 4,000 are two seconds' worth. `max_ack_pending` is then at
//! least 12,000.
//!
//! ```
//! use conveyor_buffer::BufferSettings;
//! use conveyor_buffer_nats::PullOptions;
//!
//! let settings = BufferSettings { max_per_source: 4_000, ..BufferSettings::default() };
//! let options = PullOptions::default().processes(3).rate(2_000.0);
//! # assert_ne!(options, PullOptions::default());
//! # drop(settings);
//! ```
//!
//! # Shutting down
//!
//! Tell the puller to stop, and call [`Settler::shut_down`] when it has ended: the workers have a
//! grace period for what is in the buffer, and the rest is handed back, so that others have it at
//! once.
//!
//! Nothing is lost without that. What a process held that is killed is delivered to others after
//! `ack_wait`. If only its tasks are aborted, the same happens as soon as the handles of the buffer
//! are dropped, and with them the deliveries; until then *in progress* is sent for them.

#![forbid(unsafe_code)]
#![warn(missing_docs, missing_debug_implementations, rust_2018_idioms, unreachable_pub)]

mod buffer;
mod delivery;
mod error;
mod keeper;
mod options;
mod publisher;
mod puller;
mod request;
mod retry;
mod settler;
mod start;
mod stats;

pub use delivery::{Carries, Delivery, Undecodable};
pub use error::{PublishFailed, PullError, SettleError, StartError};
pub use options::{DeadLetterRoute, PublishOptions, PullOptions};
pub use publisher::{Outgoing, PublishStats, PublishStatsReader, Publisher};
pub use puller::Puller;
pub use settler::{Settler, ShutDown};
pub use stats::PullStats;
