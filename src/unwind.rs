//! Code of others that panics: what still has to be done is done first.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

/// The first panic of several calls.
#[derive(Default)]
pub(crate) struct Panics(Option<Box<dyn Any + Send>>);

impl Panics {
    /// Calls code that may panic, and keeps the panic.
    pub(crate) fn catch(&mut self, call: impl FnOnce()) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(call)) {
            self.0.get_or_insert(payload);
        }
    }

    /// Lets the first panic go on, unless this thread is unwinding already: a second one would abort the
    /// process. The panic hook has reported both.
    pub(crate) fn resume(self) {
        if let Some(payload) = self.0
            && !thread::panicking()
        {
            resume_unwind(payload);
        }
    }
}
