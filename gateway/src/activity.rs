//! Writes the activity log: watches what requests come to, thins out what comes too quickly, and keeps the rest in
//! batches. A request never waits for it, and where the database is slow entries are lost before requests are.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use schemas::engine::ids::PLATFORM;
use schemas::engine::{Actor, TenantId, clock, ids};
use store::{Activity, ActivityKind, Store};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::gateway::Gateway;
use crate::http::route::{Audit, Route};
use crate::http::{ErrorCode, Problem, RequestContext};

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
/// How long the end of the process waits for the last entries to be written.
const LAST_WRITE: Duration = Duration::from_secs(1);
/// The longest action that is kept.
const ACTION_MAX: usize = 300;

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
pub struct ActivityLog {
    entries: mpsc::Sender<(TenantId, Activity)>,
    finish: CancellationToken,
    writer: TaskTracker,
}

impl ActivityLog {
    /// Starts the writer, which goes on until it is to [`finish`](Self::finish).
    pub fn start(store: Store, retention: ActivityRetention) -> Self {
        let (entries, receiver) = mpsc::channel(QUEUE);
        let (finish, writer) = (CancellationToken::new(), TaskTracker::new());
        writer.spawn(write(store, receiver, retention, finish.clone()));
        writer.close();
        Self { entries, finish, writer }
    }

    /// Keeps an entry, soon.
    pub fn record(&self, tenant: TenantId, activity: Activity) {
        let Err(error) = self.entries.try_send((tenant, activity)) else { return };
        metrics::counter!("activities_lost_total").increment(1);
        if let TrySendError::Closed((tenant, activity)) = error {
            // The counter ends with the process.
            tracing::warn!(%tenant, actor = activity.actor, action = activity.action, "an activity came too late to be kept");
        }
    }

