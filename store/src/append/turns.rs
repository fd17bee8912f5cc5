//! Which of the waiting appends go into the next flush.

use std::collections::{HashMap, VecDeque};

use schemas::engine::TenantId;

use super::queue::Pending;

/// Most events of one flush, a receipt without events counting as one, and most bytes.
const FLUSH_ROWS: usize = 512;
const FLUSH_BYTES: usize = 2 * 1024 * 1024;

/// Takes the next flush from what waits: everything when it fits, else turn by turn, so that a tenant with many
/// appends waiting does not keep the others out. The order within a tenant stays.
pub(super) fn next_flush(waiting: &mut VecDeque<Pending>) -> Vec<Pending> {
    let rows: usize = waiting.iter().map(rows_of).sum();
    let bytes: usize = waiting.iter().map(|pending| pending.bytes).sum();
    if rows <= FLUSH_ROWS && bytes <= FLUSH_BYTES {
        return waiting.drain(..).collect();
    }
    let mut by_tenant: Vec<(TenantId, VecDeque<Pending>)> = Vec::new();
    let mut places: HashMap<TenantId, usize> = HashMap::new();
    for pending in waiting.drain(..) {
        let place = *places.entry(pending.tenant).or_insert_with(|| {
            by_tenant.push((pending.tenant, VecDeque::new()));
            by_tenant.len() - 1
        });
        by_tenant[place].1.push_back(pending);
    }
    let (mut batch, mut rows, mut bytes) = (Vec::new(), 0, 0);
    'full: loop {
        let mut took = false;
        for (_, queue) in &mut by_tenant {
            let Some(next) = queue.front() else { continue };
            let (more_rows, more_bytes) = (rows_of(next), next.bytes);
            if !batch.is_empty() && (rows + more_rows > FLUSH_ROWS || bytes + more_bytes > FLUSH_BYTES) {
                break 'full;
            }
            (rows, bytes, took) = (rows + more_rows, bytes + more_bytes, true);
            batch.extend(queue.pop_front());
        }
        if !took {
            break;
        }
    }
    // A tenant that got its turn goes behind those that are still waiting for theirs.
    let turns = usize::from(by_tenant.len() > 1);
    by_tenant.rotate_left(turns);
    *waiting = by_tenant.into_iter().flat_map(|(_, queue)| queue).collect();
    batch
}

fn rows_of(pending: &Pending) -> usize {
    pending.append.events.len().max(1)
}
