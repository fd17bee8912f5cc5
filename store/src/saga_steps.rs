//! The work list of the sagas, looked at across tenants. The rows themselves are written and read by the sagas, one
//! tenant at a time.

use chrono::{DateTime, Utc};
use schemas::engine::TenantId;
use uuid::Uuid;

use crate::pools::get;
use crate::{Store, StoreError};

/// A step that is due.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DueStep {
    /// Whose.
    pub tenant: TenantId,
    /// The saga's instance.
    pub instance: Uuid,
    /// The step's label.
    pub step: String,
}

impl Store {
    /// Steps of a saga whose time has come, longest waiting first.
    pub async fn due_saga_steps(
        &self,
        saga: &str,
        now: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<DueStep>, StoreError> {
        let rows = get(&self.0.pools.worker)
            .await?
            .query(
                "select tenant_id, instance, step from saga_steps
                 where saga = $1 and status = 'pending' and next_attempt_at <= $2
                 order by next_attempt_at limit $3",
                &[&saga, &now, &i64::from(limit)],
            )
            .await?;
        let step = |row: &tokio_postgres::Row| DueStep {
            tenant: TenantId(row.get(0)),
            instance: row.get(1),
            step: row.get(2),
        };
        Ok(rows.iter().map(step).collect())
    }
}
