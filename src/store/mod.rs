//! Store: the records of one stage, in blocks on the way in and in batches on the way out, and the
//! dead letters. [`docs::internals`](crate::docs::internals#lanes) explains the lanes.

mod block;
mod contents;
mod dead_letters;
mod items;
mod lanes;
mod recycle;
mod returned;
mod stage_core;
mod timing;

pub(crate) use block::{Block, Records, Units, shrink_if_sparse, to_u32};
pub(crate) use contents::{BatchContents, Run};
pub use dead_letters::{DeadLetter, DeadLetterReason};
pub(crate) use dead_letters::{DeadLetterQueue, LetterMeta};
pub(crate) use stage_core::{StageCore, WaitingAt};
