//! The registry of integrators' credentials, with the acknowledged position of each.
//!
//! The credential reconciler applies it to NATS, for all tenants. `commands` has the operations of a tenant.

pub mod commands;

use chrono::{DateTime, Utc};
use schemas::engine::{LogId, TenantId, TenantSlug};
use store::sql::{PooledConnection, Row, ToSql};
use store::{Store, StoreError};
use uuid::Uuid;

use crate::relay::progress::connection;

pub use commands::{IntegratorChange, IntegratorCommand, IntegratorOutcome, NewCredential, NewKey};

/// Maximum credentials per tenant that are not revoked.
pub const CREDENTIALS_MAX: i64 = 100;
/// Maximum unexpired keys per tenant, including revoked ones.
/// Revoked keys are listed in the JWT of the integrators' account until they expire.
pub const UNEXPIRED_KEYS_MAX: i64 = 200;

/// The id of an advisory lock; it must differ from the other lock ids.
const KEYS_LOCK_ID: i64 = 0x414e_4e45_4447;

/// The position that an integrator has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckedPosition {
    /// The log of the position.
    pub log_id: LogId,
    /// Every event of the credential's types up to this position is acknowledged.
    pub position: u64,
    /// The relay's stream epoch when it was found; `None` before the first observation.
    pub stream_epoch: Option<u32>,
    /// Below this stream position, a lower log position may follow a higher one.
    pub out_of_order_below: u64,
}

/// A credential in the registry.
#[derive(Debug, Clone, PartialEq)]
pub struct IntegratorCredential {
    /// The tenant.
    pub tenant: TenantId,
    /// The id.
    pub id: Uuid,
    /// The name; unique among the tenant's credentials that are not revoked.
    pub name: String,
    /// The name of its consumer on the stream `EVENTS`.
    pub consumer: String,
    /// Patterns of event types; empty selects all.
    pub types: Vec<String>,
    /// The time of issue.
    pub created_at: DateTime<Utc>,
    /// The time of revocation.
    pub revoked_at: Option<DateTime<Utc>>,
    /// Grows with each change.
    pub revision: u64,
    /// Whether NATS is up to date with the registry.
    pub applied: bool,
    /// The number of the consumer under this name. It grows when the consumer restarts at another position.
    pub instance: u32,
    /// The acknowledged position.
    pub acked: AckedPosition,
    /// The expiry of its newest key.
    pub expires_at: Option<DateTime<Utc>>,
}

const COLUMNS: &str =
    "c.tenant_id, c.credential_id, c.name, c.consumer, c.types, c.created_at, c.revoked_at, c.revision, \
     c.keys_applied >= c.revision and c.consumer_applied >= c.revision as applied, c.instance, c.log_id, \
     c.acked_position, c.acked_generation, c.hold_sequence, \
     (select max(k.expires_at) from integrator_keys k
      where k.tenant_id = c.tenant_id and k.credential_id = c.credential_id) as expires_at";

fn credential_from(row: &Row) -> IntegratorCredential {
    IntegratorCredential {
        tenant: TenantId(row.get("tenant_id")),
        id: row.get("credential_id"),
        name: row.get("name"),
        consumer: row.get("consumer"),
        types: row.get("types"),
        created_at: row.get("created_at"),
        revoked_at: row.get("revoked_at"),
        revision: row.get::<_, i64>("revision") as u64,
        applied: row.get("applied"),
        instance: row.get::<_, i32>("instance") as u32,
        acked: AckedPosition {
            log_id: LogId(row.get("log_id")),
            position: row.get::<_, i64>("acked_position") as u64,
            stream_epoch: u32::try_from(row.get::<_, i32>("acked_generation")).ok(),
            out_of_order_below: row.get::<_, i64>("hold_sequence") as u64,
        },
        expires_at: row.get("expires_at"),
    }
}

/// A user key that NATS must reject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedKey {
    /// The public key.
    pub public_key: String,
    /// The issue time of its JWT.
    pub issued_at: DateTime<Utc>,
}

