//! Where a question about the history of one tenant is asked: in the database, or over the API with a token.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use client::Client;
use schemas::engine::{LogId, TenantSlug};
use settings::Settings;
use store::{Store, TenantRecord, TenantStore};
use terminal::Exit;

use super::remote::Access;
use super::{operator_audit, tenant};
use crate::failure::Failure;

/// The source of answers.
pub enum Source {
    /// The public API. The token says which tenant it is.
    Api(Client),
    /// The database.
    Database(TenantSource),
}

/// A tenant in the database.
pub struct TenantSource {
    store: Store,
    /// Its data.
    pub tenant: TenantStore,
    /// Its name and status.
    pub record: Arc<TenantRecord>,
}

impl Source {
    /// Opens the API if a token was given, otherwise the database. The access to the database is recorded.
    pub async fn open(
        access: &Access,
        tenant: Option<&TenantSlug>,
        settings: impl FnOnce() -> Result<Settings, Failure>,
    ) -> Result<Self, Failure> {
        if let Some(client) = access.client(tenant)? {
            return Ok(Self::Api(client));
        }
        let slug = tenant.expect("the command line requires it");
        let store = wiring::connect(&settings()?).await?;
        match find(&store, slug).await {
            Ok(record) => Ok(Self::Database(TenantSource { tenant: store.tenant(record.id), store, record })),
            Err(failure) => {
                store.shutdown().await;
                Err(failure)
            }
        }
    }

    /// The position of a moment: the given one, otherwise that of the log at a time. Without both it is the end of the
    /// log, or `None` over the API, which finds the end itself. `log` becomes the log of the position.
    ///
    /// # Errors
    /// The log is not `log`.
    pub async fn position(
        &self,
        given: Option<u64>,
        time: Option<DateTime<Utc>>,
        log: &mut Option<LogId>,
    ) -> Result<Option<u64>, Failure> {
        let (current, found) = match (self, time) {
            (Self::Api(_), None) => return Ok(given),
            (Self::Api(client), Some(time)) => {
                let found = client.log_position(time).await?;
                (found.log_id, found.position)
            }
            (Self::Database(source), time) => {
                let found = projections::log_position_at(&source.tenant, time).await?;
                (found.log, found.position)
            }
        };
        match log.replace(current) {
            Some(expected) if expected != current => Err(log_replaced(current)),
            _ => Ok(Some(given.unwrap_or(found))),
        }
    }

    /// Closes the connections.
    pub async fn close(self) {
        if let Self::Database(source) = self {
            source.store.shutdown().await;
        }
    }
}

/// Positions belong to one log. The tenant has another one now.
fn log_replaced(current: LogId) -> Failure {
    Failure::new(Exit::NotFound, anyhow::anyhow!("the log was replaced; the tenant's log is now {current}"))
}

async fn find(store: &Store, slug: &TenantSlug) -> Result<Arc<TenantRecord>, Failure> {
    let record = tenant::find(store, slug).await?;
    operator_audit::record_access(store, [record.id]).await?;
    Ok(record)
}
