//! Models of the library's protocols, explored over every interleaving by loom.
//!
//! The library's own files are compiled here against loom's atomics: see `sync.rs`.

#![forbid(unsafe_code)]

mod sync;

// The library's modules, of which these tests use a part.
#[allow(dead_code, unused_imports)]
#[path = "../src/admission/mod.rs"]
mod admission;
#[allow(dead_code, unused_imports)]
#[path = "../src/age.rs"]
mod age;
#[allow(dead_code, unused_imports)]
#[path = "../src/backpressure.rs"]
mod backpressure;
#[allow(dead_code, unused_imports)]
#[path = "../src/caps/mod.rs"]
mod caps;
#[allow(dead_code, unused_imports)]
#[path = "../src/error.rs"]
mod error;
#[allow(dead_code, unused_imports)]
#[path = "../src/event.rs"]
mod event;
#[allow(dead_code, unused_imports)]
#[path = "../src/handle/mod.rs"]
mod handle;
#[allow(dead_code, unused_imports)]
#[path = "../src/manager/mod.rs"]
mod manager;
#[allow(dead_code, unused_imports)]
#[path = "../src/record.rs"]
mod record;
#[allow(dead_code, unused_imports)]
#[path = "../src/retry.rs"]
mod retry;
#[path = "../src/settings.rs"]
mod settings;
#[allow(dead_code, unused_imports)]
#[path = "../src/stats.rs"]
mod stats;
#[allow(dead_code, unused_imports)]
#[path = "../src/store/mod.rs"]
mod store;
#[allow(dead_code, unused_imports)]
#[path = "../src/trace.rs"]
mod trace;
#[allow(dead_code, unused_imports)]
#[path = "../src/unwind.rs"]
mod unwind;

mod harness;

mod bytes;
mod close;
mod drain;
mod failure;
mod guarantees;
mod idle;
mod idle_sources;
mod ledger;
mod limits;
mod notification;
mod parked;
mod producer;
mod reservation;
mod returned;
mod signals;
mod stage;
mod stand_ins;
mod statistics;
mod transit;
mod waiting;
