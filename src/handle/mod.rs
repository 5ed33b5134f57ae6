//! Use: the public handles and their calls.

#[cfg(feature = "futures")]
mod adapters;
mod batch;
mod bytes;
mod dead_letters;
mod force;
mod forward;
mod permit;
mod producer;
mod recv;
mod send;
mod settle;
mod signals;
mod source;
mod stage;
mod stats;

#[cfg(feature = "futures")]
pub use adapters::{Batches, DeadLetterStream, RecordSink};
pub use batch::{Batch, Singles};
pub use dead_letters::DeadLetters;
pub use forward::ForwardError;
pub use permit::Permit;
pub use producer::Producer;
pub use settle::{Outcome, Settled};
pub use signals::SignalReceiver;
pub use source::Source;
pub(crate) use source::SourceCore;
pub use stage::Stage;
pub(crate) use stats::{byte_stats, source_stats};
