//! Operations of a tenant on integrators' credentials: issue, rotate, revoke, reset, list.

use std::time::Duration;

use chrono::{DateTime, Utc};
use schemas::engine::LogId;
use store::sql::Row;
use store::{StoreError, TenantStore, TenantTransaction};
use uuid::Uuid;

use super::{COLUMNS, CREDENTIALS_MAX, IntegratorCredential, UNEXPIRED_KEYS_MAX, credential_from};

/// Poll interval of a caller that waits for a change on NATS.
const APPLIED_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A key to issue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// The id of the key.
    pub id: Uuid,
    /// The public NATS user key.
    pub public_key: String,
    /// The time of issue.
    pub issued_at: DateTime<Utc>,
    /// The expiry.
    pub expires_at: DateTime<Utc>,
}

/// A credential to issue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCredential {
    /// The id of the credential.
    pub id: Uuid,
    /// The name, unique in the tenant.
    pub name: String,
    /// The name of the consumer on NATS.
    pub consumer: String,
    /// Patterns of event types; empty selects all.
    pub types: Vec<String>,
    /// The consumer starts after this position.
    pub after: u64,
    /// The log of the position.
    pub log_id: LogId,
    /// The first key.
    pub key: NewKey,
}

/// The idempotency key of a request, with a digest of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntegratorCommand {
    /// The idempotency key.
    pub id: Uuid,
    /// The digest; equal only for the same request.
    pub digest: [u8; 32],
}

/// The effect of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct IntegratorChange {
    /// The credential after the change.
    pub credential: IntegratorCredential,
    /// The revision made by the request.
    pub revision: u64,
    /// The issued key, if any.
    pub key: Option<NewKey>,
}

/// The result of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum IntegratorOutcome {
    /// Done, now or at the first time.
    Done(Box<IntegratorChange>),
    /// Another credential has the name.
    NameTaken,
    /// No credential has the name.
    NotFound,
    /// The tenant has the maximum of credentials or unexpired keys.
    TooMany,
    /// The idempotency key was used for another request.
    CommandIdReused,
}

use IntegratorOutcome::{CommandIdReused, Done, NameTaken, NotFound, TooMany};

/// The result of an earlier request with this idempotency key.
///
/// # Errors
/// [`StoreError`] when the database does not answer, [`StoreError::Corrupt`] when the credential of the result is
/// missing.
pub async fn previous(
    tenant: &TenantStore,
    command: IntegratorCommand,
) -> Result<Option<IntegratorOutcome>, StoreError> {
    let transaction = tenant.begin_worker_transaction().await?;
    let found = previous_result(&transaction, Some(command)).await?;
    transaction.commit().await?;
    Ok(found)
}

/// Registers a credential with its first key.
///
/// # Errors
/// [`StoreError::Unavailable`] when the same command is being executed; retry it.
pub async fn issue(
    tenant: &TenantStore,
    new: &NewCredential,
    command: Option<IntegratorCommand>,
) -> Result<IntegratorOutcome, StoreError> {
    let transaction = tenant.begin_worker_transaction().await?;
    if let Some(first) = previous_result(&transaction, command).await? {
        return Ok(first);
    }
    sweep(&transaction).await?;
    if is_full(&transaction, CREDENTIALS_MAX - 1).await? {
        return Ok(TooMany);
    }
    let inserted = transaction
        .execute_named(
            "insert into integrator_credentials
                 (tenant_id, credential_id, name, consumer, types, created_at, revision, instance, log_id,
                  acked_position)
             values (:tenant_id, :credential_id, :name, :consumer, :types, :created_at, 1, 1, :log_id, :after)
             on conflict (tenant_id, name) where revoked_at is null do nothing",
            &[
                ("tenant_id", &tenant.id().0),
                ("credential_id", &new.id),
                ("name", &new.name),
                ("consumer", &new.consumer),
                ("types", &new.types),
                ("created_at", &new.key.issued_at),
                ("log_id", &new.log_id.0),
                ("after", &(new.after as i64)),
            ],
        )
        .await?;
    if inserted == 0 {
        return Ok(NameTaken);
    }
    insert_key(&transaction, new.id, &new.key).await?;
    finish(transaction, new.id, Some(&new.key), command).await
}

/// Issues another key for a credential. The earlier keys expire at `earlier_until`.
///
/// # Errors
/// [`StoreError::Unavailable`] when the same command is being executed; retry it.
pub async fn rotate(
    tenant: &TenantStore,
    name: &str,
    key: &NewKey,
    earlier_until: DateTime<Utc>,
    command: Option<IntegratorCommand>,
) -> Result<IntegratorOutcome, StoreError> {
    let transaction = tenant.begin_worker_transaction().await?;
    if let Some(first) = previous_result(&transaction, command).await? {
        return Ok(first);
    }
    sweep(&transaction).await?;
    if is_full(&transaction, CREDENTIALS_MAX).await? {
        return Ok(TooMany);
    }
    let Some(id) = bump_revision(&transaction, name, "").await? else { return Ok(NotFound) };
    transaction
        .execute(
            "update integrator_keys set revoked_at = $3
             where tenant_id = $1 and credential_id = $2 and (revoked_at is null or revoked_at > $3)",
            &[&tenant.id().0, &id, &earlier_until],
        )
        .await?;
    insert_key(&transaction, id, key).await?;
    finish(transaction, id, Some(key), command).await
}

