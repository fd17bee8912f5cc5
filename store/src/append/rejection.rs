//! What PostgreSQL's refusals mean for an append that stood alone in its flush.

use tokio_postgres::error::SqlState;

use super::AppendError;
use crate::StoreError;

/// What to do with a lone append that was refused.
pub(super) enum AppendRejection {
    /// Somebody else wrote first: look again.
    Retry,
    /// It can never be stored.
    Final(AppendError),
    /// PostgreSQL is away or out of something.
    Unavailable(AppendError),
}

/// What PostgreSQL lacks or suffers itself.
pub(super) enum FlushError {
    /// A deadlock and the like: the same again may succeed at once.
    Transient,
    /// A full disk, a time limit, a shutdown, a server that takes no writes.
    Permanent,
}

/// Whether a flush was refused for the server's own trouble and not for what one of its appends holds: halving it would
/// mend nothing.
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
            // A slug is unique over all tenants, whatever the reservation says.
            if error.as_db_error().and_then(|db| db.table()) == Some("tenants") {
                AppendRejection::Final(AppendError::Invalid("the tenant exists".to_owned()))
            } else {
                AppendRejection::Retry
            }
        }
        // 22 data exception, 23 integrity, 54 program limit exceeded: no retry will mend it.
        Some(state) if matches!(&state.code()[..2], "22" | "23" | "54") => {
            // What PostgreSQL says names tables and columns, and the reason reaches clients.
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
