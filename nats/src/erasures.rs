//! Erasures that JetStream tells of and the logs do not: a database that was restored may have lost them, and the copy
//! has them still.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use async_nats::jetstream::consumer::DeliverPolicy;
use schemas::engine::{Event, LogId, TenantId, TenantSlug};
use schemas::privacy::subject::SubjectEvent;
use store::Store;
use uuid::Uuid;

use crate::message::{MessageKey, SUBJECT_ROOT};
use crate::relay::stream_reader;
use crate::{Nats, NatsError};

/// Logs that the database knows: whose each is, and up to which position the tenant's present log has its events.
type Logs = HashMap<LogId, (TenantId, u64)>;

/// The subjects whose erasure stands on the stream in an event that no log has. Some may be known to a log all the same, by
/// a later event.
pub async fn lost_erasures(store: &Store, nats: &Nats) -> Result<Vec<(TenantId, Uuid)>, NatsError> {
    let stream = nats.event_stream().await?;
    if stream.state.messages == 0 {
        return Ok(Vec::new());
    }
    let logs = logs(store).await?;
    let mut lost: HashSet<(TenantSlug, LogId, Uuid)> = HashSet::new();
    let filter = format!("{SUBJECT_ROOT}.*.{}.>", SubjectEvent::CATEGORY);
    let (key, end) = (MessageKey::of(store.key()), stream.state.last_sequence);
    stream_reader::read(nats, &key, DeliverPolicy::All, filter, end, |_, published| {
        if let Some(published) = published
            && logs.get(&published.log).is_none_or(|(_, kept_to)| published.position > *kept_to)
            && let Some(subject) = published.stream.uuid()
        {
            lost.insert((published.tenant, published.log, subject));
        }
        ControlFlow::Continue(())
    })
    .await?;
    let mut subjects = HashSet::new();
    for (slug, log, subject) in lost {
        // A log that the database has forgotten is known by the slug alone.
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
        // What a log has kept, a later one may have lost.
        for _ in 0..next.len() {
            let Some(later) = next.get(&behind) else { break };
            (kept_to, behind) = (kept_to.min(later.last_position), later.next_log_id);
        }
        logs.insert(log.log_id, (log.tenant, kept_to));
    }
    Ok(logs)
}
