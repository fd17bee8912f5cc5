//! Finds erasures that JetStream has and the logs do not. A restored database may have lost them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::future::BoxFuture;
use nats::message::MessageKey;
use nats::relay::read_category;
use nats::{Nats, NatsError};
use schemas::engine::{Event, LogId, TenantId, TenantSlug};
use schemas::privacy::subject::SubjectEvent;
use store::{Store, StoreError};
use uuid::Uuid;

/// Asks copies of the logs for erasures that the copies have and the logs do not. It ends within a bounded time.
pub type DerivedCopies =
    Arc<dyn Fn() -> BoxFuture<'static, Result<Vec<(TenantId, Uuid)>, StoreError>> + Send + Sync>;

/// Known logs, with the tenant and the last position up to which the tenant's current log has the events.
type Logs = HashMap<LogId, (TenantId, u64)>;

/// The subjects with an erasure event in the stream that no log has. A log may still contain the erasure as a later
/// event.
///
/// # Errors
/// [`NatsError`] if the stream or the database cannot be read.
pub async fn lost_erasures(store: &Store, nats: &Nats) -> Result<Vec<(TenantId, Uuid)>, NatsError> {
    let stream = nats.event_stream().await?;
    if stream.state.messages == 0 {
        return Ok(Vec::new());
    }
    let logs = logs(store).await?;
    let mut lost: HashSet<(TenantSlug, LogId, Uuid)> = HashSet::new();
    let key = MessageKey::of(store.key());
    let (category, end) = (SubjectEvent::CATEGORY, stream.state.last_sequence);
    read_category(nats, &key, category, end, |published| {
        if logs.get(&published.log).is_none_or(|(_, kept_to)| published.position > *kept_to)
            && let Some(subject) = published.stream.uuid()
        {
            lost.insert((published.tenant, published.log, subject));
        }
    })
    .await?;
    let mut subjects = HashSet::new();
    for (slug, log, subject) in lost {
        // The tenant of a log that is not in the database is found by slug.
        let tenant = match logs.get(&log) {
            Some((tenant, _)) => Some(*tenant),
            None => store.tenant_by_slug(&slug).await?.map(|record| record.id),
        };
        subjects.extend(tenant.map(|tenant| (tenant, subject)));
    }
    Ok(subjects.into_iter().collect())
}

async fn logs(store: &Store) -> Result<Logs, NatsError> {
    let mut logs: Logs =
        store.heads().await?.into_iter().map(|head| (head.log_id, (head.tenant, head.position))).collect();
    let replaced = store.replaced_logs().await?;
    let next: HashMap<LogId, _> = replaced.iter().map(|log| (log.log_id, log)).collect();
    for log in &replaced {
        let (mut kept_to, mut behind) = (log.last_position, log.next_log_id);
        // A later replacement may have lost events that an earlier one kept.
        for _ in 0..next.len() {
            let Some(later) = next.get(&behind) else { break };
            (kept_to, behind) = (kept_to.min(later.last_position), later.next_log_id);
        }
        logs.insert(log.log_id, (log.tenant, kept_to));
    }
    Ok(logs)
}
