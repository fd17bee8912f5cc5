//! Why an export is rejected.

use uuid::Uuid;

use crate::note::NoteError;

/// Why a file does not verify.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The file cannot be read.
    #[error("the file does not read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// The file is not an export.
    #[error("line {line} is not what an export has there: {problem}")]
    Malformed {
        /// The line number, from 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// The checkpoint is not signed by the key, or is of another log.
    #[error("the checkpoint does not hold: {0}")]
    Checkpoint(String),
    /// An event differs from the signed one.
    #[error("position {position}: {problem}")]
    Position {
        /// The position.
        position: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// One event of a tile differs from the signed one.
    #[error("positions {from} to {to}: the events are not those that were signed")]
    Range {
        /// The first position of the tile.
        from: u64,
        /// The last one.
        to: u64,
    },
    /// The events do not give the signed root, and it is unknown which event is wrong.
    #[error("positions {from} to {to}: the events do not make the signed root")]
    Root {
        /// The first position of the file.
        from: u64,
        /// The last one.
        to: u64,
    },
    /// The schema of a type differs from the registered one, or is in the wrong place.
    #[error("the schema of {event_type}: {problem}")]
    Schema {
        /// The type.
        event_type: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The log does not continue an earlier checkpoint.
    #[error("the log does not continue the checkpoint of {from} events: {problem}")]
    Consistency {
        /// The size of that checkpoint.
        from: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// An earlier checkpoint is of a replaced log, and covers events that were not kept.
    #[error(
        "the checkpoint of {from} events cannot be continued: its log {log} was replaced at position {position}, because the \
         database went back; up to position {kept_to} the log went on, and positions {next} to {from} that were signed are \
         void", next = .kept_to + 1
    )]
    Replaced {
        /// The size of that checkpoint.
        from: u64,
        /// Its log.
        log: Uuid,
        /// The position of the replacement event.
        position: u64,
        /// The last position that was kept.
        kept_to: u64,
    },
    /// An earlier checkpoint is of a log that the file does not mention.
    #[error(
        "the checkpoint of {from} events is of the log {origin}, and the file does not tell that this one came after it"
    )]
    OtherLog {
        /// The size of that checkpoint.
        from: u64,
        /// Its log.
        origin: String,
    },
}

impl VerifyError {
    /// The first position that is certainly or possibly wrong, if known.
    pub fn first_bad_position(&self) -> Option<u64> {
        match self {
            Self::Position { position, .. } => Some(*position),
            Self::Range { from, .. } | Self::Root { from, .. } => Some(*from),
            Self::Replaced { kept_to, .. } => Some(kept_to + 1),
            _ => None,
        }
    }
}

impl From<NoteError> for VerifyError {
    fn from(error: NoteError) -> Self {
        Self::Checkpoint(error.to_string())
    }
}
