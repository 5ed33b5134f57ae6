//! Admitting: who gets credits and places, who waits for them and who is next, and when all is
//! drained. Nothing here knows a record's type.

mod acquire;
#[allow(clippy::module_inception)] // The file is named after its type.
mod admission;
mod protocol;
mod receivers;
mod wait_queue;

pub(crate) use acquire::Acquire;
pub(crate) use admission::Admission;
pub(crate) use protocol::Admitted;
pub(crate) use receivers::{Receiver, Receivers};
pub(crate) use wait_queue::{Request, stage_key};

use std::sync::Arc;

use crate::caps::Places;

/// What admission knows of a stage.
pub(crate) trait StageState: Send + Sync {
    /// The stage's own cap.
    fn places(&self) -> &Places;
    /// Who waits for its records.
    fn receivers(&self) -> &Receivers;
}

/// A stage that is shared.
pub(crate) type SharedStage = Arc<dyn StageState>;
