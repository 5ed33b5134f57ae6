//! The errors that end the program, and their exit codes.

use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};

use conveyor_buffer::{RegistryError, Remaining, SettingsError};

/// The reason why the program gives up.
#[derive(Debug)]
pub enum Error {
    /// The library refuses the settings of the buffer.
    Settings(SettingsError),
    /// A stage or a source cannot be registered.
    Registry(RegistryError),
    /// A file cannot be read, or has the wrong contents.
    File { path: PathBuf, cause: Box<dyn StdError + Send + Sync> },
    /// SQLite, or the file that it writes, fails.
    Database { path: PathBuf, cause: Box<dyn StdError + Send + Sync> },
    /// Ctrl-C cannot be caught.
    Signal(ctrlc::Error),
    /// A push was refused for a reason that does not pass.
    Refused { source: String, cause: conveyor_buffer::RejectReason },
    /// Tokio's runtime cannot be built.
    Runtime(std::io::Error),
    /// The metrics cannot be served.
    Metrics(metrics_exporter_prometheus::BuildError),
    /// The buffer did not drain.
    Stuck(Remaining),
    /// Rows are missing.
    Unaccounted(String),
    /// The report cannot be printed.
    Output(std::io::Error),
}

impl Error {
    pub fn file(path: &Path, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::File { path: path.to_owned(), cause: cause.into() }
    }

    pub fn database(path: &Path, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Database { path: path.to_owned(), cause: cause.into() }
    }

    /// Returns 2 for wrong options, as clap does, and 1 for any other failure.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) | Self::Registry(_) => 2,
            _ => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(cause) => write!(f, "invalid settings: {cause}"),
            Self::Registry(cause) => write!(f, "invalid settings: {cause}"),
            Self::File { path, cause } => write!(f, "cannot read {}: {cause}", path.display()),
            Self::Database { path, cause } => write!(f, "cannot write {}: {cause}", path.display()),
            Self::Signal(cause) => write!(f, "cannot catch Ctrl-C: {cause}"),
            Self::Refused { source, cause } => write!(f, "{source} was refused: {cause}"),
            Self::Runtime(cause) => write!(f, "cannot start tokio: {cause}"),
            Self::Metrics(cause) => write!(f, "cannot serve metrics: {cause}"),
            Self::Stuck(remaining) => remaining.fmt(f),
            Self::Unaccounted(what) => write!(f, "NOT accounted: {what}"),
            Self::Output(cause) => write!(f, "cannot print the report: {cause}"),
        }
    }
}

impl StdError for Error {}

impl From<SettingsError> for Error {
    fn from(cause: SettingsError) -> Self {
        Self::Settings(cause)
    }
}

impl From<Remaining> for Error {
    fn from(remaining: Remaining) -> Self {
        Self::Stuck(remaining)
    }
}

impl From<RegistryError> for Error {
    fn from(cause: RegistryError) -> Self {
        Self::Registry(cause)
    }
}
