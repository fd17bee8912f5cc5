//! Writes the activity log. It counts entries above a rate and writes the others in batches. A request never waits for
//! it. When the database is slow, entries are dropped and counted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use activity::{Activity, ActivityKind};
use schemas::engine::{Actor, TenantId, clock, ids};
use store::{Causes, Store};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::ActivityRetention;

/// Maximum queued entries; protected entries have a queue of the same size. Further ones are dropped and counted.
const QUEUED_ENTRIES_MAX: usize = 10_000;
/// Maximum entries of one kind and tenant in a window, for anonymous and for known callers each. Further ones are only
/// counted.
const WINDOW_ENTRIES_MAX: u64 = 200;
/// Maximum callers that are counted separately in a window.
const WINDOW_ACTORS_MAX: usize = 1_000;
/// The length of a window. At its end each caller's counted entries become one entry.
const SAMPLING_WINDOW: Duration = Duration::from_secs(10);
/// How often queued entries are written.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);
/// Maximum entries in one write.
const BATCH_ENTRIES_MAX: usize = 500;
/// How often expired entries are deleted.
const SWEEP_INTERVAL: Duration = Duration::from_hours(1);
/// How long a stopping process waits for the last entries to be written.
const FINAL_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Accepts entries and writes them in the background. Cheap to clone.
#[derive(Clone)]
pub struct ActivityLog(Arc<LogState>);

struct LogState {
    entries: mpsc::Sender<(TenantId, Activity)>,
    protected: mpsc::Sender<(TenantId, Activity)>,
    sampler: Arc<Mutex<ActivitySampler>>,
    finish: CancellationToken,
    writer: TaskTracker,
}

impl ActivityLog {
    /// Starts the writer. It runs until [`finish`](Self::finish).
    pub fn start(store: Store, retention: ActivityRetention) -> Self {
        let (entries, sampled) = mpsc::channel(QUEUED_ENTRIES_MAX);
        let (protected, kept) = mpsc::channel(QUEUED_ENTRIES_MAX);
        let (finish, writer) = (CancellationToken::new(), TaskTracker::new());
        let sampler = Arc::new(Mutex::new(ActivitySampler::default()));
        let queues = Queues { sampled, kept, sampler: Arc::clone(&sampler) };
        writer.spawn(write(store, queues, retention, finish.clone()));
        writer.close();
        Self(Arc::new(LogState { entries, protected, sampler, finish, writer }))
    }

    /// Queues an entry.
    pub fn record(&self, tenant: TenantId, activity: Activity) {
        // Sampling comes before the queue, so entries that are only counted take no space in it.
        let queue = if activity.is_protected() { &self.0.protected } else { &self.0.entries };
        let activity = if activity.is_protected() {
            Some(activity)
        } else {
            lock(&self.0.sampler).sample(tenant, activity)
        };
        let Some(activity) = activity else { return };
        let Err(error) = queue.try_send((tenant, activity)) else { return };
        metrics::counter!("annals_activity_dropped_total").increment(1);
        if let TrySendError::Closed((tenant, activity)) = error {
            // The metric is lost when the process ends, so the entry is logged too.
            tracing::warn!(%tenant, actor = activity.actor, action = activity.action, "an activity came too late to be kept");
        }
    }

    /// Writes the queued entries and stops. Called after the last request of a stopping process was answered.
    pub async fn finish(&self) {
        self.0.finish.cancel();
        if tokio::time::timeout(FINAL_FLUSH_TIMEOUT, self.0.writer.wait()).await.is_err() {
            tracing::warn!("the last activities could not be kept in time");
        }
    }
}

/// An entry with the present time.
pub fn entry(kind: ActivityKind, actor: &Actor, action: String, outcome: &str) -> Activity {
    Activity {
        id: ids::new_id(),
        at: clock::now(),
        kind,
        actor: actor.to_string(),
        action,
        outcome: outcome.to_owned(),
        count: 1,
        request_id: None,
        address: None,
    }
}

