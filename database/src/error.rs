//! Errors of connections to PostgreSQL, and whether a retry may help.

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::TlsError;

/// The reason why a connection failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The TLS settings are invalid; a retry does not help.
    #[error("the TLS settings of the database cannot be used")]
    Tls(#[from] TlsError),
    /// No answer from the server within [`CONNECT_TIMEOUT`](crate::CONNECT_TIMEOUT).
    #[error("the database does not answer")]
    Timeout,
    /// The network failed.
    #[error("the database cannot be reached")]
    Network(#[from] std::io::Error),
    /// The server cannot be reached, has an unexpected identity, or refuses the login.
    #[error("the database cannot be connected to")]
    Postgres(#[from] Error),
}

impl ConnectError {
    /// Whether a retry may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Tls(_) => false,
            Self::Timeout | Self::Network(_) => true,
            Self::Postgres(error) => is_transient(error),
        }
    }
}

/// Whether a retry may help: the connection broke, or the server had a problem of its own.
///
/// These are the SQLSTATE classes 08 (connection), 53 (resources), 57 (operator intervention), 58 (system) and
/// 40 (rollback), and the states 25006 (read-only server) and 25P03 (idle transaction timeout).
pub fn is_transient(error: &Error) -> bool {
    error.code().is_none_or(is_transient_state)
}

pub(crate) fn is_transient_state(state: &SqlState) -> bool {
    let states = [SqlState::READ_ONLY_SQL_TRANSACTION, SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT];
    matches!(&state.code()[..2], "08" | "53" | "57" | "58" | "40") || states.contains(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_ends_for_reasons_of_its_own_is_transient_and_what_it_refuses_is_not() {
        for code in ["08006", "53300", "57P01", "58030", "40001", "25006", "25P03"] {
            assert!(is_transient_state(&SqlState::from_code(code)), "{code}");
        }
        for code in ["23505", "22P02", "42501", "25P02"] {
            assert!(!is_transient_state(&SqlState::from_code(code)), "{code}");
        }
    }
}
