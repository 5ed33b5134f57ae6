//! Models of the library's protocols, explored over every interleaving by loom.
//!
//! The library's own files are compiled here against loom's atomics: see `sync.rs`.

#![forbid(unsafe_code)]

mod sync;

// The library's modules, of which each model uses a part.
#[allow(dead_code)]
#[path = "../src/backpressure.rs"]
mod backpressure;
#[allow(dead_code)]
#[path = "../src/ledger.rs"]
mod ledger;
#[allow(dead_code)]
#[path = "../src/settings.rs"]
mod settings;

mod ledger_models;

/// Explores a model over every interleaving with at most `LOOM_MAX_PREEMPTIONS` (3 unless set)
/// switches away from a thread that could go on.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(model);
}
