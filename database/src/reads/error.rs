//! Errors of reads, and whether a retry may help.

use std::io;
use std::sync::Arc;

use tokio_postgres::error::SqlState;

use crate::ConnectError;
use crate::error::is_transient_state;

/// The reason why a group of reads has no rows.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// All connections were in use for [`POOL_WAIT_TIMEOUT`](crate::POOL_WAIT_TIMEOUT), or too many groups are waiting.
    #[error("all connections to the database are in use")]
    Exhausted,
    /// A new connection failed.
    #[error("the database cannot be connected to")]
    Connect(#[source] Arc<ConnectError>),
    /// The connection broke, or the server did not keep to the protocol.
    #[error("the connection to the database broke")]
    Broken(#[source] Arc<io::Error>),
    /// PostgreSQL refused or ended a statement. The text is for operators, not for clients.
    #[error("{message} ({})", .state.code())]
    Refused {
        /// The reason.
        state: SqlState,
        /// The server's message, without values of rows.
        message: String,
    },
    /// The statements or their rows are larger than the maximum.
    #[error("a read is larger than the maximum")]
    TooLarge,
}

impl ReadError {
    pub(super) fn broken(error: io::Error) -> Self {
        Self::Broken(Arc::new(error))
    }

    /// Whether a retry may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Exhausted | Self::Broken(_) => true,
            Self::Connect(error) => error.is_transient(),
            Self::Refused { state, .. } => is_transient_state(state),
            Self::TooLarge => false,
        }
    }

    /// The SQLSTATE of the server, if it has answered with one.
    pub fn state(&self) -> Option<&SqlState> {
        match self {
            Self::Refused { state, .. } => Some(state),
            _ => None,
        }
    }
}

/// A group that failed, and whether it can run again at once. Reads have no effect, so running again is safe.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: ReadError,
    pub(super) can_run_again: bool,
}

/// The server's bytes do not follow the protocol.
pub(super) fn protocol(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
