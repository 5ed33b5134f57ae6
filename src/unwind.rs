//! Panics of user code: the work that is left is done before a panic continues. See
//! [`docs::internals`](crate::docs::internals#panics-and-user-code).

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

/// The first panic of several calls of user code.
#[derive(Default)]
pub(crate) struct Panics(Option<Box<dyn Any + Send>>);

impl Panics {
    /// Calls code that may panic. Keeps its panic if it is the first.
    pub(crate) fn catch(&mut self, call: impl FnOnce()) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(call)) {
            self.0.get_or_insert(payload);
        }
    }

    /// Resumes the first panic, unless this thread is unwinding already: a second panic would abort
    /// the process. The panic hook has reported both.
    pub(crate) fn resume(self) {
        if let Some(payload) = self.0
            && !thread::panicking()
        {
            resume_unwind(payload);
        }
    }
}
