//! How the program is brought to an end before its time: by Ctrl-C, or by a failure.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use conveyor_buffer::BufferManager;

use crate::error::Error;
use crate::flight::Flight;

/// What a shell reports of a program that Ctrl-C has killed.
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

    /// Stages and sources are made, which a closed buffer would refuse: from now on it may close.
    pub fn start(&self) {
        self.started.store(true, SeqCst);
    }

    /// From now on the first Ctrl-C stops the sources, and the second kills the program.
    ///
    /// # Errors
    ///
    /// Whatever the system says against it.
    pub fn catch_ctrl_c(self: &Arc<Self>) -> Result<(), Error> {
        let control = Arc::clone(self);
        ctrlc::set_handler(move || {
            if control.interrupted.swap(true, SeqCst) {
                process::exit(KILLED_BY_CTRL_C);
            }
            // The handler has a thread of its own, and closing waits for nobody. Before the start
            // there is nothing to close, and the sources find the mark as soon as they begin.
            if control.started.load(SeqCst) {
                control.manager.close();
            }
        })
        .map_err(Error::Signal)
    }

    /// Stops the sources, and has what is in the buffer thrown away. Keeps the first reason.
    pub fn fail(&self, error: Error) {
        self.failure().get_or_insert(error);
        self.manager.close();
    }

    /// Whether sources are to stop. Workers go on, to drain what was accepted.
    pub fn is_stopping(&self) -> bool {
        self.interrupted() || self.failed()
    }

    pub fn interrupted(&self) -> bool {
        self.interrupted.load(SeqCst)
    }

    /// Whether what is in the buffer is to be thrown away.
    pub fn failed(&self) -> bool {
        self.failure().is_some()
    }

    /// What has stopped the pipeline, if something has.
    pub fn take_failure(&self) -> Option<Error> {
        self.failure().take()
    }

    fn failure(&self) -> MutexGuard<'_, Option<Error>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
