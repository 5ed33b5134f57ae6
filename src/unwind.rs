//! Panics of user code: the work that is left is done before a panic continues. See
//! [`docs::internals`](crate::docs::internals#panics-and-user-code).

use std::any::Any;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

/// The first panic of several calls of user code.
#[derive(Default)]
pub(crate) struct Panics(Option<Box<dyn Any + Send>>);

impl Panics {
    /// Calls code that may panic. Keeps its panic if it is the first.
    pub(crate) fn catch(&mut self, call: impl FnOnce()) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(call)) {
            match self.0 {
                None => self.0 = Some(payload),
                Some(_) => discard(payload),
            }
        }
    }

    /// Resumes the first panic, unless this thread is unwinding already: a second panic would abort
    /// the process. The panic hook has reported both.
    pub(crate) fn resume(self) {
        match self.0 {
            Some(payload) if thread::panicking() => discard(payload),
            Some(payload) => resume_unwind(payload),
            None => {}
        }
    }
}

/// Drops the payload of a panic. If its drop panics in turn, that payload is leaked: this ends.
pub(crate) fn discard(payload: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        mem::forget(again);
    }
}
