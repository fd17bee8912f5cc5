//! Connections over all tenants, for the engines that serve all of them.
//!
//! Grants and row-level security limit each role to the tables that its engine needs (`docs/roles.md`).
//! Handlers of requests use a tenant handle: `clippy.toml` forbids [`Store::cross_tenant_connection`] outside the engines.

use database::PooledConnection;

use crate::pools::get;
use crate::{Store, StoreError};

/// A runtime role that sees rows of all tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrossTenantRole {
    /// Finds due work of projections, sagas and webhooks.
    Worker,
    /// Reads all logs to publish them, and the registry of integrators to apply it to NATS.
    Relay,
    /// Reads leaves, and writes Merkle trees and signed checkpoints.
    Sealer,
}

impl Store {
    /// A connection of a role over all tenants.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when no connection becomes free in time, or when PostgreSQL does not answer.
    pub async fn cross_tenant_connection(
        &self,
        role: CrossTenantRole,
    ) -> Result<PooledConnection, StoreError> {
        let pools = &self.0.pools;
        get(match role {
            CrossTenantRole::Worker => &pools.worker,
            CrossTenantRole::Relay => &pools.relay,
            CrossTenantRole::Sealer => &pools.sealer,
        })
        .await
    }
}
