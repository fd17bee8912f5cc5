//! Runs processes: for each, a feed of events to react to and a runner of the steps that follow.

use std::sync::Arc;
use std::time::Duration;

use commands::Executor;
use futures::Stream;
use schemas::engine::InvalidValue;
use schemas::saga::SagaFact;
use store::SharedWork;
use store::feed::{Batch, FeedSettings};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::process::Process;
use super::react::Reactor;
use super::retry::RetrySettings;
use super::steps::Steps;

/// Hints about new steps that may wait for the step runner.
const HINTS: usize = 256;

/// How processes are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SagaSettings {
    /// When refused steps are tried again.
    pub retry: RetrySettings,
    /// Commands of one process sent at once, in all tenants.
    pub steps_at_once: usize,
    /// How often due steps are looked for.
    pub poll: Duration,
}

impl Default for SagaSettings {
    fn default() -> Self {
        Self { retry: RetrySettings::default(), steps_at_once: 64, poll: Duration::from_millis(200) }
    }
}

/// Why processes could not be run.
#[derive(Debug, thiserror::Error)]
pub enum SagaError {
    /// A process's name is not a token of an event type.
    #[error("the saga name {name:?} is not valid")]
    Name {
        /// The name.
        name: &'static str,
        /// What is wrong with the event types that it leads to.
        #[source]
        source: InvalidValue,
    },
    /// A part of the engine has ended by a panic.
    #[error("the saga engine has stopped")]
    Stopped(#[from] tokio::task::JoinError),
}

/// Runs the processes until cancelled; `followed` gives each a stream of followed batches. Outages are waited out.
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
        let (hints, hinted) = mpsc::channel(HINTS);
        let reactor = Reactor::new(executor.store().clone(), Arc::clone(&process), hints);
        let feed = FeedSettings { batch: 250, work: Some(SharedWork::Sagas), ..FeedSettings::default() };
        tasks.spawn(store::feed::run(
            executor.store().clone(),
            Arc::new(reactor),
            followed(),
            feed,
            cancel.clone(),
        ));
        tasks.spawn(Arc::new(Steps::new(executor.clone(), process, settings)).run(hinted, cancel.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    Ok(())
}
