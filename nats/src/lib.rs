//! NATS JetStream in and out of a [`conveyor_buffer`].

#![forbid(unsafe_code)]
#![warn(missing_docs, missing_debug_implementations, rust_2018_idioms, unreachable_pub)]

mod buffer;
mod delivery;
mod error;
mod keeper;
mod options;
mod publisher;
mod puller;
mod request;
mod retry;
mod settler;
mod start;
mod stats;

pub use delivery::{Carries, Delivery, Undecodable};
pub use error::{PublishFailed, PullError, SettleError, StartError};
pub use options::{DeadLetterRoute, PublishOptions, PullOptions};
pub use publisher::{Outgoing, PublishStats, PublishStatsReader, Publisher};
pub use puller::Puller;
pub use settler::{Settler, ShutDown};
pub use stats::PullStats;
