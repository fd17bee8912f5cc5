//! Runs sagas: for each one a feed of events to react to, and a runner of its steps.

use std::sync::Arc;

use commands::Executor;
use futures::Stream;
use schemas::engine::InvalidValue;
use schemas::saga::SagaFact;
use store::Workload;
use store::feed::{Batch, FeedSettings};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::process::Process;
use super::react::Reactor;
use super::settings::SagaSettings;
use super::step_runner::StepRunner;

/// Maximum queued notifications about new steps.
const NOTIFICATIONS_MAX: usize = 256;

/// Why sagas could not be run.
#[derive(Debug, thiserror::Error)]
pub enum SagaError {
    /// A process's name is not a token of an event type.
    #[error("the saga name {name:?} is not valid")]
    Name {
        /// The name.
        name: &'static str,
        /// What is wrong with the event types derived from the name.
        #[source]
        source: InvalidValue,
    },
    /// A task of the engine panicked.
    #[error("the saga engine has stopped")]
    Stopped(#[from] tokio::task::JoinError),
}

/// Runs the sagas until cancelled. `followed` returns a new stream of batches for each saga. Outages are retried.
///
/// # Errors
/// [`SagaError::Name`] if a name is invalid, [`SagaError::Stopped`] if a task panics.
pub async fn run<S>(
    executor: Executor,
    processes: Vec<Arc<dyn Process>>,
    followed: impl Fn() -> S,
    settings: SagaSettings,
    cancel: CancellationToken,
) -> Result<(), SagaError>
where
    S: Stream<Item = Batch> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for process in processes {
        let name = process.name();
        SagaFact::Reacted.event_type(name).map_err(|source| SagaError::Name { name, source })?;
        let (notifications, notified) = mpsc::channel(NOTIFICATIONS_MAX);
        let reactor = Reactor::new(executor.store().clone(), Arc::clone(&process), notifications);
        let feed = FeedSettings { batch: 250, workload: Some(Workload::Sagas), ..FeedSettings::default() };
        tasks.spawn(store::feed::run(
            executor.store().clone(),
            Arc::new(reactor),
            followed(),
            feed,
            cancel.clone(),
        ));
        tasks.spawn(
            Arc::new(StepRunner::new(executor.clone(), process, settings)).run(notified, cancel.clone()),
        );
    }
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    Ok(())
}
