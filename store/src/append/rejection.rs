//! Classifies PostgreSQL errors of a flush and of a single append.

use tokio_postgres::error::SqlState;

use super::error::AppendError;
use crate::StoreError;

/// The handling of a single append that PostgreSQL rejected.
pub(super) enum AppendRejection {
    /// Another process wrote first: look up and plan again.
    Retry,
    /// The append can never be stored.
    Final(AppendError),
    /// PostgreSQL is unavailable or lacks resources.
    Unavailable(AppendError),
}

/// An error of the server, not of the appends in the flush.
pub(super) enum FlushError {
    /// Such as a deadlock: an immediate retry may succeed.
    Transient,
    /// Such as a full disk, a statement timeout, a shutdown or a read-only server.
    Permanent,
}

/// Returns the class of a server error, or `None` when an append may have caused the error.
/// Splitting the flush does not help against a server error.
pub(super) fn classify_flush_error(error: &tokio_postgres::Error) -> Option<FlushError> {
    match error.code().and_then(|state| state.code().get(..2)) {
        Some("40") => Some(FlushError::Transient),
        Some("08" | "25" | "53" | "55" | "57" | "58") => Some(FlushError::Permanent),
        _ => None,
    }
}

pub(super) fn classify_append_error(error: &tokio_postgres::Error) -> AppendRejection {
    let state = error.code().cloned();
    match state {
        Some(SqlState::UNIQUE_VIOLATION) => {
            // Slugs are unique over all tenants, independent of reservations.
            if error.as_db_error().and_then(|db| db.table()) == Some("tenants") {
                AppendRejection::Final(AppendError::Invalid("the tenant exists".to_owned()))
            } else {
                AppendRejection::Retry
            }
        }
        // 22 data exception, 23 integrity violation, 54 program limit exceeded: a retry cannot succeed.
        Some(state) if matches!(&state.code()[..2], "22" | "23" | "54") => {
            // The message of PostgreSQL names tables and columns. Clients read the reason, so it is only logged.
            tracing::warn!(cause = database::describe(error), "an append was refused by the database");
            AppendRejection::Final(AppendError::Invalid("the database cannot store a value of it".to_owned()))
        }
        _ => {
            tracing::warn!(cause = database::describe(error), "the database could not write an append");
            let reason = "an append could not be written".to_owned();
            AppendRejection::Unavailable(AppendError::Unavailable(StoreError::Unavailable(reason)))
        }
    }
}
