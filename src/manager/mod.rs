//! Name: the manager, and its stages and sources by name.

mod builder;
mod by_name;
mod drain;
#[allow(clippy::module_inception)] // The file is named after its type.
mod manager;
pub(crate) mod registry;
mod remaining;

pub use builder::Builder;
pub use manager::BufferManager;
pub use remaining::Remaining;
