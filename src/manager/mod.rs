//! Name: the manager, and its stages and sources by name.

mod builder;
mod by_name;
#[cfg(feature = "serde")]
mod config;
mod drain;
#[allow(clippy::module_inception)] // The file is named after its type.
mod manager;
pub(crate) mod registry;
mod remaining;
mod stats;

pub use builder::Builder;
#[cfg(feature = "serde")]
pub use config::{BackoffConfig, Config, SourceConfig, StageConfig};
pub use manager::BufferManager;
pub use remaining::Remaining;
pub use stats::{ByteStats, SourceStats, StageStats, Stats};
