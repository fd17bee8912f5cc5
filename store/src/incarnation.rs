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
const PATIENCE: Duration = Duration::from_secs(3);

/// What came of comparing the logs with what others know of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Examination {
    /// Logs that have lost events are replaced.
    Done,
    /// Nobody could be asked, for this reason.
    Impossible(String),
    /// The database itself did not answer, so it is to be examined again.
    Failed(String),
}

/// Compares the logs with what others know of them.
pub type Examiner = Arc<dyn Fn() -> BoxFuture<'static, Examination> + Send + Sync>;

/// One life of a database: from a start of its server to the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incarnation(String);

impl Incarnation {
    /// Finds it, in the one column of the one row.
    pub(crate) const STATEMENT: &str =
        "select pg_postmaster_start_time()::text || ' ' || oid::text from pg_database
                                        where datname = current_database()";

    pub(crate) fn from_row(row: &Row) -> Self {
        Self(row.get(0))
    }
}

/// Lets appends through to a life that was examined.
#[derive(Default)]
pub(crate) struct Gate {
    examiner: OnceLock<Examiner>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    admitted: Option<Incarnation>,
    running: Option<(Incarnation, Shared<BoxFuture<'static, Examination>>)>,
}

impl Gate {
    /// Returns this life as soon as it may be appended to. Where the examiner can ask no other party it may be: an outage of
    /// the broker does not keep facts from being kept.
    pub(crate) async fn admit(
        &self,
        incarnation: Incarnation,
        patience: Option<Duration>,
    ) -> Result<Incarnation, StoreError> {
        let Some(examination) = self.examination(&incarnation) else { return Ok(incarnation) };
        let came_to = match patience {
            None => examination.await,
            Some(patience) => tokio::time::timeout(patience, examination).await.map_err(|_| {
                StoreError::Unavailable("the logs are being compared with what was published".to_owned())
            })?,
        };
        let mut state = self.lock();
        state.running = None;
        if let Examination::Failed(reason) = came_to {
            return Err(StoreError::Unavailable(reason));
        }
        if state.admitted.replace(incarnation.clone()).as_ref() != Some(&incarnation)
            && let Examination::Impossible(reason) = came_to
        {
            tracing::warn!(
                reason,
                "nobody could be asked whether this database has lost events; appends go on"
            );
        }
        Ok(incarnation)
    }

    /// The examination of a life that is not admitted yet: one for all who wait.
    fn examination(&self, incarnation: &Incarnation) -> Option<Shared<BoxFuture<'static, Examination>>> {
        let mut state = self.lock();
        if state.admitted.as_ref() == Some(incarnation) {
            return None;
        }
        if let Some((of, running)) = &state.running
            && of == incarnation
        {
            return Some(running.clone());
        }
        let examiner = self.examiner.get()?;
        // A task of its own: it goes on when those who wait for it give up.
        let task = tokio::spawn(examiner());
        let ended =
            task.map(|ended| ended.unwrap_or_else(|error| Examination::Impossible(error.to_string())));
        let running = ended.boxed().shared();
        state.running = Some((incarnation.clone(), running.clone()));
        Some(running)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// [`Gate::admit`] with the patience of an append.
    pub(crate) async fn admit_append(&self, incarnation: Incarnation) -> Result<Incarnation, StoreError> {
        self.admit(incarnation, Some(PATIENCE)).await
    }
}

impl Store {
    /// Says who examines a life of the database before anything is appended to it; to be called once, before the first
    /// append. Without an examiner every life is good.
    pub fn examine_with(&self, examiner: Examiner) {
        drop(self.0.gate.examiner.set(examiner));
    }

    /// Waits until the database's present life is examined.
    pub async fn examined(&self) -> Result<(), StoreError> {
        let row = get(&self.0.pools.worker).await?.query_one(Incarnation::STATEMENT, &[]).await?;
        self.0.gate.admit(Incarnation::from_row(&row), None).await.map(drop)
    }

    /// The database's present life.
    pub async fn incarnation(&self) -> Result<Incarnation, StoreError> {
        let row = get(&self.0.pools.relay).await?.query_one(Incarnation::STATEMENT, &[]).await?;
        Ok(Incarnation::from_row(&row))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn life(name: &str) -> Incarnation {
        Incarnation(name.to_owned())
    }

    #[tokio::test]
    async fn those_who_wait_for_one_life_share_one_examination() {
        let gate = Gate::default();
        assert!(gate.examination(&life("a")).is_none(), "nobody examines");
        let count = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&count);
        let examiner: Examiner = Arc::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Examination::Done).boxed()
        });
        drop(gate.examiner.set(examiner));
        let (one, two) = (gate.examination(&life("a")), gate.examination(&life("a")));
        assert_eq!(one.expect("an examination").await, Examination::Done);
        assert_eq!(two.expect("the same").await, Examination::Done);
        assert_eq!(count.load(Ordering::Relaxed), 1);
        gate.lock().admitted = Some(life("a"));
        assert!(gate.examination(&life("a")).is_none());
        assert!(gate.examination(&life("b")).is_some(), "another life is examined again");
    }
}
