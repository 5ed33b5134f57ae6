//! The events of the feature `tracing`: rare ones, none on the data path.
//!
//! A subscriber is user code. Callers hold no lock, and a panic of it does not propagate.

use std::fmt::Display;
use std::sync::Arc;

#[cfg(feature = "tracing")]
use crate::sync::PlainMutex;

/// Sends an event with a level of `tracing`, its fields and its text. Without the feature, its
/// arguments are not evaluated.
macro_rules! event {
    ($level:ident, $($fields:tt)+) => {
        #[cfg(feature = "tracing")]
        crate::sync::isolate(|| tracing::$level!(target: "conveyor_buffer", $($fields)+));
    };
}
pub(crate) use event;

/// What a signal belongs to, as its events name it.
#[derive(Default)]
pub(crate) struct Owner {
    #[cfg(feature = "tracing")]
    name: PlainMutex<Option<(&'static str, Arc<str>)>>,
}

impl Owner {
    #[cfg(feature = "tracing")]
    pub(crate) fn set(&self, kind: &'static str, id: &Arc<str>) {
        *self.name.lock() = Some((kind, Arc::clone(id)));
    }

    #[cfg(not(feature = "tracing"))]
    pub(crate) fn set(&self, _: &'static str, _: &Arc<str>) {}

    /// Sends an event for a signal that has changed. A signal without an owner sends none.
    #[cfg(feature = "tracing")]
    pub(crate) fn signal_changed(&self, signal: &dyn Display) {
        let name = self.name.lock().clone();
        if let Some((kind, id)) = name {
            event!(info, of = kind, id = &*id, %signal, "signal changed");
        }
    }

    #[cfg(not(feature = "tracing"))]
    pub(crate) fn signal_changed(&self, _: &dyn Display) {}
}

/// Sends an event for a record that was given up.
#[cfg(feature = "tracing")]
pub(crate) fn dead_letter(stage: &str, source: &str, reason: &dyn Display, retries: u32) {
    event!(warn, stage, source, %reason, retries, "dead letter");
}

#[cfg(not(feature = "tracing"))]
pub(crate) fn dead_letter(_: &str, _: &str, _: &dyn Display, _: u32) {}
