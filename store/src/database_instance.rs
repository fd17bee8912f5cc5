//! Detects a new database instance and verifies it before appends.
//!
//! A database that was restored to an earlier state starts as a new instance.
//! Nothing is appended to it before its logs were compared with published events.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio_postgres::Row;

use crate::StoreError;

/// Maximum wait of an append for the verification, below the timeout of a request.
/// The verification continues meanwhile.
const APPEND_VERIFICATION_TIMEOUT: Duration = Duration::from_secs(3);

/// The result of comparing the logs with published events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verification {
    /// Finished; logs that lost events are replaced.
    Done,
    /// No source of published events could be asked, for this reason.
    Impossible(String),
    /// The database did not answer, so the verification must be repeated.
    Failed(String),
}

/// Compares the logs with published events.
pub type Verifier = Arc<dyn Fn() -> BoxFuture<'static, Verification> + Send + Sync>;

/// One run of a database server, from start to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseInstance(String);

impl DatabaseInstance {
    /// Reads the instance: one row with one column.
    pub(crate) const QUERY: &str =
        "select pg_postmaster_start_time()::text || ' ' || oid::text from pg_database
                                        where datname = current_database()";

    pub(crate) fn from_row(row: &Row) -> Self {
        Self(row.get(0))
    }
}

/// Allows appends only to a verified database instance.
#[derive(Default)]
pub(crate) struct RestoreGuard {
    pub(crate) verifier: OnceLock<Verifier>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    verified: Option<DatabaseInstance>,
    in_progress: Option<(DatabaseInstance, Shared<BoxFuture<'static, Verification>>)>,
}

impl RestoreGuard {
    /// Waits until appends to this instance are allowed, and returns it.
    /// If no source could be asked, appends are allowed: an outage of the broker does not block writes.
    pub(crate) async fn check(
        &self,
        database_instance: DatabaseInstance,
        timeout: Option<Duration>,
    ) -> Result<DatabaseInstance, StoreError> {
        let Some(verification) = self.verification(&database_instance) else { return Ok(database_instance) };
        let result = match timeout {
            None => verification.await,
            Some(timeout) => tokio::time::timeout(timeout, verification).await.map_err(|_| {
                StoreError::Unavailable("the logs are being compared with what was published".to_owned())
            })?,
        };
        let mut state = self.lock();
        state.in_progress = None;
        if let Verification::Failed(reason) = result {
            return Err(StoreError::Unavailable(reason));
        }
        if state.verified.replace(database_instance.clone()).as_ref() != Some(&database_instance)
            && let Verification::Impossible(reason) = result
        {
            tracing::warn!(
                reason,
                "nobody could be asked whether this database has lost events; appends go on"
            );
        }
        Ok(database_instance)
    }

    /// The verification of an instance that is not verified yet, shared by all waiting callers.
    fn verification(
        &self,
        database_instance: &DatabaseInstance,
    ) -> Option<Shared<BoxFuture<'static, Verification>>> {
        let mut state = self.lock();
        if state.verified.as_ref() == Some(database_instance) {
            return None;
        }
        if let Some((of, in_progress)) = &state.in_progress
            && of == database_instance
        {
            return Some(in_progress.clone());
        }
        let verifier = self.verifier.get()?;
        // A separate task, so that it continues when the waiting callers give up.
        let task = tokio::spawn(verifier());
        let ended =
            task.map(|ended| ended.unwrap_or_else(|error| Verification::Impossible(error.to_string())));
        let in_progress = ended.boxed().shared();
        state.in_progress = Some((database_instance.clone(), in_progress.clone()));
        Some(in_progress)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Code that holds the lock does not panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// [`RestoreGuard::check`] with the timeout of an append.
    pub(crate) async fn check_append(
        &self,
        database_instance: DatabaseInstance,
    ) -> Result<DatabaseInstance, StoreError> {
        self.check(database_instance, Some(APPEND_VERIFICATION_TIMEOUT)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn instance(name: &str) -> DatabaseInstance {
        DatabaseInstance(name.to_owned())
    }

    #[tokio::test]
    async fn those_who_wait_for_one_life_share_one_examination() {
        let restore_guard = RestoreGuard::default();
        assert!(restore_guard.verification(&instance("a")).is_none(), "nobody examines");
        let count = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&count);
        let verifier: Verifier = Arc::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Verification::Done).boxed()
        });
        drop(restore_guard.verifier.set(verifier));
        let (one, two) =
            (restore_guard.verification(&instance("a")), restore_guard.verification(&instance("a")));
        assert_eq!(one.expect("an examination").await, Verification::Done);
        assert_eq!(two.expect("the same").await, Verification::Done);
        assert_eq!(count.load(Ordering::Relaxed), 1);
        restore_guard.lock().verified = Some(instance("a"));
        assert!(restore_guard.verification(&instance("a")).is_none());
        assert!(restore_guard.verification(&instance("b")).is_some(), "another life is examined again");
    }
}