/// The keys to reject, read under a lock of all processes, so that an older list never replaces a newer one.
/// Dropped without [`applied`](Self::applied), it changes nothing.
pub struct RevokedKeys {
    connection: PooledConnection,
    /// The included changes: tenants, credentials and revisions.
    changes: (Vec<Uuid>, Vec<Uuid>, Vec<i64>),
    keys: Vec<RevokedKey>,
}

impl RevokedKeys {
    /// The keys to reject.
    pub fn keys(&self) -> &[RevokedKey] {
        &self.keys
    }

    /// Records that NATS has these keys, and releases the lock.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer. Then the changes may stay due.
    pub async fn applied(self) -> Result<(), StoreError> {
        let connection = self.connection;
        let (tenants, credentials, revisions) = self.changes;
        if !tenants.is_empty() {
            connection
                .execute(
                    "update integrator_credentials c set keys_applied = a.revision
                     from unnest($1::uuid[], $2::uuid[], $3::int8[]) as a(tenant_id, credential_id, revision)
                     where c.tenant_id = a.tenant_id and c.credential_id = a.credential_id
                       and c.keys_applied < a.revision",
                    &[&tenants as &(dyn ToSql + Sync), &credentials, &revisions],
                )
                .await?;
        }
        Ok(connection.commit().await?)
    }
}

/// An observed acknowledged position, valid for one instance of the consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObservedPosition {
    /// The tenant.
    pub tenant: TenantId,
    /// The id of the credential.
    pub credential: Uuid,
    /// The instance of the consumer.
    pub instance: u32,
    /// The observed position.
    pub acked: AckedPosition,
}

/// The keys that NATS must reject now: revoked keys, and keys of revoked credentials or suspended tenants.
/// Returns `None` while another process holds the lock.
///
/// # Errors
/// [`StoreError`] when the database does not answer.
pub async fn lock_revoked_keys(store: &Store) -> Result<Option<RevokedKeys>, StoreError> {
    let connection = connection(store).await?;
    connection.begin("begin").await?;
    let free: bool =
        connection.query_one("select pg_try_advisory_xact_lock($1)", &[&KEYS_LOCK_ID]).await?.get(0);
    if !free {
        connection.commit().await?;
        return Ok(None);
    }
    // Read the revisions before the keys, so that the keys include these revisions.
    let due = connection
        .query(
            "select tenant_id, credential_id, revision from integrator_credentials where keys_applied < revision",
            &[],
        )
        .await?;
    let keys = connection
        .query(
            "select k.public_key, k.issued_at from integrator_keys k
             join integrator_credentials c on c.tenant_id = k.tenant_id and c.credential_id = k.credential_id
             join tenants t on t.tenant_id = k.tenant_id
             where k.expires_at > now() and (k.revoked_at <= now() or c.revoked_at is not null or t.suspended)",
            &[],
        )
        .await?;
    let keys = keys.iter().map(|row| RevokedKey { public_key: row.get(0), issued_at: row.get(1) }).collect();
    let mut changes = (Vec::new(), Vec::new(), Vec::new());
    for row in &due {
        changes.0.push(row.get(0));
        changes.1.push(row.get(1));
        changes.2.push(row.get(2));
    }
    Ok(Some(RevokedKeys { connection, changes, keys }))
}

/// Whether changes must be applied to NATS: of keys, and of consumers.
///
/// # Errors
/// [`StoreError`] when the database does not answer.
pub async fn changes_due(store: &Store) -> Result<(bool, bool), StoreError> {
    let connection = connection(store).await?;
    let statement = "select coalesce(bool_or(keys_applied < revision), false),
                    coalesce(bool_or(consumer_applied < revision), false)
             from integrator_credentials where keys_applied < revision or consumer_applied < revision";
    let row = connection.query_one(statement, &[]).await?;
    Ok((row.get(0), row.get(1)))
}

