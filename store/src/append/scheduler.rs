//! Selects the appends of the next flush.

use std::collections::{HashMap, VecDeque};

use schemas::engine::TenantId;

use super::pending::PendingAppend;

/// Maximum events per flush (an append without events counts as one), and maximum bytes.
const FLUSH_ROWS_MAX: usize = 512;
const FLUSH_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Takes the next flush from the queue: everything if it fits, else round-robin over the tenants.
/// So a tenant with many queued appends does not delay the others. The order within a tenant is kept.
pub(super) fn select_batch(waiting: &mut VecDeque<PendingAppend>) -> Vec<PendingAppend> {
    let rows: usize = waiting.iter().map(row_count).sum();
    let bytes: usize = waiting.iter().map(|pending| pending.bytes).sum();
    if rows <= FLUSH_ROWS_MAX && bytes <= FLUSH_BYTES_MAX {
        return waiting.drain(..).collect();
    }
    let mut by_tenant: Vec<(TenantId, VecDeque<PendingAppend>)> = Vec::new();
    let mut slots: HashMap<TenantId, usize> = HashMap::new();
    for pending in waiting.drain(..) {
        let slot = *slots.entry(pending.tenant).or_insert_with(|| {
            by_tenant.push((pending.tenant, VecDeque::new()));
            by_tenant.len() - 1
        });
        by_tenant[slot].1.push_back(pending);
    }
    let (mut batch, mut rows, mut bytes) = (Vec::new(), 0, 0);
    // The number of tenants already served in the incomplete last round.
    let mut served = 0;
    'full: loop {
        let mut took = false;
        for (index, (_, queue)) in by_tenant.iter_mut().enumerate() {
            let Some(next) = queue.front() else { continue };
            let (more_rows, more_bytes) = (row_count(next), next.bytes);
            if !batch.is_empty()
                && (rows + more_rows > FLUSH_ROWS_MAX || bytes + more_bytes > FLUSH_BYTES_MAX)
            {
                served = index;
                break 'full;
            }
            (rows, bytes, took) = (rows + more_rows, bytes + more_bytes, true);
            batch.extend(queue.pop_front());
        }
        if !took {
            break;
        }
    }
    // The served tenants move to the end of the queue.
    by_tenant.rotate_left(served);
    *waiting = by_tenant.into_iter().flat_map(|(_, queue)| queue).collect();
    batch
}

fn row_count(pending: &PendingAppend) -> usize {
    pending.append.events.len().max(1)
}

#[cfg(test)]
mod tests {
    use schemas::engine::{Actor, EventType, Metadata, StreamName};
    use tokio::sync::oneshot;
    use uuid::Uuid;

    use super::super::capacity::QueueCapacity;
    use super::super::{ExpectedVersion, NewEvent, StreamAppend};
    use super::*;

    fn pending(tenant: u128, bytes: usize) -> PendingAppend {
        let event = NewEvent {
            event_id: None,
            event_type: EventType::parse("crm.customer.renamed.v1").expect("valid"),
            payload: "{}".into(),
            subject_keys: Vec::new(),
        };
        let stream = StreamName::new("crm.customer", Uuid::nil());
        let metadata = Metadata::new(Actor::system("test"), Uuid::nil());
        let tenant = TenantId(Uuid::from_u128(tenant));
        PendingAppend {
            tenant,
            append: StreamAppend::new(stream, ExpectedVersion::Any, vec![event], metadata),
            metadata: "{}".into(),
            event_ids: Vec::new(),
            bytes,
            attempts: 0,
            needs_version_lookup: false,
            reply: oneshot::channel().0,
            _permit: QueueCapacity::new(1, bytes).try_acquire(tenant, bytes).expect("free"),
        }
    }

    fn tenants(flush: &[PendingAppend]) -> Vec<u128> {
        flush.iter().map(|pending| pending.tenant.0.as_u128()).collect()
    }

    #[test]
    fn those_whose_turn_did_not_come_are_the_first_of_the_next_flush() {
        // A flush has space for four.
        let bytes = FLUSH_BYTES_MAX / 4;
        let mut waiting: VecDeque<PendingAppend> =
            (0..6).flat_map(|tenant| [pending(tenant, bytes), pending(tenant, bytes)]).collect();
        assert_eq!(tenants(&select_batch(&mut waiting)), [0, 1, 2, 3]);
        assert_eq!(tenants(&select_batch(&mut waiting)), [4, 5, 0, 1]);
        assert_eq!(tenants(&select_batch(&mut waiting)), [2, 3, 4, 5]);
        assert!(waiting.is_empty());
    }

    #[test]
    fn a_tenant_with_many_appends_leaves_room_for_others() {
        let bytes = FLUSH_BYTES_MAX / 4;
        let mut waiting: VecDeque<PendingAppend> = (0..20).map(|_| pending(1, bytes)).collect();
        waiting.push_back(pending(2, bytes));
        assert_eq!(tenants(&select_batch(&mut waiting)), [1, 2, 1, 1]);
    }
}
