//! Checks that the database of events and the key store belong to the same deployment.

use database::PooledConnection;
use keyring::Keyring;
use uuid::Uuid;

use crate::StoreError;
use crate::pools::{Pools, get};

/// Checks that the key store belongs to this database. An unused key store is marked with this deployment, once.
///
/// # Errors
/// [`StoreError::Config`] when the key store belongs to another deployment, or is new while another one was in use.
pub(crate) async fn ensure_keys_match(pools: &Pools, keyring: &Keyring) -> Result<(), StoreError> {
    let client = get(&pools.worker).await?;
    let row = client.query_one("select id, keys_marked from deployment", &[]).await?;
    let (id, is_marked): (Uuid, bool) = (row.get(0), row.get(1));
    let of_keys = match keyring.deployment().await? {
        Some(of_keys) => of_keys,
        None if is_marked => {
            return Err(StoreError::Config(
                "the store of personal data's keys is a new one or a copy from before it was marked, and this deployment \
                 has used another: restore that one, or take this one with `annals key adopt`"
                    .to_owned(),
            ));
        }
        None => keyring.mark(id).await?,
    };
    if of_keys != id {
        return Err(StoreError::Config(format!(
            "the keys of personal data belong to the deployment {of_keys}, and this database to {id}"
        )));
    }
    if is_marked { Ok(()) } else { note(&client).await }
}

async fn note(client: &PooledConnection) -> Result<(), StoreError> {
    client.execute("update deployment set keys_marked = true", &[]).await?;
    Ok(())
}

/// Marks an unmarked key store as this deployment's, although another one was in use.
/// Returns `false` when it belongs to another deployment.
pub(crate) async fn adopt_keys(pools: &Pools, keyring: &Keyring) -> Result<bool, StoreError> {
    let client = get(&pools.worker).await?;
    let id: Uuid = client.query_one("select id from deployment", &[]).await?.get(0);
    if keyring.mark(id).await? != id {
        return Ok(false);
    }
    note(&client).await?;
    Ok(true)
}