/// The credentials of all tenants, with the tenants' slugs.
/// Returns those with unapplied changes of their consumer, and with `all` the others that are not revoked too.
///
/// # Errors
/// [`StoreError`] when the database does not answer, [`StoreError::Corrupt`] when a stored slug is not valid.
pub async fn credentials(
    store: &Store,
    all: bool,
) -> Result<Vec<(TenantSlug, IntegratorCredential)>, StoreError> {
    let connection = connection(store).await?;
    let statement = format!(
        "select {COLUMNS}, t.slug from integrator_credentials c join tenants t on t.tenant_id = c.tenant_id
         where c.consumer_applied < c.revision or ($1 and c.revoked_at is null)
         order by c.tenant_id, c.credential_id"
    );
    let rows = connection.query(&statement, &[&all]).await?;
    rows.iter().map(|row| Ok((TenantSlug::parse(row.get("slug"))?, credential_from(row)))).collect()
}

/// Records that the consumer of this revision is applied to NATS.
///
/// # Errors
/// [`StoreError`] when the database does not answer.
pub async fn set_consumer_applied(
    store: &Store,
    credential: &IntegratorCredential,
) -> Result<(), StoreError> {
    connection(store)
        .await?
        .execute(
            "update integrator_credentials set consumer_applied = $3
             where tenant_id = $1 and credential_id = $2 and consumer_applied < $3",
            &[&credential.tenant.0, &credential.id, &(credential.revision as i64)],
        )
        .await?;
    Ok(())
}

/// Stores acknowledged positions. Observations of another instance of the consumer are ignored.
///
/// # Errors
/// [`StoreError`] when the database does not answer.
pub async fn record_acked_positions(store: &Store, found: &[ObservedPosition]) -> Result<(), StoreError> {
    if found.is_empty() {
        return Ok(());
    }
    let tenants: Vec<Uuid> = found.iter().map(|one| one.tenant.0).collect();
    let credentials: Vec<Uuid> = found.iter().map(|one| one.credential).collect();
    let instances: Vec<i32> = found.iter().map(|one| one.instance as i32).collect();
    let logs: Vec<Uuid> = found.iter().map(|one| one.acked.log_id.0).collect();
    let positions: Vec<i64> = found.iter().map(|one| one.acked.position as i64).collect();
    let generations: Vec<i32> = found
        .iter()
        .map(|one| one.acked.stream_epoch.map_or(-1, |stream_epoch| stream_epoch as i32))
        .collect();
    let holds: Vec<i64> = found.iter().map(|one| one.acked.out_of_order_below as i64).collect();
    connection(store)
        .await?
        .execute_named(
            "update integrator_credentials c
             set log_id = f.log_id, acked_position = f.position, acked_generation = f.generation,
                 hold_sequence = f.hold
             from unnest(:tenants::uuid[], :credentials::uuid[], :instances::int4[], :logs::uuid[], :positions::int8[],
                             :generations::int4[], :holds::int8[])
                 as f(tenant_id, credential_id, instance, log_id, position, generation, hold)
             where c.tenant_id = f.tenant_id and c.credential_id = f.credential_id and c.instance = f.instance",
            &[
                ("tenants", &tenants),
                ("credentials", &credentials),
                ("instances", &instances),
                ("logs", &logs),
                ("positions", &positions),
                ("generations", &generations),
                ("holds", &holds),
            ],
        )
        .await?;
    Ok(())
}

/// A lower bound of the recording time of events after `position`.
/// It is the time of the next event, or else of the head.
///
/// # Errors
/// [`StoreError`] when the database does not answer.
pub async fn recorded_after(
    store: &Store,
    tenant: TenantId,
    position: u64,
) -> Result<Option<DateTime<Utc>>, StoreError> {
    let row = connection(store)
        .await?
        .query_opt(
            "select coalesce((select recorded_at from events where tenant_id = $1 and position = $2), h.recorded_at)
             from heads h where h.tenant_id = $1",
            &[&tenant.0, &(position.saturating_add(1) as i64)],
        )
        .await?;
    Ok(row.map(|row| row.get(0)))
}
