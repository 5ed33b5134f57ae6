//! Naming: the manager, and stages and sources by name.

mod builder;
mod by_name;
mod drain;
mod manager;
pub(crate) mod registry;
mod remaining;

pub use builder::Builder;
pub use manager::BufferManager;
pub use remaining::Remaining;