/// Revokes a credential with all its keys. The name can be used again.
///
/// # Errors
/// [`StoreError::Unavailable`] when the same command is being executed; retry it.
pub async fn revoke(
    tenant: &TenantStore,
    name: &str,
    command: Option<IntegratorCommand>,
) -> Result<IntegratorOutcome, StoreError> {
    let transaction = tenant.begin_worker_transaction().await?;
    if let Some(first) = previous_result(&transaction, command).await? {
        return Ok(first);
    }
    let Some(id) = bump_revision(&transaction, name, ", revoked_at = now()").await? else {
        return Ok(NotFound);
    };
    finish(transaction, id, None, command).await
}

/// Restarts the consumer of a credential after a position.
///
/// # Errors
/// [`StoreError::Unavailable`] when the same command is being executed; retry it.
pub async fn reset(
    tenant: &TenantStore,
    name: &str,
    log_id: LogId,
    after: u64,
    command: Option<IntegratorCommand>,
) -> Result<IntegratorOutcome, StoreError> {
    let transaction = tenant.begin_worker_transaction().await?;
    if let Some(first) = previous_result(&transaction, command).await? {
        return Ok(first);
    }
    let Some(id) = bump_revision(&transaction, name, ", instance = instance + 1").await? else {
        return Ok(NotFound);
    };
    transaction
        .execute(
            "update integrator_credentials
             set log_id = $3, acked_position = $4, acked_generation = -1, hold_sequence = 0
             where tenant_id = $1 and credential_id = $2",
            &[&tenant.id().0, &id, &log_id.0, &(after as i64)],
        )
        .await?;
    finish(transaction, id, None, command).await
}

/// The credential with this name that is not revoked.
///
/// # Errors
/// [`StoreError`] when the database does not answer.
pub async fn find(tenant: &TenantStore, name: &str) -> Result<Option<IntegratorCredential>, StoreError> {
    let transaction = tenant.begin().await?;
    let statement = format!(
        "select {COLUMNS} from integrator_credentials c
         where c.tenant_id = $1 and c.name = $2 and c.revoked_at is null"
    );
    let row = transaction.query_opt(&statement, &[&tenant.id().0, &name]).await?;
    transaction.commit().await?;
    Ok(row.as_ref().map(credential_from))
}

/// A page of the credentials that are not revoked, by name, after `after`.
///
/// # Errors
/// [`StoreError`] when the database does not answer.
pub async fn page(
    tenant: &TenantStore,
    after: &str,
    limit: u32,
) -> Result<Vec<IntegratorCredential>, StoreError> {
    let transaction = tenant.begin().await?;
    let statement = format!(
        "select {COLUMNS} from integrator_credentials c
         where c.tenant_id = $1 and c.name > $2 and c.revoked_at is null order by c.name limit $3"
    );
    let rows = transaction.query(&statement, &[&tenant.id().0, &after, &i64::from(limit)]).await?;
    transaction.commit().await?;
    Ok(rows.iter().map(credential_from).collect())
}

/// Waits until a change is applied to NATS. Returns `false` after `timeout`.
///
/// # Errors
/// [`StoreError`] when the database does not answer.
pub async fn wait_until_applied(
    tenant: &TenantStore,
    change: &IntegratorChange,
    timeout: Duration,
) -> Result<bool, StoreError> {
    let give_up = tokio::time::Instant::now() + timeout;
    let revision = change.revision as i64;
    loop {
        let transaction = tenant.begin().await?;
        let row = transaction
            .query_opt(
                "select keys_applied >= $3 and consumer_applied >= $3 from integrator_credentials
                 where tenant_id = $1 and credential_id = $2",
                &[&tenant.id().0, &change.credential.id, &revision],
            )
            .await?;
        transaction.commit().await?;
        // A credential without a row was revoked long ago and removed.
        if row.is_none_or(|row| row.get(0)) {
            return Ok(true);
        }
        if tokio::time::Instant::now() + APPLIED_POLL_INTERVAL >= give_up {
            return Ok(false);
        }
        tokio::time::sleep(APPLIED_POLL_INTERVAL).await;
    }
}

const KEY_COLUMNS: &str = "key_id, public_key, issued_at, expires_at";

fn key_from(row: &Row) -> NewKey {
    NewKey { id: row.get(0), public_key: row.get(1), issued_at: row.get(2), expires_at: row.get(3) }
}

