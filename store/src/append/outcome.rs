//! What PostgreSQL's refusals mean for an append that stood alone in its flush.

use tokio_postgres::error::SqlState;

use super::AppendError;
use crate::StoreError;
use crate::error::describe;

/// What to do with a lone append that was refused.
pub(super) enum Refusal {
    /// Somebody else wrote first: look again.
    LookAgain,
    /// It can never be stored.
    Final(AppendError),
    /// PostgreSQL is away or out of something.
    Unavailable(AppendError),
}

pub(super) fn classify(error: &tokio_postgres::Error) -> Refusal {
    let state = error.code().cloned();
    match state {
        Some(SqlState::UNIQUE_VIOLATION) => {
            // A slug is unique over all tenants, whatever the reservation says.
            if error.as_db_error().and_then(|db| db.table()) == Some("tenants") {
                Refusal::Final(AppendError::Invalid("the tenant exists".to_owned()))
            } else {
                Refusal::LookAgain
            }
        }
        // 22 data exception, 23 integrity, 54 program limit exceeded: no retry will mend it.
        Some(state) if matches!(&state.code()[..2], "22" | "23" | "54") => {
            Refusal::Final(AppendError::Invalid(describe(error)))
        }
        _ => Refusal::Unavailable(AppendError::Unavailable(StoreError::Unavailable(describe(error)))),
    }
}
