//! Encrypts all data keys with another root key, while processes use them.
//!
//! A process that does not know the new epoch yet creates keys of the earlier one.
//! A foreign key from keys to epochs keeps that epoch, so pages are read again until the earlier epochs can be deleted.

use schemas::engine::TenantId;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, error::SqlState};
use uuid::Uuid;

use super::connections::Connections;
use super::{begin_first_epoch, fingerprint, newest_epoch, query, roots_of};
use crate::crypto::KeyContext;
use crate::key::Subject;
use crate::{KeyDatabase, KeyringError, RewrapResult, RootKeys, epochs};

/// Maximum keys per statement.
const PAGE_SIZE: i64 = 200;
/// Maximum passes over all keys, while other processes create keys of an earlier epoch.
const PASSES_MAX: u32 = 20;

/// Encrypts every data key with the current root key, and ends earlier epochs.
/// `on_progress` is called with the number of finished keys and of all keys.
pub(crate) async fn rewrap(
    database: &KeyDatabase,
    roots: &RootKeys,
    on_progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<RewrapResult, KeyringError> {
    let connections = Connections::new(database, 1)?;
    connections
        .run(async |client| {
            begin_first_epoch(client, roots).await?;
            epochs::ensure_roots_known(roots, roots_of(client).await?)
                .map_err(|error| KeyringError::Config(format!("the keys in {database}: {error}")))?;
            let epoch = begin(client, roots).await?;
            let sql = "select count(*) from keys where epoch < $1";
            let total: i64 = query(client, sql, [number(&epoch)]).await?[0].get(0);
            let (mut done, mut broken) = (0, Vec::new());
            for _ in 0..PASSES_MAX {
                let mut after = (TenantId(Uuid::nil()), Uuid::nil());
                while let Some(last) = page(client, roots, epoch, after, &mut done, &mut broken).await? {
                    after = last;
                    on_progress(done, total as u64);
                }
                epochs::ensure_unwrapped(&broken)?;
                if end_earlier_epochs(client, epoch).await? {
                    return Ok(RewrapResult { epoch, keys: done });
                }
            }
            Err(KeyringError::Unavailable("other processes keep making keys of an earlier epoch".to_owned()))
        })
        .await
}

fn number(number: &i64) -> (&(dyn ToSql + Sync), Type) {
    (number, Type::INT8)
}

/// The epoch of the current root key, created if the newest epoch has another root key.
async fn begin(client: &Client, roots: &RootKeys) -> Result<i64, KeyringError> {
    let (mut epoch, root) = newest_epoch(client).await?;
    if root != roots.current() {
        epoch += 1;
        let root: &[u8] = &roots.current();
        let sql = "insert into epochs (epoch, root) values ($1, $2) on conflict do nothing";
        query(client, sql, [number(&epoch), (&root, Type::BYTEA)]).await?;
    }
    ensure_newest_epoch(client, roots, epoch).await?;
    Ok(epoch)
}

async fn ensure_newest_epoch(client: &Client, roots: &RootKeys, epoch: i64) -> Result<(), KeyringError> {
    if newest_epoch(client).await? == (epoch, roots.current()) {
        return Ok(());
    }
    Err(KeyringError::Unavailable("keys are being wrapped under another root key".to_owned()))
}

/// Deletes the epochs before this one. Returns `false` when keys of them exist again.
async fn end_earlier_epochs(client: &Client, epoch: i64) -> Result<bool, KeyringError> {
    let sql = "delete from epochs where epoch < $1 and not exists (select 1 from keys where keys.epoch < $1)";
    match client.query_typed(sql, &[number(&epoch)]).await {
        Err(error) if error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION) => return Ok(false),
        ended => drop(ended?),
    }
    let left = query(client, "select 1 from epochs where epoch < $1", [number(&epoch)]).await?;
    Ok(left.is_empty())
}

/// Encrypts a page of keys again. Returns the subject after which the next page starts.
/// `broken` receives the ids of keys that do not decrypt.
async fn page(
    client: &Client,
    roots: &RootKeys,
    epoch: i64,
    (tenant, subject): Subject,
    done: &mut u64,
    broken: &mut Vec<Uuid>,
) -> Result<Option<Subject>, KeyringError> {
    const READ: &str = "
        select tenant, subject, id, epoch, wrapped, root from keys join epochs using (epoch)
        where epoch < $1 and (tenant, subject) > ($2, $3) order by tenant, subject limit $4";
    const WRITE: &str = "
        update keys set epoch = $1, wrapped = renewed.wrapped
        from unnest($2, $3, $4, $5) as renewed (tenant, subject, earlier, wrapped)
        where keys.tenant = renewed.tenant and keys.subject = renewed.subject and keys.wrapped = renewed.earlier
        returning 1";
    ensure_newest_epoch(client, roots, epoch).await?;
    let behind: [(&(dyn ToSql + Sync), Type); 2] = [(&tenant.0, Type::UUID), (&subject, Type::UUID)];
    let [tenant, subject] = behind;
    let rows = query(client, READ, [number(&epoch), tenant, subject, number(&PAGE_SIZE)]).await?;
    let Some(last) = rows.last().map(subject_of) else { return Ok(None) };
    let current = epochs::root_of(roots, Some(&roots.current()))?;
    let (mut tenants, mut subjects, mut before, mut after) = (vec![], vec![], vec![], vec![]);
    for row in &rows {
        let (tenant, subject) = subject_of(row);
        let context = KeyContext { tenant, epoch: row.get(3), subject, key: row.get(2) };
        let wrapped: &[u8] = row.get(4);
        let root = fingerprint(row.get(5))?;
        let Ok(data_key) =
            epochs::root_of(roots, Some(&root)).and_then(|root| root.unwrap(&context, wrapped))
        else {
            broken.push(context.key);
            continue;
        };
        tenants.push(tenant.0);
        subjects.push(subject);
        before.push(wrapped);
        after.push(current.wrap(&KeyContext { epoch, ..context }, &data_key));
    }
    let written: [(&(dyn ToSql + Sync), Type); 5] = [
        number(&epoch),
        (&tenants, Type::UUID_ARRAY),
        (&subjects, Type::UUID_ARRAY),
        (&before, Type::BYTEA_ARRAY),
        (&after, Type::BYTEA_ARRAY),
    ];
    *done += query(client, WRITE, written).await?.len() as u64;
    Ok(Some(last))
}

fn subject_of(row: &Row) -> Subject {
    (TenantId(row.get(0)), row.get(1))
}
