//! Why a file cannot be verified at all.

use std::io;
use std::path::PathBuf;

use json_schema::InvalidSchema;
use proofs::export::FormatError;
use proofs::verify::VerifyError;
use schemas::engine::NotJson;
use terminal::Exit;

/// Why a file cannot be used. A file that can be read and is not the signed history is no error, but a
/// [`VerifyError`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The export cannot be opened.
    #[error("{} cannot be read", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The export cannot be read to its end, or the output cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A file with further knowledge of the log cannot be used.
    #[error(transparent)]
    Known(#[from] KnownError),
    /// A line is not what an export has.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// An entry is malformed.
    #[error("an entry")]
    Entry,
    /// A time is out of range.
    #[error("a time")]
    Time,
    /// A schema is not JSON.
    #[error(transparent)]
    SchemaText(#[from] NotJson),
    /// A schema exceeds a limit or uses an unsupported keyword.
    #[error("the schema of {event_type}")]
    Schema {
        /// The type of events.
        event_type: String,
        /// The cause.
        #[source]
        source: InvalidSchema,
    },
}

/// Why a file that an option names cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KnownError {
    /// It cannot be read.
    #[error("{} cannot be read", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The earlier export is malformed.
    #[error("the earlier export")]
    Earlier(#[source] VerifyError),
    /// It is not a file of tiles.
    #[error("{} is not a file of tiles", .0.display())]
    Tiles(PathBuf),
}

impl Error {
    /// The exit code of a command that fails with it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Known(_) => Exit::Usage,
            _ => Exit::Failed,
        }
    }
}
