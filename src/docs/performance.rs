//! How to choose block sizes, batch sizes, lingers and caps, and what each costs.
//!
//! The figures are from
//! [BENCHMARKS.md](https://docs.rs/crate/conveyor-buffer/latest/source/BENCHMARKS.md): records of 104
//! bytes, two cores. They compare ways with each other; measure your own machine with `cargo bench`
//! in a checkout.
//!
#![doc = include_str!("../../benches/chart.svg")]
//!
//! # What a record costs
//!
//! | records travel | ns a record, in and out |
//! | --- | --- |
//! | in batches of 100, one thread | 1.8 |
//! | in batches of 100, 2 producers and 2 workers | 15 |
//! | one by one, by a producer, one thread | 15 |
//! | one by one, by a producer, two threads | 27 |
//! | one by one, by the shared handle, one thread | 145 |
//! | the same, two threads, a worker that lingers | 121 |
//! | the same, two threads, a worker that takes each record as it comes | 498 |
//! | the same, one thread, 10,000 sources and 100 stages in turn | 303 |
//! | a refusal at the global cap | 157 |
//!
//! Almost all of it is paid for each *block*: four atomic read-modify-writes for a push, five more
//! for taking and settling. So let records travel together, and leave blocks as they are.
//!
//! # How records go in
//!
//! - **They come together**: [`send_batch`](crate::Source::send_batch). The `Vec` itself becomes the
//!   block, and comes out of [`into_records`](crate::Batch::into_records) as it went in if a worker
//!   takes it whole.
//! - **They come one by one to one thread or task**: [`producer`](crate::Source::producer). It makes
//!   blocks while workers are busy, and hands each record over at once while a worker waits. Flush it
//!   before you wait for input.
//! - **They come one by one to several threads**: a producer for each thread, from clones of the
//!   source; or [`send`](crate::Source::send), which takes `&self`.
//!
//! # Block size
//!
//! [`Producer::with_block_size`](crate::Producer::with_block_size): 256 unless set. A larger block
//! costs less a record. It also holds more credits and places ahead, and its first record waits
//! longer while all workers are busy. A block takes a quarter of a cap at most, and no more records
//! than the workers of the stage ask for: with small caps or small batches, a larger block size
//! changes nothing.
//!
//! # Batch size
//!
//! The `max` of [`recv_batch`](crate::Stage::recv_batch) and its forms.
//!
//! - Ask for as many records as the work handles well at once: the rows of one insert.
//! - Ask for at least the size of the blocks, so that blocks are not cut. What is cut off goes to
//!   the next worker through a lock.
//! - A batch holds its credits and places until it is settled. Leave room for records to queue
//!   meanwhile: the caps should be several times workers x batch size.
//! - If a worker panics, the whole batch comes back, record by record.
//! - [`settle`](crate::Batch::settle) and [`partition`](crate::Batch::partition) look at each record
//!   once; [`ack`](crate::Batch::ack) settles a batch of any size at one go.
//!
//! # Linger
//!
//! A worker that takes each record as it comes is in the way of a thread that pushes by the shared
//! handle: 498 ns a record. [`recv_batch_linger`](crate::Stage::recv_batch_linger) sleeps until a
//! batch can be filled or the time is up: 121 ns. It costs latency: the first record of a slow source
//! waits for the whole linger. Choose the time that a record may wait, such as 5 ms, and a `max` that
//! the rate can fill in it; a linger whose batch never fills gains little. Behind a producer it gains
//! nothing: 48 ns, and 29 ns as it comes.
//!
//! Where latency counts more than throughput, do not linger, and push through a producer.
//!
//! # Caps
//!
//! - **A stage** holds what waits and what is being worked on: rate x (wait + work). At 10,000 records
//!   a second, with batches that take 20 ms and bursts of 100 ms, that is 1,200. More buys tolerance
//!   of longer bursts, and costs memory up front: 1.4 MB for 10,000 records of 104 bytes.
//! - **A source** should be able to fill its share of the stage, and not all of it: its cap is what
//!   protects the other sources.
//! - **The whole buffer**: the memory that you can spare, divided by the size of a record with what it
//!   owns. Give it 200 records or more for each source. Below that, sources take each credit from the
//!   counter that all share, instead of some ahead.
//!
//! Memory is what a cap costs. A refusal costs somewhat more than a push, 157 ns beside 124 in that
//! buffer: wait by [`send`](crate::Source::send) rather than try again at once.
//!
//! # Record size
//!
//! Records are moved by value. Alone, one of 8 bytes costs 119 ns, of 104 bytes 145, of 328 bytes
//! 189. In batches of 100 it is 1.4, 1.8 and 2.1: a block is moved by its pointer. Box the payload of
//! records of more than about a kilobyte.
//!
//! # Names
//!
//! Get handles once, and keep them. A call by name looks up two names: 362 ns for a record in and out,
//! with the records of the crate that it is compared with.
//!
//! # An example
//!
//! A socket that delivers 10,000 records a second, a database that inserts up to 500 rows at a time,
//! and a record that may wait for 5 ms:
//!
//! ```
//! use std::thread;
//! use std::time::Duration;
//!
//! use conveyor_buffer::{BufferManager, BufferSettings, Record};
//!
//! let manager = BufferManager::new(BufferSettings {
//!     max_total_records: 20_000,
//!     max_per_stage: 4_000, // two workers with 500 each, and three times as much that waits
//!     max_per_source: 3_000,
//!     ..Default::default()
//! });
//! let (stage, source) = (manager.stage("insert")?, manager.source("socket")?);
//!
//! let workers = [(); 2].map(|()| {
//!     let stage = stage.clone();
//!     thread::spawn(move || {
//!         let (mut rows, mut inserts) = (0, 0);
//!         let linger = Duration::from_millis(5);
//!         while let Ok(batch) = stage.recv_batch_linger_blocking(500, linger) {
//!             rows += batch.len();
//!             inserts += 1;
//!             batch.ack();
//!         }
//!         (rows, inserts)
//!     })
//! });
//!
//! let mut producer = source.producer(&stage); // blocks of up to 256
//! for row in 0..10_000_u64 {
//!     producer.send_blocking(Record::new(row))?;
//! }
//! producer.flush(); // before it waits for input
//! manager.close();
//!
//! let [first, second] = workers.map(|worker| worker.join().unwrap());
//! assert_eq!(first.0 + second.0, 10_000);
//! assert!(first.1 + second.1 < 1_000, "most inserts have many rows");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
