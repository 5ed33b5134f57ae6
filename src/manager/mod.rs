//! Naming: the manager, and stages and sources by name.

mod builder;
mod by_name;
mod drain;
mod manager;
pub(crate) mod registry;

pub use builder::Builder;
pub use drain::Remaining;
pub use manager::BufferManager;
