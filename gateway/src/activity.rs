//! Writes the activity log: watches what requests come to, thins out what comes too quickly, and keeps the rest in
//! batches. A request never waits for it, and where the database is slow entries are lost before requests are.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use schemas::engine::{Actor, TenantId, clock, ids};
use store::{Activity, ActivityKind, Store};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::edge::{Code, Problem, RequestContext};
use crate::gateway::Gateway;

/// Entries that wait to be written; more are counted and lost.
const QUEUE: usize = 10_000;
/// Entries of one kind that a tenant may have in a window before they are only counted.
const BURST: u64 = 200;
/// The window, at whose end what was only counted becomes one entry.
const WINDOW: Duration = Duration::from_secs(10);
/// How often what has gathered is written.
const FLUSH: Duration = Duration::from_millis(200);
/// Entries written at once.
const BATCH: usize = 500;
/// How often entries whose time is over are looked for.
const SWEEP: Duration = Duration::from_hours(1);

/// How long entries are kept.
#[derive(Debug, Clone, Copy)]
pub struct ActivityRetention {
    /// For so long.
    pub keep: Duration,
    /// So many of each tenant.
    pub most: u64,
}

/// Takes entries. Cheap to clone.
#[derive(Clone)]
pub struct ActivityLog(mpsc::Sender<(TenantId, Activity)>);

impl ActivityLog {
    /// Starts the writer, which goes on until cancelled and then writes what it holds.
    pub fn start(store: Store, retention: ActivityRetention, cancel: CancellationToken) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(write(store, receiver, retention, cancel));
        Self(sender)
    }

    /// Keeps an entry, soon.
    pub fn record(&self, tenant: TenantId, activity: Activity) {
        if self.0.try_send((tenant, activity)).is_err() {
            metrics::counter!("activities_lost_total").increment(1);
        }
    }
}

/// An entry made now.
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

/// The layer that sees what requests came to.
pub async fn watch(State(gateway): State<Gateway>, request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|matched| matched.as_str().to_owned());
    let context = request.extensions().get::<RequestContext>().cloned();
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip().to_string());
    let response = next.run(request).await;
    let (Some(route), Some(context)) = (route, context) else { return response };
    let problem = response.extensions().get::<Problem>().map(Problem::code);
    note(&gateway, &context, &format!("{method} {route}"), problem, address);
    response
}

/// Keeps what a request came to. For what is said over a connection that has left HTTP, this is the handler's to do.
pub fn note(
    gateway: &Gateway,
    context: &RequestContext,
    action: &str,
    problem: Option<Code>,
    address: Option<String>,
) {
    let Some(tenant) = context.tenant() else { return };
    let (_, route) = action.split_once(' ').unwrap_or_default();
    let actor = context.actor();
    let outcome = problem.map_or("accepted", Code::as_str);
    let mut entries = Vec::new();
    if let Some(kind) = kind(route, problem, context.is_auditor()) {
        entries.push(entry(kind, &actor, action.to_owned(), outcome));
    }
    for (command, code) in context.rejections() {
        entries.push(entry(ActivityKind::RejectedCommand, &actor, command, &code));
    }
    for mut entry in entries {
        entry.request_id = Some(context.id().to_string());
        entry.address.clone_from(&address);
        gateway.activities.record(tenant, entry);
    }
}

fn kind(route: &str, problem: Option<Code>, auditor: bool) -> Option<ActivityKind> {
    if route == "/v1/auth/login" {
        let told = [None, Some(Code::InvalidCredentials), Some(Code::Unavailable)].contains(&problem);
        return told.then_some(ActivityKind::SignIn);
    }
    match problem {
        Some(Code::Unauthenticated | Code::Forbidden | Code::TenantMismatch | Code::ReservedContext) => {
            Some(ActivityKind::Refusal)
        }
        Some(
            Code::Invalid
            | Code::EmailTaken
            | Code::VersionConflict
            | Code::CommandIdReused
            | Code::EventIdTaken
            | Code::EventTypeNotNext
            | Code::SchemaNarrower,
        ) => Some(ActivityKind::RejectedCommand),
        _ if route.starts_with("/v1/audit/") || route == "/v1/activities" || auditor => {
            Some(ActivityKind::AuditAccess)
        }
        _ => None,
    }
}

/// What came too quickly, by tenant and kind: how many were kept in this window, and the sum of the others.
#[derive(Default)]
struct Thinning(HashMap<(TenantId, ActivityKind), (u64, Option<Activity>)>);

