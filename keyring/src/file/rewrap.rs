//! Encrypts all data keys with another root key, while processes use them.
//!
//! Each page is one transaction with the write lock.
//! So a key that is destroyed meanwhile is either already gone, or rewrapped first and destroyed afterwards.
//! Earlier epochs end when the file has no bytes of their encrypted keys. The next run completes an interrupted one.

use std::collections::HashSet;
use std::path::Path;

use rusqlite::{Connection, TransactionBehavior, params};
use schemas::engine::TenantId;
use uuid::Uuid;

use super::{bytes, schema};
use crate::crypto::{Fingerprint, KeyContext, NONCE_BYTES};
use crate::{KeyringError, RewrapResult, RootKeys, epochs};

/// Maximum keys per transaction, because processes that create keys wait for it.
const PAGE_SIZE: u32 = 200;

/// A key of an earlier epoch.
struct Row {
    context: KeyContext,
    slot: i64,
    wrapped: Vec<u8>,
    root: Option<Fingerprint>,
}

/// Encrypts every data key in the folder with the current root key, and ends earlier epochs.
/// `on_progress` is called with the number of finished keys and of all keys. Does nothing if all keys are up to date.
pub(crate) fn rewrap(
    folder: &Path,
    roots: &RootKeys,
    mut on_progress: impl FnMut(u64, u64),
) -> Result<RewrapResult, KeyringError> {
    if !schema::path_in(folder).exists() {
        return Err(schema::unusable(folder, &"it is not there"));
    }
    let path = schema::prepare(folder)?;
    let unusable = |error: &KeyringError| schema::unusable(folder, error);
    let mut connection = schema::connect(&path, roots).map_err(|error| unusable(&error))?;
    schema::ensure_roots_known(&connection, roots).map_err(|error| unusable(&error))?;
    let epoch = begin(&mut connection, roots)?;
    if !connection.query_row("select count(*) > 1 from epochs", [], |row| row.get(0))? {
        return Ok(RewrapResult { epoch, keys: 0 });
    }
    let sql = "select count(*) from keys where epoch < ?1";
    let total: u32 = connection.query_row(sql, [epoch], |row| row.get(0))?;
    let (mut done, mut broken) = (0, Vec::new());
    let mut gone: HashSet<[u8; NONCE_BYTES]> = HashSet::new();
    let mut after = (TenantId(Uuid::nil()), Uuid::nil());
    while let Some(last) = page(&mut connection, roots, epoch, after, &mut gone, &mut broken)? {
        after = last;
        done = gone.len() as u64;
        on_progress(done, total.into());
    }
    epochs::ensure_unwrapped(&broken)?;
    bytes::truncate_write_ahead_log(&connection)?;
    let is_gone =
        |bytes: &[u8]| <[u8; NONCE_BYTES]>::try_from(bytes).is_ok_and(|nonce| gone.contains(&nonce));
    let is_left = || Ok::<_, KeyringError>(!gone.is_empty() && bytes::contains(&path, NONCE_BYTES, is_gone)?);
    // Only a file of an earlier version may have a copy.
    if is_left()? {
        bytes::vacuum(&connection)?;
        if is_left()? {
            return Err(KeyringError::Unavailable(
                "a copy of a key as it was wrapped before is left".to_owned(),
            ));
        }
    }
    connection.execute(
        "delete from epochs where epoch < ?1 and not exists (select 1 from keys where keys.epoch < ?1)",
        [epoch],
    )?;
    Ok(RewrapResult { epoch, keys: done })
}

/// The epoch of the current root key, created if the newest epoch has another root key.
fn begin(connection: &mut Connection, roots: &RootKeys) -> Result<i64, KeyringError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (mut epoch, root) = schema::newest_epoch(&transaction)?;
    if root != roots.current() {
        epoch += 1;
        schema::begin_epoch(&transaction, epoch, &roots.current())?;
    }
    transaction.commit()?;
    Ok(epoch)
}

