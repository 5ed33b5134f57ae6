//! A deterministic simulation of the buffer in use.
//!
//! *What it simulates.* A seed determines a plan (`plan.rs`): the caps, and who calls the buffer. Producers push one
//! by one, in batches, by permits and by name; workers of any pace, from microseconds to minutes, take and settle in
//! every way; batches go round in circles; dead letters are received, late, or not at all; names are removed; several
//! callers close and drain at once. Time is virtual. Futures are polled by this waker or that, late, or never again.
//! Records and wakers panic at any call.
//!
//! - `the_buffer_keeps_its_promises_on_one_thread` runs a plan as tasks on one thread (`alone.rs`): each step is a few
//!   calls, with nobody else inside.
//! - `the_buffer_keeps_its_promises_where_threads_interleave` runs a plan as threads whose every access of an atomic or
//!   a lock is a point where another goes on (`threads.rs`, shuttle).
//! - `no_call_costs_more_beside_many_others` does the same few calls beside few and beside many others that wait,
//!   sources that came and went, records that were returned (`growth.rs`).
//!
//! *What it checks* (`checks.rs`): after every call and at the end, the invariants of the design, against books of its
//! own (`books.rs`). No cap is passed; every count is exact, also after a panic; a refusal is honest, and the global
//! cap refuses no source within its guarantee; nothing is lost; no returned record comes before it is due;
//! drained and closed are seen only when they are true; `Empty` is not said of a stage where records wait; whoever
//! fits is served, after a bounded number of settlings and a bounded time without any; user code runs under no lock;
//! no call takes more steps where more others wait.
//!
//! *How a failure is replayed.* The message of a failure ends with the command, which runs that seed again, step by
//! step the same, and prints every call:
//!
//! ```sh
//! SIMULATION_SEED=123 SIMULATION_TRACE=1 cargo test --test simulation on_one_thread -- --nocapture
//! ```
//!
//! *How to run longer.* `SIMULATION_SEEDS=100000` is the number of seeds, `SIMULATION_FROM` the first of them.
//! `SIMULATION_KEEP_GOING=1` goes on after a failure and lists the failures by check; `SIMULATION_SKIP=served,steps`
//! leaves checks out.

#![deny(unsafe_code)]

// What knows the inside of the library: these modules and `sync`.
mod sync;

// The library's modules.
#[allow(dead_code, unused_imports)]
#[path = "../../src/admission/mod.rs"]
mod admission;
#[allow(dead_code, unused_imports)]
#[path = "../../src/age.rs"]
mod age;
#[allow(dead_code, unused_imports)]
#[path = "../../src/backpressure.rs"]
mod backpressure;
#[allow(dead_code, unused_imports)]
#[path = "../../src/caps/mod.rs"]
mod caps;
#[allow(dead_code, unused_imports)]
#[path = "../../src/error.rs"]
mod error;
#[allow(dead_code, unused_imports)]
#[path = "../../src/event.rs"]
mod event;
#[allow(dead_code, unused_imports)]
#[path = "../../src/handle/mod.rs"]
mod handle;
#[allow(dead_code, unused_imports)]
#[path = "../../src/manager/mod.rs"]
mod manager;
#[allow(dead_code, unused_imports)]
#[path = "../../src/record.rs"]
mod record;
#[allow(dead_code, unused_imports)]
#[path = "../../src/retry.rs"]
mod retry;
#[path = "../../src/settings.rs"]
mod settings;
#[allow(dead_code, unused_imports)]
#[path = "../../src/stats.rs"]
mod stats;
#[allow(dead_code, unused_imports)]
#[path = "../../src/store/mod.rs"]
mod store;
#[allow(dead_code, unused_imports)]
#[path = "../../src/trace.rs"]
mod trace;
#[allow(dead_code, unused_imports)]
#[path = "../../src/unwind.rs"]
mod unwind;

/// The public names, as `src/lib.rs` has them.
mod api {
    pub(crate) use crate::error::{RecvTimeoutError, RegistryError, RejectReason, TryRecvError};
    pub(crate) use crate::handle::{Batch, Outcome, Source, Stage};
    pub(crate) use crate::manager::BufferManager;
    pub(crate) use crate::record::Envelope;
    pub(crate) use crate::retry::Backoff;
    pub(crate) use crate::settings::BufferSettings;
}

mod actors;
mod alone;
mod books;
mod calls;
mod checks;
mod clock;
mod counts;
mod growth;
mod misfortune;
mod phase;
mod plan;
mod progress;
mod random;
mod scenes;
mod seeds;
mod threads;
mod waits;
mod watches;
mod words;
