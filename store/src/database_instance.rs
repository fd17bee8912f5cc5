//! Which life of which database server is on the other side, and whether it was examined: a database that was restored to
//! an earlier point comes up in another life, and nothing is appended to that before it was compared with what others
//! know of it.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio_postgres::Row;

use crate::pools::get;
use crate::{Store, StoreError};

/// How long an append waits for the examination, which goes on meanwhile; below what a request may take.
const APPEND_VERIFICATION_TIMEOUT: Duration = Duration::from_secs(3);

/// What came of comparing the logs with what others know of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verification {
    /// Logs that have lost events are replaced.
    Done,
    /// Nobody could be asked, for this reason.
    Impossible(String),
    /// The database itself did not answer, so it is to be examined again.
    Failed(String),
}

/// Compares the logs with what others know of them.
pub type Verifier = Arc<dyn Fn() -> BoxFuture<'static, Verification> + Send + Sync>;

/// One life of a database: from a start of its server to the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseInstance(String);

impl DatabaseInstance {
    /// Finds it, in the one column of the one row.
    pub(crate) const QUERY: &str =
        "select pg_postmaster_start_time()::text || ' ' || oid::text from pg_database
                                        where datname = current_database()";

    pub(crate) fn from_row(row: &Row) -> Self {
        Self(row.get(0))
    }
}

/// Lets appends through to a life that was examined.
#[derive(Default)]
pub(crate) struct RestoreGuard {
    verifier: OnceLock<Verifier>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    verified: Option<DatabaseInstance>,
    in_progress: Option<(DatabaseInstance, Shared<BoxFuture<'static, Verification>>)>,
}

impl RestoreGuard {
    /// Returns this life as soon as it may be appended to. Where the examiner can ask no other party it may be: an outage of
    /// the broker does not keep facts from being kept.
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

    /// The examination of a life that is not admitted yet: one for all who wait.
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
        // A task of its own: it goes on when those who wait for it give up.
        let task = tokio::spawn(verifier());
        let ended =
            task.map(|ended| ended.unwrap_or_else(|error| Verification::Impossible(error.to_string())));
        let in_progress = ended.boxed().shared();
        state.in_progress = Some((database_instance.clone(), in_progress.clone()));
        Some(in_progress)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// [`RestoreGuard::check`] with the patience of an append.
    pub(crate) async fn check_append(
        &self,
        database_instance: DatabaseInstance,
    ) -> Result<DatabaseInstance, StoreError> {
        self.check(database_instance, Some(APPEND_VERIFICATION_TIMEOUT)).await
    }
}

impl Store {
    /// Says who examines a life of the database before anything is appended to it; to be called once, before the first
    /// append. Without an examiner every life is good.
    pub fn set_verifier(&self, verifier: Verifier) {
        drop(self.0.restore_guard.verifier.set(verifier));
    }

    /// Waits until the database's present life is examined.
    pub async fn wait_until_verified(&self) -> Result<(), StoreError> {
        let row = get(&self.0.pools.worker).await?.query_one(DatabaseInstance::QUERY, &[]).await?;
        self.0.restore_guard.check(DatabaseInstance::from_row(&row), None).await.map(drop)
    }

    /// The database's present life.
    pub async fn database_instance(&self) -> Result<DatabaseInstance, StoreError> {
        let row = get(&self.0.pools.relay).await?.query_one(DatabaseInstance::QUERY, &[]).await?;
        Ok(DatabaseInstance::from_row(&row))
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
