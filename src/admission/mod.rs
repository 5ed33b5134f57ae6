//! Admit: which request gets credits and places, which one waits and is next, and when the buffer
//! is drained. This layer knows no record type. [`docs::internals`](crate::docs::internals)
//! explains it.

mod acquire;
#[allow(clippy::module_inception)] // The file is named after its type.
mod admission;
mod bytes;
mod charging;
mod protocol;
mod pushers;
mod receivers;
mod wait_queue;

pub(crate) use acquire::{Acquire, Wanted};
pub(crate) use admission::Admission;
pub(crate) use bytes::{Budget, Charges};
pub(crate) use protocol::{Acquired, Admitted};
pub(crate) use pushers::Pushers;
pub(crate) use receivers::{Receiver, Receivers};
pub(crate) use wait_queue::{Request, stage_key};

use std::sync::Arc;

use crate::caps::Places;

/// The part of a stage that admission uses.
pub(crate) trait StageState: Send + Sync {
    /// Returns the stage's places.
    fn places(&self) -> &Places;
    /// Returns the workers that wait for its records.
    fn receivers(&self) -> &Receivers;
}

/// A shared reference to a stage of any record type.
pub(crate) type SharedStage = Arc<dyn StageState>;