/// Encrypts a page of keys again. Returns the subject after which the next page starts.
/// `gone` receives the nonces that are no longer used, `broken` the ids of keys that do not decrypt.
fn page(
    connection: &mut Connection,
    roots: &RootKeys,
    epoch: i64,
    (tenant, subject): (TenantId, Uuid),
    gone: &mut HashSet<[u8; NONCE_BYTES]>,
    broken: &mut Vec<Uuid>,
) -> Result<Option<(TenantId, Uuid)>, KeyringError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if schema::newest_epoch(&transaction)?.0 != epoch {
        return Err(KeyringError::Unavailable("keys are being wrapped under another root key".to_owned()));
    }
    let rows = earlier(&transaction, epoch, tenant, subject)?;
    let last = rows.last().map(|row| (row.context.tenant, row.context.subject));
    for Row { context, slot, wrapped, root } in rows {
        let opened = epochs::root_of(roots, root.as_ref()).and_then(|root| root.unwrap(&context, &wrapped));
        let Ok(data_key) = opened else {
            broken.push(context.key);
            continue;
        };
        let renewed = KeyContext { epoch, ..context };
        let current = epochs::root_of(roots, Some(&roots.current()))?;
        // The same length, so that SQLite overwrites the earlier form in place.
        transaction
            .prepare_cached("update wrapped set bytes = ?1 where slot = ?2")?
            .execute(params![current.wrap(&renewed, &data_key), slot])?;
        transaction
            .prepare_cached("update keys set epoch = ?1 where tenant = ?2 and subject = ?3")?
            .execute(params![epoch, renewed.tenant.0.as_bytes(), renewed.subject.as_bytes()])?;
        if let Some(nonce) = wrapped.first_chunk() {
            gone.insert(*nonce);
        }
    }
    transaction.commit()?;
    Ok(last)
}