/// Counts entries above the rate by tenant, kind and whether the caller is known: the entries kept in this window, and
/// a sum for each caller. So the counts name a caller that sends few requests among many.
#[derive(Default)]
struct ActivitySampler(HashMap<SampleKey, (u64, HashMap<String, Activity>)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct SampleKey {
    tenant: TenantId,
    kind: ActivityKind,
    anonymous: bool,
}

impl ActivitySampler {
    /// Returns the entry, or counts it and returns `None`.
    fn sample(&mut self, tenant: TenantId, activity: Activity) -> Option<Activity> {
        let anonymous = activity.actor == Actor::anonymous().as_str();
        let key = SampleKey { tenant, kind: activity.kind, anonymous };
        let (kept, sums) = self.0.entry(key).or_default();
        *kept += 1;
        if *kept <= WINDOW_ENTRIES_MAX {
            return Some(activity);
        }
        // Callers beyond the maximum share one sum.
        let known = sums.len() < WINDOW_ACTORS_MAX || sums.contains_key(&activity.actor);
        let actor = if known { activity.actor.clone() } else { "others".to_owned() };
        let sum = sums.entry(actor.clone()).or_insert_with(|| Activity {
            actor,
            action: "entries that came too quickly to be kept one by one".to_owned(),
            outcome: "counted".to_owned(),
            address: None,
            request_id: None,
            count: 0,
            ..activity
        });
        sum.count += 1;
        None
    }

    /// Ends the window and returns its sums as entries.
    fn take_summaries(&mut self) -> Vec<(TenantId, Activity)> {
        let window = std::mem::take(&mut self.0);
        let sums = window
            .into_iter()
            .flat_map(|(key, (_, sums))| sums.into_values().map(move |sum| (key.tenant, sum)));
        sums.collect()
    }
}

fn lock(sampler: &Mutex<ActivitySampler>) -> MutexGuard<'_, ActivitySampler> {
    // No code panics while it holds the lock.
    sampler.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The inputs of the writer.
struct Queues {
    sampled: mpsc::Receiver<(TenantId, Activity)>,
    kept: mpsc::Receiver<(TenantId, Activity)>,
    sampler: Arc<Mutex<ActivitySampler>>,
}

async fn write(store: Store, mut queues: Queues, retention: ActivityRetention, cancel: CancellationToken) {
    let mut waiting: HashMap<TenantId, Vec<Activity>> = HashMap::new();
    let tick = |every: Duration| {
        let mut ticks = tokio::time::interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    };
    let (mut flushes, mut windows, mut sweeps) =
        (tick(FLUSH_INTERVAL), tick(SAMPLING_WINDOW), tick(SWEEP_INTERVAL));
    loop {
        let received = tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            received = queues.kept.recv() => received,
            _ = flushes.tick() => {
                flush(&store, &mut waiting).await;
                continue;
            }
            _ = windows.tick() => {
                for (tenant, sum) in lock(&queues.sampler).take_summaries() {
                    waiting.entry(tenant).or_default().push(sum);
                }
                continue;
            }
            _ = sweeps.tick() => {
                sweep(&store, retention).await;
                continue;
            }
            received = queues.sampled.recv() => received,
        };
        let Some((tenant, activity)) = received else { break };
        let of = waiting.entry(tenant).or_default();
        of.push(activity);
        if of.len() >= BATCH_ENTRIES_MAX {
            flush(&store, &mut waiting).await;
        }
    }
    for queue in [&mut queues.kept, &mut queues.sampled] {
        queue.close();
        while let Ok((tenant, activity)) = queue.try_recv() {
            waiting.entry(tenant).or_default().push(activity);
        }
    }
    for (tenant, sum) in lock(&queues.sampler).take_summaries() {
        waiting.entry(tenant).or_default().push(sum);
    }
    flush(&store, &mut waiting).await;
}

