//! Early ends of the program: by Ctrl-C or by a failure.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use conveyor_buffer::BufferManager;

use crate::error::Error;
use crate::flight::Flight;

/// The exit code that a shell reports for a program that Ctrl-C has killed.
const KILLED_BY_CTRL_C: i32 = 130;

/// Stops the pipeline, from any thread.
pub struct Control {
    manager: BufferManager<Flight>,
    started: AtomicBool,
    interrupted: AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl Control {
    pub fn new(manager: BufferManager<Flight>) -> Arc<Self> {
        Arc::new(Self {
            manager,
            started: AtomicBool::new(false),
            interrupted: AtomicBool::new(false),
            failure: Mutex::new(None),
        })
    }

    /// Allows Ctrl-C to close the buffer. Called when all stages and sources exist, since a closed
    /// buffer refuses new ones.
    pub fn start(&self) {
        self.started.store(true, SeqCst);
    }

    /// Installs a handler: the first Ctrl-C stops the sources, the second kills the program.
    ///
    /// # Errors
    ///
    /// The system refuses the handler.
    pub fn catch_ctrl_c(self: &Arc<Self>) -> Result<(), Error> {
        let control = Arc::clone(self);
        ctrlc::set_handler(move || {
            if control.interrupted.swap(true, SeqCst) {
                process::exit(KILLED_BY_CTRL_C);
            }
            // The handler runs on a thread of its own, and closing does not block. Before the start
            // there is nothing to close, and the sources check `interrupted` when they begin.
            if control.started.load(SeqCst) {
                control.manager.close();
            }
        })
        .map_err(Error::Signal)
    }

    /// Stops the sources and lets the workers discard what is in the buffer. Keeps the first
    /// reason.
    pub fn fail(&self, error: Error) {
        self.failure().get_or_insert(error);
        self.manager.close();
    }

    /// Returns whether the sources should stop. Workers go on, to drain what was accepted.
    pub fn is_stopping(&self) -> bool {
        self.interrupted() || self.failed()
    }

    pub fn interrupted(&self) -> bool {
        self.interrupted.load(SeqCst)
    }

    /// Returns whether the workers should discard what is in the buffer.
    pub fn failed(&self) -> bool {
        self.failure().is_some()
    }

    /// Takes the failure that stopped the pipeline, if there is one.
    pub fn take_failure(&self) -> Option<Error> {
        self.failure().take()
    }

    fn failure(&self) -> MutexGuard<'_, Option<Error>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
