//! How the program is brought to an end before its time: by Ctrl-C, or by a failure.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::thread;

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
    failed: AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl Control {
    pub fn new(manager: BufferManager<Flight>) -> Arc<Self> {
        Arc::new(Self {
            manager,
            started: AtomicBool::new(false),
            interrupted: AtomicBool::new(false),
            failed: AtomicBool::new(false),
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

    /// Stops everything at once, and keeps the first reason.
    pub fn fail(&self, error: Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.failed.store(true, SeqCst);
        self.manager.close();
    }

    /// Whether sources are to stop. Workers go on after Ctrl-C, to drain what was accepted.
    pub fn is_stopping(&self) -> bool {
        self.interrupted() || self.failed()
    }

    pub fn interrupted(&self) -> bool {
        self.interrupted.load(SeqCst)
    }

    /// Whether everybody is to stop, and leave what is in the buffer.
    pub fn failed(&self) -> bool {
        self.failed.load(SeqCst)
    }

    /// What has stopped the pipeline, if something has.
    pub fn take_failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Does what a thread is there for. If that fails or panics, everybody stops, for the others
    /// would wait for this thread forever.
    pub fn watch(&self, work: impl FnOnce() -> Result<(), Error>) {
        let _alarm = Alarm(self);
        if let Err(error) = work() {
            self.fail(error);
        }
    }
}

struct Alarm<'c>(&'c Control);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(Error::Panicked);
        }
    }
}
