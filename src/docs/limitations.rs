//! What the buffer does not do, and what to do about it.
//!
//! # It lives in memory
//!
//! What the buffer holds when the process dies is gone. Acknowledge upstream only after the record
//! was acknowledged here, as in [the bridge](super::patterns#bridge-with-permits), so that upstream
//! delivers it again.
//!
//! # One record type
//!
//! All stages of a buffer hold one type. See
//! [One record type for several stages](super::patterns#one-record-type-for-several-stages). Records
//! are moved by value: [box large payloads](crate::Envelope#large-records).
//!
//! # Memory is allocated up front
//!
//! A stage allocates its ring when it is created, one slot for each record that it may hold: see
//! [`BufferSettings::max_per_stage`](crate::BufferSettings::max_per_stage). With many stages, give
//! each the capacity that it needs: [`Builder::stage_capacity`](crate::Builder::stage_capacity).
//!
//! # Bytes are what the record says
//!
//! The caps count records. [`Builder::max_total_bytes`](crate::Builder::max_total_bytes) adds a budget
//! of bytes, as [`Envelope::size_bytes`](crate::Envelope::size_bytes) measures them. Its default knows
//! the size of the record's type, and nothing of what the record owns on the heap: implement it.
//!
//! A record that grows in a worker's hands is measured again when it is forwarded or returned. Growth
//! for which the budget has no room is not charged, since neither call fails. Stages have no byte
//! budget of their own, and the budgets stay what they were built with.
//!
//! # Order with several workers
//!
//! Concurrent workers of one stage overtake each other, and a record that returns after a delay is
//! overtaken. [Order by key](super::patterns#order-by-key) shows the way out. There are no priorities
//! among records: use a stage for each priority.
//!
//! # Deadlocks
//!
//! A worker can wait for credits or places that only it, or another waiting worker, can release:
//!
//! - A worker that holds a batch and *sends* waits for credits that its own batch may hold. Settle
//!   the batch first, or forward it: a forward needs no credits. See
//!   [`Source::send`](crate::Source::send).
//! - Two full stages whose workers forward to each other wait for each other. In a pipeline with a
//!   cycle, forward for a limited time and settle the batch in another way when the time is up:
//!
//! ```
//! use std::time::Duration;
//!
//! use conveyor_buffer::{BufferManager, BufferSettings, Record};
//!
//! let manager = BufferManager::new(BufferSettings { max_per_stage: 1, ..Default::default() });
//! let (fetch, parse) = (manager.stage("fetch")?, manager.stage("parse")?);
//! let source = manager.source("crawler")?;
//! source.try_send(&fetch, Record::new("https://a.example"))?;
//! source.try_send(&parse, Record::new("https://b.example"))?;
//!
//! // Both stages are full, and each worker wants to forward to the other.
//! let page = fetch.try_recv_batch(1)?;
//! let link = parse.try_recv_batch(1)?;
//! let error = page.forward_timeout(&parse, Duration::from_millis(5)).unwrap_err();
//! assert!(error.is_full());
//! error.batch.requeue(); // no retry is counted: the work was not at fault
//! link.dead_letter("no room to crawl it"); // frees the place
//! fetch.try_recv_batch(1)?.try_forward(&parse)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Workers that are gone are not noticed
//!
//! A push that waits holds a handle to its stage, as workers do. So if all workers of a stage end,
//! pushes go on waiting. Let the last worker close the stage:
//! [Disconnection](crate::BufferManager#disconnection) shows a guard that does it even if the worker
//! panics.
//!
//! # Futures that are not polled
//!
//! The buffer grants a request while its future is not polled. Until it is polled or dropped, it
//! holds the credits and places, and [`drain`](crate::BufferManager::drain) waits for it. A future, a
//! permit or a batch that is passed to [`mem::forget`](std::mem::forget) holds them for ever. Do not
//! keep a receive that you stopped polling: it may have been woken in place of another worker.
//!
//! # Lingering in `select!`
//!
//! A [`recv_batch_linger`](crate::Stage::recv_batch_linger) that is created in each iteration of a
//! `select!` loop starts over each time. Create it once, and poll it by reference:
//!
//! ```
//! use std::pin::pin;
//! use std::time::Duration;
//!
//! use conveyor_buffer::{BufferManager, BufferSettings, Record};
//! use tokio::time;
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
//! # runtime.block_on(async {
//! let manager = BufferManager::new(BufferSettings::default());
//! let (stage, source) = (manager.stage("load")?, manager.source("ticks")?);
//! source.try_send(&stage, Record::new(1))?;
//!
//! let mut ticks = time::interval(Duration::from_millis(1));
//! let mut batch = pin!(stage.recv_batch_linger(100, Duration::from_millis(20)));
//! let batch = loop {
//!     tokio::select! {
//!         batch = &mut batch => break batch?,
//!         _ = ticks.tick() => {} // other work
//!     }
//! };
//! assert_eq!(batch.len(), 1);
//! batch.ack();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Progress and priorities
//!
//! The data path takes no lock, but it is not lock-free in the strict sense: a thread that is
//! preempted in the middle of a push delays the threads behind it until it runs again. Under
//! real-time priorities, threads of a higher priority may then spin without letting it run. Give all
//! threads that use a buffer the same priority.
//!
//! # Processes
//!
//! After `fork`, the child must not use a buffer of its parent: threads that were in the middle of an
//! operation do not exist in the child, and neither does the thread that runs the timers.
//!
//! # Numbers
//!
//! | what | at most |
//! | --- | --- |
//! | a cap, in records | 4,294,967,295 |
//! | stages at once | 1,024, or [`Builder::max_stages`](crate::Builder::max_stages) |
//! | sources at once | 131,072, or [`Builder::max_sources`](crate::Builder::max_sources); [idle ones](crate::Builder::idle_sources) can give their places to new names |
//! | dead letters without credits | 1,024, or [`Builder::dead_letter_capacity`](crate::Builder::dead_letter_capacity) |
//! | records of a producer's block | 65,536 |
//! | age of a record | 24 days |
//!
//! # Targets
//!
//! The crate is tested on 64-bit x86 Linux. It needs the standard library, and atomics of 64 bits,
//! which 32-bit x86 (`i686`) and Armv7 have. It does not build for targets without them, such as
//! 32-bit PowerPC and MIPS (`powerpc-unknown-linux-gnu`, `mipsel-unknown-linux-gnu`), Armv5
//! (`armv5te-unknown-linux-gnueabi`), and RISC-V with 32 bits
//! (`riscv32gc-unknown-linux-gnu`).
//!
//! `wasm32-unknown-unknown` has no clock, which all that waits, is delayed or becomes a dead letter
//! needs.