impl Thinning {
    /// The entry, unless it is only counted.
    fn pass(&mut self, tenant: TenantId, activity: Activity) -> Option<Activity> {
        let (kept, sum) = self.0.entry((tenant, activity.kind)).or_default();
        *kept += 1;
        if *kept <= BURST {
            return Some(activity);
        }
        match sum {
            Some(sum) => sum.count += 1,
            None => {
                *sum = Some(Activity {
                    actor: Actor::system("activity-log").to_string(),
                    action: "entries that came too quickly to be kept one by one".to_owned(),
                    outcome: "counted".to_owned(),
                    address: None,
                    request_id: None,
                    ..activity
                });
            }
        }
        None
    }

    /// The sums of the window that ends.
    fn sums(&mut self) -> Vec<(TenantId, Activity)> {
        let window = std::mem::take(&mut self.0);
        window.into_iter().filter_map(|((tenant, _), (_, sum))| Some((tenant, sum?))).collect()
    }
}

async fn write(
    store: Store,
    mut entries: mpsc::Receiver<(TenantId, Activity)>,
    retention: ActivityRetention,
    cancel: CancellationToken,
) {
    let mut thinning = Thinning::default();
    let mut waiting: HashMap<TenantId, Vec<Activity>> = HashMap::new();
    let tick = |every: Duration| {
        let mut ticks = tokio::time::interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    };
    let (mut flushes, mut windows, mut sweeps) = (tick(FLUSH), tick(WINDOW), tick(SWEEP));
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            _ = flushes.tick() => flush(&store, &mut waiting).await,
            _ = windows.tick() => {
                for (tenant, sum) in thinning.sums() {
                    waiting.entry(tenant).or_default().push(sum);
                }
            }
            _ = sweeps.tick() => sweep(&store, retention).await,
            Some((tenant, activity)) = entries.recv() => {
                if let Some(activity) = thinning.pass(tenant, activity) {
                    let of = waiting.entry(tenant).or_default();
                    of.push(activity);
                    if of.len() >= BATCH {
                        flush(&store, &mut waiting).await;
                    }
                }
            }
        }
    }
    entries.close();
    while let Ok((tenant, activity)) = entries.try_recv() {
        waiting.entry(tenant).or_default().extend(thinning.pass(tenant, activity));
    }
    for (tenant, sum) in thinning.sums() {
        waiting.entry(tenant).or_default().push(sum);
    }
    flush(&store, &mut waiting).await;
}

async fn flush(store: &Store, waiting: &mut HashMap<TenantId, Vec<Activity>>) {
    for (tenant, activities) in waiting.drain() {
        if let Err(error) = store.tenant(tenant).record_activities(&activities).await {
            metrics::counter!("activities_lost_total").increment(activities.len() as u64);
            tracing::warn!(%error, lost = activities.len(), "activities could not be kept");
        }
    }
}

async fn sweep(store: &Store, retention: ActivityRetention) {
    let before = clock::now() - retention.keep;
    let Ok(heads) = store.heads().await else { return };
    for head in heads {
        loop {
            match store.tenant(head.tenant).expire_activities(before, retention.most).await {
                Ok(1..) => {}
                Ok(0) => break,
                Err(error) => {
                    tracing::warn!(%error, "old activities could not be removed");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_too_quickly_is_counted_apart_by_tenant_and_kind() {
        let (one, two) = (TenantId(ids::new_id()), TenantId(ids::new_id()));
        let mut thinning = Thinning::default();
        let refusal = || entry(ActivityKind::Refusal, &Actor::anonymous(), "GET /x".to_owned(), "forbidden");
        let passed = (0..BURST + 7).filter(|_| thinning.pass(one, refusal()).is_some()).count();
        assert_eq!(passed as u64, BURST);
        assert!(thinning.pass(two, refusal()).is_some());
        let sums = thinning.sums();
        assert_eq!(sums.iter().map(|(tenant, sum)| (*tenant, sum.count)).collect::<Vec<_>>(), [(one, 7)]);
        assert!(thinning.pass(one, refusal()).is_some(), "a new window begins");
    }

    #[test]
    fn reads_of_members_are_nobodys_business_and_those_of_auditors_are() {
        assert_eq!(kind("/v1/events", None, false), None);
        assert_eq!(kind("/v1/events", None, true), Some(ActivityKind::AuditAccess));
        assert_eq!(kind("/v1/audit/export", None, false), Some(ActivityKind::AuditAccess));
        assert_eq!(kind("/v1/events", Some(Code::Forbidden), true), Some(ActivityKind::Refusal));
        assert_eq!(kind("/v1/auth/login", Some(Code::InvalidCredentials), false), Some(ActivityKind::SignIn));
        assert_eq!(kind("/v1/auth/login", Some(Code::TenantUnknown), false), None);
    }
}