fn earlier(
    connection: &Connection,
    epoch: i64,
    tenant: TenantId,
    subject: Uuid,
) -> Result<Vec<Row>, KeyringError> {
    let mut statement = connection.prepare_cached(
        "select tenant, subject, id, epoch, slot, bytes, root
         from keys join wrapped using (slot) left join epochs using (epoch)
         where (tenant, subject) > (?1, ?2) and epoch < ?3 order by tenant, subject limit ?4",
    )?;
    let rows =
        statement.query_map(params![tenant.0.as_bytes(), subject.as_bytes(), epoch, PAGE_SIZE], |row| {
            let context = KeyContext {
                tenant: TenantId(Uuid::from_bytes(row.get(0)?)),
                subject: Uuid::from_bytes(row.get(1)?),
                key: Uuid::from_bytes(row.get(2)?),
                epoch: row.get(3)?,
            };
            Ok(Row { context, slot: row.get(4)?, wrapped: row.get(5)?, root: row.get(6)? })
        })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ::bytes::Bytes;
    use schemas::engine::{StreamName, ids};
    use serde_json::json;
    use tempfile::TempDir;
    use tokio::runtime::Handle;
    use tokio::task::spawn_blocking;

    use super::*;
    use crate::{Keyring, RootKey, RootKeyState};

    const TENANT: TenantId = TenantId(Uuid::from_u128(5));

    fn open(folder: &TempDir, roots: &RootKeys) -> Result<Keyring, KeyringError> {
        Keyring::open(folder.path(), roots.clone(), Duration::from_millis(50))
    }

    /// Seals a payload for a subject, and returns the id of the key.
    async fn sealed(keyring: &Keyring, subject: u128) -> Result<Uuid, KeyringError> {
        let stream = StreamName::new("crm.customer", Uuid::from_u128(subject));
        let payload = Bytes::from(json!({"$open": {"value": {"name": "Ada"}}}).to_string());
        Ok(keyring.seal(TENANT, &stream, ids::new_id(), payload).await?.keys[0])
    }

    fn wrapped(folder: &TempDir) -> Vec<Vec<u8>> {
        let database = Connection::open(schema::path_in(folder.path())).expect("opens");
        let mut statement =
            database.prepare("select bytes from keys join wrapped using (slot)").expect("prepares");
        let rows = statement.query_map([], |row| row.get(0)).expect("selects");
        rows.collect::<Result<_, _>>().expect("reads")
    }

    fn is_left(folder: &TempDir, needle: &[u8]) -> bool {
        bytes::contains(&schema::path_in(folder.path()), needle.len(), |found| found == needle)
            .expect("reads")
    }

    fn root_states(folder: &TempDir, roots: &RootKeys) -> Vec<(RootKeyState, u64)> {
        let epochs = crate::file::epochs(folder.path(), roots).expect("reads").expect("is there");
        epochs.into_iter().map(|epoch| (epoch.root_state, epoch.keys)).collect()
    }

    #[tokio::test]
    async fn keys_are_wrapped_anew_while_processes_use_them_and_nothing_of_before_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let (old, new) = (RootKey::generate(), RootKey::generate());
        let before = RootKeys::from(old.clone());
        let keyring = open(&folder, &before).expect("opens");
        let mut keys = Vec::new();
        for subject in 1..=500 {
            keys.push(sealed(&keyring, subject).await.expect("seals"));
        }
        let earlier = wrapped(&folder);
        let unknown = open(&folder, &RootKeys::from(new.clone())).expect_err("the root key before is needed");
        assert!(unknown.to_string().contains("privacy.previous_root_key"), "{unknown}");

        let both = RootKeys::new(new.clone(), Some(old));
        let running = open(&folder, &both).expect("opens");
        assert_eq!(sealed(&running, 501).await.expect("seals under the one before"), {
            sealed(&keyring, 501).await.expect("which processes with the one before open")
        });
        assert_eq!(root_states(&folder, &both), [(RootKeyState::Previous, 501)]);
        let (path, roots, handle) = (folder.path().to_owned(), both.clone(), Handle::current());
        let (eraser, maker) = (running.clone(), running.clone());
        let done = spawn_blocking(move || {
            let mut pages = 0;
            rewrap(&path, &roots, |done, _| {
                pages += 1;
                if pages == 1 {
                    // The first key is rewrapped already, the second not yet; a third one is created now.
                    for subject in [1, 450] {
                        let destroyed = handle.block_on(eraser.destroy(TENANT, Uuid::from_u128(subject)));
                        assert!(destroyed.expect("destroys").is_some());
                    }
                    handle.block_on(eraser.fence(TENANT, Uuid::from_u128(460))).expect("fences");
                    handle.block_on(sealed(&maker, 502)).expect("seals");
                }
                assert_eq!(done, [200, 400, 500][pages - 1]);
            })
        });
        assert_eq!(done.await.expect("ends").expect("is done"), RewrapResult { epoch: 2, keys: 500 });
        assert_eq!(root_states(&folder, &both), [(RootKeyState::Current, 500)]);
        assert!(!earlier.iter().any(|bytes| is_left(&folder, bytes)));
        assert!(wrapped(&folder).iter().all(|bytes| is_left(&folder, bytes)));

        let after = open(&folder, &RootKeys::from(new.clone())).expect("the one before is not needed");
        for subject in [1, 450, 460] {
            assert!(matches!(sealed(&after, subject).await, Err(KeyringError::SubjectErased)), "{subject}");
        }
        for subject in [2, 300, 449, 499] {
            assert_eq!(sealed(&after, subject).await.expect("seals"), keys[subject as usize - 1]);
        }
        let late = sealed(&keyring, 700).await.expect_err("it has the one before only");
        assert!(late.to_string().contains("privacy.root_key"), "{late}");
        assert!(open(&folder, &before).is_err());
        assert_eq!(rewrap(folder.path(), &new.into(), |_, _| ()).expect("is done").keys, 0);
    }

    #[tokio::test]
    async fn a_run_that_ends_anywhere_is_brought_to_its_end_by_the_next() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut roots = RootKeys::from(RootKey::generate());
        let keyring = open(&folder, &roots).expect("opens");
        for subject in 1..=450 {
            sealed(&keyring, subject).await.expect("seals");
        }
        let mut latest = roots.clone();
        for pages in 0..4 {
            let earlier = wrapped(&folder);
            let current = latest.find(&latest.current()).expect("has it").clone();
            roots = RootKeys::new(RootKey::generate(), Some(current));
            let (path, given) = (folder.path().to_owned(), roots.clone());
            let interrupted = spawn_blocking(move || {
                let mut calls = 0;
                rewrap(&path, &given, |_, _| {
                    calls += 1;
                    assert_ne!(calls, pages, "interrupted");
                })
            });
            assert_eq!(interrupted.await.is_err(), pages > 0);
            if pages > 0 {
                assert_eq!(root_states(&folder, &roots).len(), 2);
                // A subject that is erased meanwhile leaves neither form of its key.
                let subject = Uuid::from_u128(pages as u128);
                open(&folder, &roots).expect("opens").destroy(TENANT, subject).await.expect("destroys");
                rewrap(folder.path(), &roots, |_, _| ()).expect("is done");
            }
            assert_eq!(root_states(&folder, &roots), [(RootKeyState::Current, 450 - pages as u64)]);
            assert!(!earlier.iter().any(|bytes| is_left(&folder, bytes)));
            latest = roots.clone();
        }
    }
}
