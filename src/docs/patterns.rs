//! Programs for common tasks.
//!
//! Each is complete, and runs as a test of this crate. On threads the calls end in `_blocking`; in
//! async code they have no suffix, and run on any executor.
//!
//! | task | section |
//! | --- | --- |
//! | several inputs, one stage | [Fan in](#fan-in) |
//! | several workers, several stages | [Fan out](#fan-out) |
//! | order within a key, with several workers | [Order by key](#order-by-key) |
//! | work that may fail | [Retry with backoff](#retry-with-backoff) |
//! | rows of a database | [Write in transactions](#write-in-transactions) |
//! | fetching from a broker or a socket | [Bridge with permits](#bridge-with-permits) |
//! | stopping without loss | [on tokio](#graceful-shutdown-on-tokio), [on threads](#graceful-shutdown-on-threads) |
//! | stages that need different payloads | [One record type for several stages](#one-record-type-for-several-stages) |
//!
//! # Fan in
//!
//! Give each input a source of its own. Each is then bounded by its own cap, so that a noisy input
//! neither fills the buffer nor slows the others down.
//!
//! ```
//! use std::thread;
//!
//! use conveyor_buffer::{BufferManager, BufferSettings, Record};
//!
//! let manager = BufferManager::new(BufferSettings { max_per_source: 50, ..Default::default() });
//! let stage = manager.stage("load")?;
//! let readers: Vec<_> = ["north", "south", "west"]
//!     .into_iter()
//!     .map(|name| {
//!         let (stage, source) = (stage.clone(), manager.source(name).unwrap());
//!         thread::spawn(move || {
//!             let mut producer = source.producer(&stage);
//!             for n in 0..1_000 {
//!                 producer.send_blocking(Record::new((name, n))).expect("the buffer is open");
//!             }
//!         }) // the producer publishes what is pending when it is dropped
//!     })
//!     .collect();
//! drop(manager); // the readers hold the last handles that can push: when they end, the buffer closes
//!
//! let mut loaded = 0;
//! while let Ok(batch) = stage.recv_batch_blocking(100) {
//!     loaded += batch.len();
//!     batch.ack();
//! }
//! assert_eq!(loaded, 3_000);
//! # readers.into_iter().for_each(|reader| reader.join().unwrap());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Fan out
//!
//! Workers that share a stage share its records: each record goes to one of them. To send records to
//! different stages, split the batch and forward the parts. A forward takes the records' credits
//! along, and needs places in the next stage only.
//!
//! ```
//! use std::thread;
//!
//! use conveyor_buffer::{BufferManager, BufferSettings, Record, Stage};
//!
//! fn sum(stage: Stage<Record<u64>>) -> u64 {
//!     let mut sum = 0;
//!     while let Ok(batch) = stage.recv_batch_blocking(10) {
//!         sum += batch.into_records().into_iter().map(Record::into_inner).sum::<u64>();
//!     }
//!     sum
//! }
//!
//! let manager = BufferManager::<Record<u64>>::new(BufferSettings::default());
//! let (input, source) = (manager.stage("input")?, manager.source("numbers")?);
//! let (even, odd) = (manager.stage("even")?, manager.stage("odd")?);
//!
//! // Two workers route, two sum up the even numbers, one the odd ones.
//! let routers = [(); 2].map(|()| {
//!     let (input, even, odd) = (input.clone(), even.clone(), odd.clone());
//!     thread::spawn(move || {
//!         while let Ok(batch) = input.recv_batch_blocking(10) {
//!             let (evens, odds) = batch.partition(|number| **number % 2 == 0);
//!             evens.forward_blocking(&even).expect("the stage is open");
//!             odds.forward_blocking(&odd).expect("the stage is open");
//!         }
//!     })
//! });
//! let sums = [even.clone(), even, odd].map(|stage| thread::spawn(move || sum(stage)));
//!
//! source.send_batch_blocking(&input, (1..=100).map(Record::new).collect())?;
//! manager.close();
//! let [first, second, odd] = sums.map(|worker| worker.join().unwrap());
//! assert_eq!((first + second, odd), (2_550, 2_500));
//! # routers.map(|router| router.join().unwrap());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Order by key
//!
//! Workers of one stage overtake each other. To keep the order within a key, hash the key to one of
//! n stages, each with one worker. A record that is returned comes back before newer ones of its
//! stage and keeps its turn; one that comes back *after a delay* is overtaken meanwhile.
//!
//! ```
//! use std::collections::HashMap;
//! use std::hash::{BuildHasher, RandomState};
//! use std::thread;
//!
//! use conveyor_buffer::{BufferManager, BufferSettings, Record};
//!
//! let manager = BufferManager::<Record<(u32, u32)>>::new(BufferSettings::default());
//! let source = manager.source("accounts")?;
//! let stages = (0..4)
//!     .map(|n| manager.stage(&format!("book-{n}")))
//!     .collect::<Result<Vec<_>, _>>()?;
//!
//! let workers: Vec<_> = stages
//!     .iter()
//!     .cloned()
//!     .map(|stage| {
//!         thread::spawn(move || {
//!             let mut latest = HashMap::new();
//!             while let Ok(batch) = stage.recv_batch_blocking(10) {
//!                 for record in batch.into_records() {
//!                     let (account, version) = record.into_inner();
//!                     // Every account is seen by one worker, in order.
//!                     assert_eq!(latest.insert(account, version).map_or(0, |v| v + 1), version);
//!                 }
//!             }
//!             latest.len()
//!         })
//!     })
//!     .collect();
//!
//! let hasher = RandomState::new();
//! for version in 0..50 {
//!     for account in 0..20_u32 {
//!         let stage = &stages[hasher.hash_one(account) as usize % stages.len()];
//!         source.send_blocking(stage, Record::new((account, version)))?;
//!     }
//! }
//! manager.close();
//! assert_eq!(workers.into_iter().map(|worker| worker.join().unwrap()).sum::<usize>(), 20);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Retry with backoff
//!
//! Decide record by record with [`settle`](crate::Batch::settle): what is done, what may succeed
//! later, what never will. Set a retry limit *and* a backoff: without a limit a record that always
//! fails comes back for ever, and without a backoff the limit is used up within moments. A delayed
//! record keeps its credit and place.
//!
//! Count a retry only for work that was tried on that record. If the service as a whole is down or
//! busy, [`requeue`](crate::Batch::requeue) the batch, which counts none, and pause before the next
//! one; or an outage makes dead letters of good records.
//!
//! Receive the dead letters, or they fill the caps in the end: see
//! [`DeadLetters`](crate::DeadLetters).
//!
//! ```
//! use std::thread;
//! use std::time::Duration;
//!
//! use conveyor_buffer::{
//!     Backoff, BufferManager, BufferSettings, DeadLetterReason, Outcome, Record,
//! };
//!
//! /// What a server answers: here, the n-th attempt succeeds.
//! fn post(body: &str, attempt: u32) -> u16 {
//!     match body {
//!         "malformed" => 400,
//!         "never" => 503,
//!         _ if attempt < 2 => 503,
//!         _ => 200,
//!     }
//! }
//!
//! let backoff = Backoff::exponential(Duration::from_millis(1), Duration::from_secs(30)).jitter(0.5);
//! let manager = BufferManager::<Record<&str>>::builder(BufferSettings::default())
//!     .max_retries(4)
//!     .retry_backoff(backoff)
//!     .build()?;
//! let (stage, source) = (manager.stage("post")?, manager.source("outbox")?);
//!
//! let worker = thread::spawn({
//!     let stage = stage.clone();
//!     move || {
//!         while let Ok(batch) = stage.recv_batch_blocking(10) {
//!             batch.settle(|record| match post(record, record.retries()) {
//!                 200 => Outcome::Ack,
//!                 429 => Outcome::ReturnAfter(Duration::from_secs(1)), // as the server asks
//!                 500.. => Outcome::Return,                            // after the backoff
//!                 _ => Outcome::Reject("the server does not understand it"),
//!             });
//!         }
//!     }
//! });
//! let letters = manager.dead_letters();
//! let archive = thread::spawn(move || {
//!     let mut reasons = Vec::new();
//!     while let Ok(letter) = letters.recv_blocking() {
//!         reasons.push((*letter.record, letter.reason.to_string()));
//!     }
//!     reasons
//! });
//!
//! for body in ["order", "malformed", "never"] {
//!     source.send_blocking(&stage, Record::new(body))?;
//! }
//! manager.close();
//! worker.join().unwrap();
//! let reasons = archive.join().unwrap();
//! assert_eq!(reasons[0], ("malformed", "rejected: the server does not understand it".to_owned()));
//! assert_eq!(reasons[1], ("never", DeadLetterReason::RetriesExhausted.to_string()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The retries of a record add up across stages. [`Record::reset_retries`](crate::Record::reset_retries)
//! before a forward begins anew.
//!
//! # Write in transactions
//!
//! [`settle`](crate::Batch::settle) settles the records before it returns. Where the work takes effect
//! later, as rows do with the commit of their transaction, keep the batch until then:
//! [`partition`](crate::Batch::partition) it while you insert, and acknowledge after the commit. Reasons
//! that are made at run time go with [`dead_letter`](crate::Batch::dead_letter), record by record.
//!
//! ```
//! use std::thread;
//! use std::time::Duration;
//!
//! use conveyor_buffer::{BufferManager, BufferSettings, Record};
//!
//! /// A stand-in for a database whose rows are unique, and which is busy every other time.
//! #[derive(Default)]
//! struct Database {
//!     rows: Vec<u32>,
//!     attempts: u32,
//! }
//!
//! struct Transaction<'a>(&'a mut Database, Vec<u32>);
//!
//! impl Database {
//!     fn begin(&mut self) -> Result<Transaction<'_>, &'static str> {
//!         self.attempts += 1;
//!         if self.attempts % 2 == 1 { Err("busy") } else { Ok(Transaction(self, Vec::new())) }
//!     }
//! }
//!
//! impl Transaction<'_> {
//!     fn insert(&mut self, row: u32) -> Result<(), String> {
//!         if self.0.rows.contains(&row) || self.1.contains(&row) {
//!             return Err(format!("there is a row {row}"));
//!         }
//!         self.1.push(row);
//!         Ok(())
//!     }
//!     fn commit(mut self) -> Result<(), &'static str> {
//!         self.0.rows.append(&mut self.1);
//!         Ok(())
//!     }
//! }
//!
//! let manager = BufferManager::<Record<u32>>::builder(BufferSettings::default())
//!     .max_retries(3)
//!     .build()?;
//! let (stage, source) = (manager.stage("insert")?, manager.source("rows")?);
//! source.try_send_batch(&stage, [1, 2, 3, 2, 4].map(Record::new).into())?;
//! manager.close();
//!
//! let mut database = Database::default();
//! while let Ok(batch) = stage.recv_batch_blocking(3) {
//!     let Ok(mut transaction) = database.begin() else {
//!         batch.requeue(); // the rows were not tried: no retry is counted
//!         thread::sleep(Duration::from_millis(1));
//!         continue;
//!     };
//!     let mut reasons = Vec::new();
//!     let (good, bad) = batch.partition(|row| {
//!         transaction.insert(**row).map_err(|reason| reasons.push(reason)).is_ok()
//!     });
//!     if transaction.commit().is_ok() {
//!         good.ack();
//!     } else {
//!         good.return_to_buffer();
//!     }
//!     for (row, reason) in bad.into_singles().zip(reasons) {
//!         row.dead_letter(reason);
//!     }
//! }
//! assert_eq!(database.rows, [1, 2, 3, 4]);
//! let letter = manager.dead_letters().try_recv().unwrap();
//! assert_eq!((*letter.record, &*letter.reason.to_string()), (2, "rejected: there is a row 2"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Bridge with permits
//!
//! A program that fetches from a broker or a socket should fetch no more than the buffer can take,
//! or it holds records that it can neither push nor give back. So it reserves first: a
//! [`Permit`](crate::Permit) is room for that many records, and a push with it cannot fail.
//!
//! Acknowledge upstream only when the work is done. The record carries what that needs.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//!
//! use conveyor_buffer::{BufferManager, BufferSettings, Record};
//!
//! /// A queue elsewhere, which delivers again what was not acknowledged.
//! struct Broker {
//!     messages: std::ops::Range<u64>,
//!     acknowledged: Vec<u64>,
//! }
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
//! # runtime.block_on(async {
//! let broker = Arc::new(Mutex::new(Broker { messages: 0..1_000, acknowledged: Vec::new() }));
//! let caps = BufferSettings { max_per_source: 64, ..Default::default() };
//! let manager = BufferManager::<Record<u64>>::new(caps);
//! let (stage, source) = (manager.stage("work")?, manager.source("broker")?);
//!
//! let worker = tokio::spawn({
//!     let (broker, stage) = (broker.clone(), stage.clone());
//!     async move {
//!         while let Ok(batch) = stage.recv_batch(10).await {
//!             // Do the work here. Then first upstream, and then the buffer.
//!             broker.lock().unwrap().acknowledged.extend(batch.iter().map(|message| **message));
//!             batch.ack();
//!         }
//!     }
//! });
//!
//! loop {
//!     let mut permit = source.reserve_up_to(&stage, 32).await?; // waits for room for one at least
//!     let fetched: Vec<u64> = broker.lock().unwrap().messages.by_ref().take(permit.len()).collect();
//!     if fetched.is_empty() {
//!         break; // the drop of the permit gives the room back
//!     }
//!     for message in fetched {
//!         permit.push(Record::new(message)).expect("there is room for it");
//!     }
//! }
//! manager.close();
//! worker.await?;
//! assert_eq!(broker.lock().unwrap().acknowledged.len(), 1_000);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! # Graceful shutdown on tokio
//!
//! Stop the sources, close the buffer, wait until it is drained, and give up after a while. Workers
//! need no signal: they see [`Closed`](crate::Closed) when every record is settled.
//!
//! ```
//! use std::time::Duration;
//!
//! use conveyor_buffer::{BufferManager, BufferSettings, Record};
//! use tokio::{sync::watch, task::JoinSet, time};
//!
//! # let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build()?;
//! # runtime.block_on(async {
//! let manager = BufferManager::new(BufferSettings { max_per_stage: 100, ..Default::default() });
//! let stage = manager.stage("load")?;
//! let (shutdown, stop) = watch::channel(false);
//!
//! let mut readers = JoinSet::new();
//! for name in ["north", "south"] {
//!     let (stage, source) = (stage.clone(), manager.source(name)?);
//!     let mut stop = stop.clone();
//!     readers.spawn(async move {
//!         let mut sent = 0_u64;
//!         loop {
//!             tokio::select! {
//!                 _ = stop.wait_for(|stop| *stop) => return sent,
//!                 // If it is dropped here, the record was not accepted.
//!                 accepted = source.send(&stage, Record::new(sent)) => match accepted {
//!                     Ok(()) => sent += 1,
//!                     Err(rejected) => panic!("the buffer is open until the readers end: {rejected}"),
//!                 },
//!             }
//!         }
//!     });
//! }
//! let worker = tokio::spawn(async move {
//!     let mut loaded = 0;
//!     while let Ok(batch) = stage.recv_batch(10).await {
//!         time::sleep(Duration::from_micros(100)).await;
//!         loaded += batch.len() as u64;
//!         batch.ack();
//!     }
//!     loaded
//! });
//!
//! // In a service: `tokio::signal::ctrl_c().await?`.
//! time::sleep(Duration::from_millis(20)).await;
//! shutdown.send(true)?;
//! let sent: u64 = readers.join_all().await.into_iter().sum();
//! manager.close();
//! if time::timeout(Duration::from_secs(10), manager.drain()).await.is_err() {
//!     eprintln!("{}", manager.remaining()); // by stage and by source
//!     worker.abort(); // its batch goes back to the stage
//! }
//! assert_eq!(worker.await?, sent);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Graceful shutdown on threads
//!
//! The same in the same order. A thread that is parked in a push is woken by the close and gets its
//! record back, so sources need no signal of their own if they can keep what they could not push.
//!
//! ```
//! use std::thread;
//! use std::time::Duration;
//!
//! use conveyor_buffer::{BufferManager, BufferSettings, Record};
//!
//! let manager = BufferManager::new(BufferSettings { max_per_source: 100, ..Default::default() });
//! let (stage, source) = (manager.stage("load")?, manager.source("sensor")?);
//!
//! let reader = thread::spawn({
//!     let stage = stage.clone();
//!     move || {
//!         for sample in 0_u64.. {
//!             if let Err(rejected) = source.send_blocking(&stage, Record::new(sample)) {
//!                 assert!(rejected.is_closed());
//!                 return rejected.into_inner().into_inner(); // the first that was not accepted
//!             }
//!         }
//!         unreachable!("the buffer closes first");
//!     }
//! });
//! let worker = thread::spawn(move || {
//!     let mut loaded = 0;
//!     while let Ok(batch) = stage.recv_batch_blocking(10) {
//!         loaded += batch.len() as u64;
//!         batch.ack();
//!     }
//!     loaded
//! });
//!
//! thread::sleep(Duration::from_millis(20)); // in a service: until a signal comes
//! manager.close();
//! if let Err(remaining) = manager.drain_timeout(Duration::from_secs(10)) {
//!     eprintln!("{remaining}"); // a thread cannot be stopped from outside: exit, or wait longer
//! }
//! assert_eq!(worker.join().unwrap(), reader.join().unwrap());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # One record type for several stages
//!
//! All stages of one buffer hold records of one type, so that a forward can move them. Where the
//! stages need different payloads, make the payload an enum, and replace it in place before the
//! forward. The records keep their credits and their order.
//!
//! ```
//! use conveyor_buffer::{BufferManager, BufferSettings, Record};
//!
//! enum Order {
//!     Line(String),
//!     Parsed { item: String, count: u32 },
//! }
//!
//! impl Order {
//!     /// Parses a line in place. Returns whether it could.
//!     fn parse(&mut self) -> bool {
//!         let Self::Line(line) = self else { return true };
//!         let Some((item, count)) = line.split_once(',') else { return false };
//!         let Ok(count) = count.parse() else { return false };
//!         *self = Self::Parsed { item: item.to_owned(), count };
//!         true
//!     }
//! }
//!
//! let manager = BufferManager::builder(BufferSettings::default()).max_retries(3).build()?;
//! let (parse, load) = (manager.stage("parse")?, manager.stage("load")?);
//! let source = manager.source("orders.csv")?;
//! for line in ["bolt,17", "nut,many", "nut,4"] {
//!     source.try_send(&parse, Record::new(Order::Line(line.to_owned())))?;
//! }
//!
//! let batch = parse.try_recv_batch(10)?;
//! let (mut parsed, malformed) = batch.partition(|order| order.parse());
//! parsed.iter_mut().for_each(Record::reset_retries); // the next stage has retries of its own
//! parsed.try_forward(&load)?;
//! malformed.dead_letter("not an order");
//!
//! let mut total = 0;
//! for order in load.try_recv_batch(10)?.into_records() {
//!     let Order::Parsed { item, count } = order.into_inner() else { unreachable!() };
//!     assert!(["bolt", "nut"].contains(&&*item));
//!     total += count;
//! }
//! assert_eq!((total, manager.dead_letters().len()), (21, 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
