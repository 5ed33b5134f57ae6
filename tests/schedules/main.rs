//! The library under random schedules: more threads and more calls than a model of every interleaving
//! could have. The library's own files are compiled here against shuttle's atomics: see `sync.rs`.
//! `loom-tests/README.md` says how to run more, and how to replay a failure.

#![forbid(unsafe_code)]

mod sync;

// The library's modules, of which the schedules use a part.
#[allow(dead_code)]
#[path = "../../src/account.rs"]
mod account;
#[allow(dead_code)]
#[path = "../../src/backpressure.rs"]
mod backpressure;
#[allow(dead_code)]
#[path = "../../src/batch.rs"]
mod batch;
#[allow(dead_code)]
#[path = "../../src/block.rs"]
mod block;
#[allow(dead_code)]
#[path = "../../src/builder.rs"]
mod builder;
#[allow(dead_code)]
#[path = "../../src/dead_letters.rs"]
mod dead_letters;
#[allow(dead_code)]
#[path = "../../src/drain.rs"]
mod drain;
#[allow(dead_code)]
#[path = "../../src/error.rs"]
mod error;
#[allow(dead_code)]
#[path = "../../src/forward.rs"]
mod forward;
#[allow(dead_code)]
#[path = "../../src/ledger.rs"]
mod ledger;
#[allow(dead_code)]
#[path = "../../src/manager.rs"]
mod manager;
#[allow(dead_code)]
#[path = "../../src/occupancy.rs"]
mod occupancy;
#[allow(dead_code)]
#[path = "../../src/record.rs"]
mod record;
#[allow(dead_code)]
#[path = "../../src/recv.rs"]
mod recv;
#[allow(dead_code)]
#[path = "../../src/registry.rs"]
mod registry;
#[allow(dead_code)]
#[path = "../../src/send.rs"]
mod send;
#[allow(dead_code)]
#[path = "../../src/settings.rs"]
mod settings;
#[allow(dead_code)]
#[path = "../../src/signals.rs"]
mod signals;
#[allow(dead_code)]
#[path = "../../src/source.rs"]
mod source;
#[allow(dead_code)]
#[path = "../../src/spare.rs"]
mod spare;
#[allow(dead_code)]
#[path = "../../src/stage.rs"]
mod stage;
#[allow(dead_code)]
#[path = "../../src/waiting.rs"]
mod waiting;

mod buffer;
mod explore;
mod schedules;
mod waits;