/// The result of the first request with this idempotency key.
async fn previous_result(
    transaction: &TenantTransaction,
    command: Option<IntegratorCommand>,
) -> Result<Option<IntegratorOutcome>, StoreError> {
    let Some(command) = command else { return Ok(None) };
    let tenant = transaction.tenant().0;
    let row = transaction
        .query_opt(
            "select digest, credential_id, key_id, revision from integrator_commands
             where tenant_id = $1 and command_id = $2",
            &[&tenant, &command.id],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    if row.get::<_, &[u8]>(0) != command.digest {
        return Ok(Some(CommandIdReused));
    }
    let credential = by_id(transaction, row.get(1)).await?;
    let key = match row.get::<_, Option<Uuid>>(2) {
        Some(key) => {
            let statement =
                format!("select {KEY_COLUMNS} from integrator_keys where tenant_id = $1 and key_id = $2");
            transaction.query_opt(&statement, &[&tenant, &key]).await?.as_ref().map(key_from)
        }
        None => None,
    };
    let revision = row.get::<_, i64>(3) as u64;
    Ok(Some(Done(Box::new(IntegratorChange { credential, revision, key }))))
}

async fn by_id(transaction: &TenantTransaction, id: Uuid) -> Result<IntegratorCredential, StoreError> {
    let statement = format!(
        "select {COLUMNS} from integrator_credentials c where c.tenant_id = $1 and c.credential_id = $2"
    );
    let row = transaction.query_opt(&statement, &[&transaction.tenant().0, &id]).await?;
    row.as_ref()
        .map(credential_from)
        .ok_or_else(|| StoreError::Corrupt("a credential is not there".to_owned()))
}

/// Increments the revision of a credential, with a further change in SQL, and returns its id.
async fn bump_revision(
    transaction: &TenantTransaction,
    name: &str,
    change: &'static str,
) -> Result<Option<Uuid>, StoreError> {
    let statement = format!(
        "update integrator_credentials set revision = revision + 1{change}
         where tenant_id = $1 and name = $2 and revoked_at is null returning credential_id"
    );
    let row = transaction.query_opt(&statement, &[&transaction.tenant().0, &name]).await?;
    Ok(row.map(|row| row.get(0)))
}

async fn insert_key(
    transaction: &TenantTransaction,
    credential: Uuid,
    key: &NewKey,
) -> Result<(), StoreError> {
    transaction
        .execute_named(
            "insert into integrator_keys (tenant_id, key_id, credential_id, public_key, issued_at, expires_at)
             values (:tenant_id, :key_id, :credential_id, :public_key, :issued_at, :expires_at)",
            &[("tenant_id", &transaction.tenant().0), ("key_id", &key.id), ("credential_id", &credential), ("public_key", &key.public_key), ("issued_at", &key.issued_at), ("expires_at", &key.expires_at)],
        )
        .await?;
    Ok(())
}

async fn is_full(transaction: &TenantTransaction, max: i64) -> Result<bool, StoreError> {
    let row = transaction
        .query_opt(
            "select (select count(*) from integrator_credentials where tenant_id = $1 and revoked_at is null) > $2
                 or (select count(*) from integrator_keys where tenant_id = $1 and expires_at > now()) >= $3",
            &[&transaction.tenant().0, &max, &UNEXPIRED_KEYS_MAX],
        )
        .await?;
    Ok(row.is_some_and(|row| row.get(0)))
}

/// Removes rows that no repeat and no revocation needs any more.
async fn sweep(transaction: &TenantTransaction) -> Result<(), StoreError> {
    for statement in [
        "delete from integrator_commands where tenant_id = $1 and done_at < now() - interval '100 days'",
        "delete from integrator_credentials where tenant_id = $1 and revoked_at < now() - interval '100 days'
             and keys_applied >= revision and consumer_applied >= revision",
        "delete from integrator_keys k where tenant_id = $1 and expires_at < now() - interval '10 days'
             and not exists (select from integrator_credentials c
                             where c.tenant_id = k.tenant_id and c.credential_id = k.credential_id)",
    ] {
        transaction.execute(statement, &[&transaction.tenant().0]).await?;
    }
    Ok(())
}

/// Stores the command and commits.
///
/// # Errors
/// [`StoreError::Unavailable`] for the second of two concurrent commands with one idempotency key.
async fn finish(
    transaction: TenantTransaction,
    id: Uuid,
    key: Option<&NewKey>,
    command: Option<IntegratorCommand>,
) -> Result<IntegratorOutcome, StoreError> {
    let credential = by_id(&transaction, id).await?;
    if let Some(IntegratorCommand { id: command, digest }) = command {
        let noted = transaction
            .execute_named(
                "insert into integrator_commands
                     (tenant_id, command_id, digest, credential_id, key_id, revision, done_at)
                 values (:tenant_id, :command_id, :digest, :credential_id, :key_id, :revision, now()) on conflict (tenant_id, command_id) do nothing",
                &[("tenant_id", &transaction.tenant().0), ("command_id", &command), ("digest", &digest.as_slice()), ("credential_id", &id), ("key_id", &key.map(|key| key.id)), ("revision", &(credential.revision as i64))],
            )
            .await?;
        if noted == 0 {
            // A concurrent repeat was faster. This transaction rolls back; a retry finds the stored result.
            return Err(StoreError::Unavailable("the same command is being executed".to_owned()));
        }
    }
    transaction.commit().await?;
    let revision = credential.revision;
    Ok(Done(Box::new(IntegratorChange { credential, revision, key: key.cloned() })))
}
