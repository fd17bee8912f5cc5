//! Used tickets of event streams: each ticket works once, over all gateways.

use std::time::Duration;

use chrono::{DateTime, Utc};
use schemas::engine::clock;
use uuid::Uuid;

use crate::{StoreError, TenantStore};

/// How long a used ticket is kept after its expiry. The clocks of two gateways may differ by less.
const CLOCK_SKEW_MAX: Duration = Duration::from_mins(5);

impl TenantStore {
    /// Uses a ticket. Returns `false` when it was used before.
    pub async fn use_stream_ticket(&self, id: Uuid, expires_at: DateTime<Utc>) -> Result<bool, StoreError> {
        let transaction = self.begin_worker_transaction().await?;
        let used = transaction
            .execute(
                "insert into stream_tickets (tenant_id, ticket_id, expires_at) values ($1, $2, $3)
                 on conflict do nothing",
                &[&self.id().0, &id, &expires_at],
            )
            .await?;
        transaction
            .execute(
                "delete from stream_tickets where tenant_id = $1 and expires_at < $2",
                &[&self.id().0, &(clock::now() - CLOCK_SKEW_MAX)],
            )
            .await?;
        transaction.commit().await?;
        Ok(used == 1)
    }
}
