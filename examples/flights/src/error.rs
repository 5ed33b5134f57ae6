//! What can end the program early, and the exit code that goes with it.

use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};

use conveyor_buffer::{RegistryError, Remaining, SettingsError};

/// Why the program gives up.
#[derive(Debug)]
pub enum Error {
    /// The settings of the buffer do not pass the library's own check.
    Settings(SettingsError),
    /// A stage or a source cannot be made.
    Registry(RegistryError),
    /// A file cannot be read, or is not what it should be.
    File { path: PathBuf, cause: Box<dyn StdError + Send + Sync> },
    /// SQLite, or the file that it writes, fails.
    Database { path: PathBuf, cause: Box<dyn StdError + Send + Sync> },
    /// Ctrl-C cannot be caught.
    Signal(ctrlc::Error),
    /// A source was refused for a reason that no waiting will mend.
    Refused { source: String, cause: conveyor_buffer::RejectReason },
    /// Tokio's runtime cannot be made.
    Runtime(std::io::Error),
    /// The buffer did not drain.
    Stuck(Remaining),
    /// Rows went missing.
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

    /// 2 for what the user should ask for differently, as clap has it; 1 for what went wrong.
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
