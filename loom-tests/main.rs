//! Models of the library's protocols, explored over every interleaving by loom.
//!
//! The library's own files are compiled here against loom's atomics: see `sync.rs`.

#![forbid(unsafe_code)]

mod sync;

// The library's modules, of which the models use a part.
#[allow(dead_code)]
#[path = "../src/account.rs"]
mod account;
#[allow(dead_code)]
#[path = "../src/backpressure.rs"]
mod backpressure;
#[allow(dead_code)]
#[path = "../src/batch.rs"]
mod batch;
#[allow(dead_code)]
#[path = "../src/block.rs"]
mod block;
#[allow(dead_code)]
#[path = "../src/builder.rs"]
mod builder;
#[allow(dead_code)]
#[path = "../src/dead_letters.rs"]
mod dead_letters;
#[allow(dead_code)]
#[path = "../src/drain.rs"]
mod drain;
#[allow(dead_code)]
#[path = "../src/error.rs"]
mod error;
#[allow(dead_code)]
#[path = "../src/forward.rs"]
mod forward;
#[allow(dead_code)]
#[path = "../src/ledger.rs"]
mod ledger;
#[allow(dead_code)]
#[path = "../src/manager.rs"]
mod manager;
#[allow(dead_code)]
#[path = "../src/occupancy.rs"]
mod occupancy;
#[allow(dead_code)]
#[path = "../src/record.rs"]
mod record;
#[allow(dead_code)]
#[path = "../src/recv.rs"]
mod recv;
#[allow(dead_code)]
#[path = "../src/registry.rs"]
mod registry;
#[allow(dead_code)]
#[path = "../src/send.rs"]
mod send;
#[allow(dead_code)]
#[path = "../src/settings.rs"]
mod settings;
#[allow(dead_code)]
#[path = "../src/signals.rs"]
mod signals;
#[allow(dead_code)]
#[path = "../src/source.rs"]
mod source;
#[allow(dead_code)]
#[path = "../src/spare.rs"]
mod spare;
#[allow(dead_code)]
#[path = "../src/stage.rs"]
mod stage;
#[allow(dead_code)]
#[path = "../src/waiting.rs"]
mod waiting;

mod harness;
mod idle_models;
mod ledger_models;
mod stage_models;
mod stand_ins;
mod transit_models;
mod waiting_models;