async fn flush(store: &Store, waiting: &mut HashMap<TenantId, Vec<Activity>>) {
    for (tenant, activities) in waiting.drain() {
        if let Err(error) = activity::record(&store.tenant(tenant), &activities).await {
            metrics::counter!("annals_activity_dropped_total").increment(activities.len() as u64);
            tracing::warn!(error = %Causes(&error), lost = activities.len(), "activities could not be kept");
        }
    }
}

async fn sweep(store: &Store, retention: ActivityRetention) {
    let before = clock::now() - retention.max_age;
    let Ok(heads) = store.heads().await else { return };
    for head in heads {
        loop {
            match activity::expire(&store.tenant(head.tenant), before, retention.max_per_kind).await {
                Ok(1..) => {}
                Ok(0) => break,
                Err(error) => {
                    tracing::warn!(error = %Causes(&error), "old activities could not be removed");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use activity::ACCEPTED;

    use super::*;

    #[test]
    fn what_comes_too_quickly_is_counted_apart_by_tenant_and_kind() {
        let (one, two) = (TenantId(ids::new_id()), TenantId(ids::new_id()));
        let mut sampler = ActivitySampler::default();
        let refusal = || entry(ActivityKind::Refusal, &Actor::anonymous(), "GET /x".to_owned(), "forbidden");
        let passed = (0..WINDOW_ENTRIES_MAX + 7).filter(|_| sampler.sample(one, refusal()).is_some()).count();
        assert_eq!(passed as u64, WINDOW_ENTRIES_MAX);
        assert!(sampler.sample(two, refusal()).is_some());
        let sums = sampler.take_summaries();
        assert_eq!(sums.iter().map(|(tenant, sum)| (*tenant, sum.count)).collect::<Vec<_>>(), [(one, 7)]);
        assert!(sampler.sample(one, refusal()).is_some(), "a new window begins");
    }

    #[test]
    fn who_came_too_quickly_is_told() {
        let (tenant, mut sampler) = (TenantId(ids::new_id()), ActivitySampler::default());
        let access = |user: u128| {
            let actor = Actor::user(uuid::Uuid::from_u128(user));
            entry(ActivityKind::AuditAccess, &actor, "GET /v1/events".to_owned(), "accepted")
        };
        for _ in 0..WINDOW_ENTRIES_MAX {
            sampler.sample(tenant, access(1));
        }
        for _ in 0..3 {
            assert!(sampler.sample(tenant, access(2)).is_none());
        }
        let sums = sampler.take_summaries();
        assert_eq!((sums.len(), sums[0].1.count), (1, 3));
        assert_eq!(sums[0].1.actor, access(2).actor);
    }

    #[test]
    fn a_flood_of_refused_sign_ins_hides_no_accepted_one_and_no_known_caller() {
        let (tenant, mut sampler) = (TenantId(ids::new_id()), ActivitySampler::default());
        let of = |actor: &Actor, outcome| {
            entry(ActivityKind::SignIn, actor, "POST /v1/auth/login".to_owned(), outcome)
        };
        for _ in 0..WINDOW_ENTRIES_MAX * 2 {
            sampler.sample(tenant, of(&Actor::anonymous(), "invalid_credentials"));
        }
        let user = Actor::user(uuid::Uuid::from_u128(1));
        assert!(of(&user, ACCEPTED).is_protected(), "it is not sampled at all");
        assert!(!of(&Actor::anonymous(), "invalid_credentials").is_protected());
        let refused = entry(ActivityKind::Refusal, &user, "GET /x".to_owned(), "forbidden");
        for _ in 0..WINDOW_ENTRIES_MAX * 2 {
            let anonymous =
                entry(ActivityKind::Refusal, &Actor::anonymous(), "GET /x".to_owned(), "unauthenticated");
            sampler.sample(tenant, anonymous);
        }
        assert!(sampler.sample(tenant, refused).is_some(), "known callers have a quota of their own");
    }
}