    /// Writes what has been recorded, and takes nothing more: for the end of the process, when the last request has been
    /// answered.
    pub async fn finish(&self) {
        self.finish.cancel();
        if tokio::time::timeout(LAST_WRITE, self.writer.wait()).await.is_err() {
            tracing::warn!("the last activities could not be kept in time");
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
    let path = request.uri().path().to_owned();
    let context = request.extensions().get::<RequestContext>().cloned();
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip().to_string());
    let response = next.run(request).await;
    let Some(context) = context else { return response };
    let problem = response.extensions().get::<Problem>().map(Problem::code);
    note(&gateway, &context, &path, problem, address);
    response
}

/// Keeps what a request came to. For what is said over a connection that has left HTTP, this is the handler's to do.
pub fn note(
    gateway: &Gateway,
    context: &RequestContext,
    path: &str,
    problem: Option<ErrorCode>,
    address: Option<String>,
) {
    let Some(route) = context.route() else { return };
    // What operators ask for is told in the platform's own log, unless it is about one tenant.
    let operates = route.audit == Audit::Operator;
    let Some(tenant) = context.tenant().or(operates.then_some(PLATFORM)) else { return };
    let actor = context.principal().actor();
    let outcome = problem.map_or("accepted", ErrorCode::as_str);
    let mut entries = Vec::new();
    if let Some(kind) = kind(route.audit, problem, context.principal().is_auditor()) {
        entries.push(entry(kind, &actor, action(kind, &route, path, context.subject()), outcome));
    }
    for (command, code) in context.rejections() {
        entries.push(entry(ActivityKind::RejectedCommand, &actor, command, &code.graphql()));
    }
    for mut entry in entries {
        entry.request_id = Some(context.id().to_string());
        entry.address.clone_from(&address);
        gateway.activities.record(tenant, entry);
    }
}

/// What the entry says. What was looked at, and whose credential it is, counts; of what was refused the pattern tells enough.
fn action(kind: ActivityKind, route: &Route, path: &str, subject: Option<&str>) -> String {
    use ActivityKind::{AuditAccess, CredentialChange, OperatorAccess};
    let method = route.method_name();
    let mut action = match (kind, subject) {
        (AuditAccess | CredentialChange | OperatorAccess, Some(subject)) => {
            format!("{method} {path} {subject}")
        }
        (AuditAccess | CredentialChange | OperatorAccess, None) => format!("{method} {path}"),
        _ => format!("{method} {}", route.path),
    };
    action.truncate(action.floor_char_boundary(ACTION_MAX));
    action
}

fn kind(audit: Audit, problem: Option<ErrorCode>, auditor: bool) -> Option<ActivityKind> {
    if audit == Audit::SignIn {
        let told = [None, Some(ErrorCode::InvalidCredentials), Some(ErrorCode::Unavailable)];
        return told.contains(&problem).then_some(ActivityKind::SignIn);
    }
    match problem {
        Some(
            ErrorCode::Unauthenticated
            | ErrorCode::Forbidden
            | ErrorCode::TenantMismatch
            | ErrorCode::ReservedContext,
        ) => Some(ActivityKind::Refusal),
        Some(
            ErrorCode::Invalid
            | ErrorCode::EmailTaken
            | ErrorCode::VersionConflict
            | ErrorCode::CommandIdReused
            | ErrorCode::EventIdTaken
            | ErrorCode::EventTypeVersionGap
            | ErrorCode::SchemaIncompatible,
        ) => Some(ActivityKind::RejectedCommand),
        None if audit == Audit::CredentialChange => Some(ActivityKind::CredentialChange),
        _ if audit == Audit::Operator => Some(ActivityKind::OperatorAccess),
        _ if audit == Audit::Access || auditor => Some(ActivityKind::AuditAccess),
        _ => None,
    }
}

/// What came too quickly, by tenant and kind: how many were kept in this window, and the sums of the others by actor, so
/// that nobody hides behind a crowd of requests.
#[derive(Default)]
struct Thinning(HashMap<(TenantId, ActivityKind), (u64, HashMap<String, Activity>)>);

impl Thinning {
    /// The entry, unless it is only counted.
    fn pass(&mut self, tenant: TenantId, activity: Activity) -> Option<Activity> {
        let (kept, sums) = self.0.entry((tenant, activity.kind)).or_default();
        *kept += 1;
        if *kept <= BURST {
            return Some(activity);
        }
        let sum = sums.entry(activity.actor.clone()).or_insert_with(|| Activity {
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

    /// The sums of the window that ends.
    fn sums(&mut self) -> Vec<(TenantId, Activity)> {
        let window = std::mem::take(&mut self.0);
        let of = |((tenant, _), (_, sums)): ((TenantId, ActivityKind), (u64, HashMap<String, Activity>))| {
            sums.into_values().map(move |sum| (tenant, sum))
        };
        window.into_iter().flat_map(of).collect()
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
            received = entries.recv() => {
                let Some((tenant, activity)) = received else { break };
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
    fn who_came_too_quickly_is_told() {
        let (tenant, mut thinning) = (TenantId(ids::new_id()), Thinning::default());
        let access = |user: u128| {
            let actor = Actor::user(uuid::Uuid::from_u128(user));
            entry(ActivityKind::AuditAccess, &actor, "GET /v1/events".to_owned(), "accepted")
        };
        for _ in 0..BURST {
            thinning.pass(tenant, access(1));
        }
        for _ in 0..3 {
            assert!(thinning.pass(tenant, access(2)).is_none());
        }
        let sums = thinning.sums();
        assert_eq!((sums.len(), sums[0].1.count), (1, 3));
        assert_eq!(sums[0].1.actor, access(2).actor);
    }

    #[test]
    fn reads_of_members_are_not_recorded_and_those_of_auditors_are() {
        assert_eq!(kind(Audit::Auditors, None, false), None);
        assert_eq!(kind(Audit::Auditors, None, true), Some(ActivityKind::AuditAccess));
        assert_eq!(kind(Audit::Access, None, false), Some(ActivityKind::AuditAccess));
        assert_eq!(kind(Audit::Auditors, Some(ErrorCode::Forbidden), true), Some(ActivityKind::Refusal));
        let refused = Some(ErrorCode::InvalidCredentials);
        assert_eq!(kind(Audit::SignIn, refused, false), Some(ActivityKind::SignIn));
        assert_eq!(kind(Audit::SignIn, Some(ErrorCode::TenantUnknown), false), None);
    }

    #[test]
    fn credentials_are_recorded_when_they_change_and_operators_always() {
        assert_eq!(kind(Audit::CredentialChange, None, false), Some(ActivityKind::CredentialChange));
        assert_eq!(kind(Audit::CredentialChange, Some(ErrorCode::NotFound), false), None);
        let missing = Some(ErrorCode::NotFound);
        assert_eq!(kind(Audit::Operator, missing, false), Some(ActivityKind::OperatorAccess));
    }
}
