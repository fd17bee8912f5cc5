//! Repeats erasures that a restored database or key store has lost, when a process starts and from time to time.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use commands::{Decider, Executor, Subject};
use keyring::Keyring;
use schemas::engine::{LogId, TenantId};
use store::{Causes, StoreError};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::copies::DerivedCopies;
use crate::requests::{CONSUMER_NAME, request_as_system, store_error};
use crate::subjects::{is_erased, subject_of_customer, subject_of_user};

/// How often the tombstones are compared with the logs, because a database may have been restored to an earlier state.
const COMPARISON_INTERVAL: Duration = Duration::from_secs(20);
/// How long a starting process waits for erasures that a restored database does not know.
const REAPPLY_TIMEOUT: Duration = Duration::from_mins(2);
/// How often a starting process checks whether these erasures are done.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Maximum streams of one read.
const PAGE_SIZE_MAX: u32 = 5_000;

/// Repeats erasures after the database, the key file or both were restored from a backup.
/// Keys of subjects that the logs call erased are destroyed again.
/// Erasures that a log has lost are requested again.
/// Returns when these are done, so that the process serves no request before.
/// If the copies cannot be asked, a warning is logged and [`run`](crate::run) asks them later.
///
/// # Errors
/// [`StoreError`] if the database or the key store fails.
pub async fn reapply(
    executor: &Executor,
    keyring: &Keyring,
    copies: &DerivedCopies,
) -> Result<(), StoreError> {
    destroy_keys_again(executor, keyring).await?;
    let mut compared = ComparedLogs::default();
    let again = request_missing_erasures(executor, keyring, copies, &mut compared).await?;
    if compared.copies.is_none() {
        tracing::warn!(
            "JetStream cannot be asked for erasures that database and keys know nothing of: they are looked for later"
        );
    }
    if again.is_empty() {
        return Ok(());
    }
    tracing::warn!(
        subjects = again.len(),
        "the database knows nothing of some erasures: they are done again"
    );
    let begun = Instant::now();
    for (tenant, subject) in again {
        while !is_erased(executor, tenant, subject).await? {
            if begun.elapsed() > REAPPLY_TIMEOUT {
                return Err(StoreError::Unavailable(
                    "erasures that the database knows nothing of are not done again yet".to_owned(),
                ));
            }
            sleep(POLL_INTERVAL).await;
        }
    }
    Ok(())
}

/// Compares keys, tombstones and copies with the logs until cancelled.
pub(crate) async fn run(
    executor: Executor,
    keyring: Keyring,
    copies: DerivedCopies,
    cancel: CancellationToken,
) {
    if let Err(error) = destroy_keys_again(&executor, &keyring).await {
        tracing::warn!(error = %Causes(&error), "keys cannot be compared with the logs");
    }
    let mut compared = ComparedLogs::default();
    let mut tombstones = HashSet::new();
    loop {
        if let Err(error) = destroy_restored_keys(&executor, &keyring, &mut tombstones).await {
            tracing::warn!(error = %Causes(&error), "keys cannot be compared with the logs");
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = sleep(COMPARISON_INTERVAL) => {}
        }
        if let Err(error) = request_missing_erasures(&executor, &keyring, &copies, &mut compared).await {
            tracing::warn!(error = %Causes(&error), "erasures cannot be compared with the logs");
        }
    }
}

/// The log ids in which lost erasures were already looked for.
/// A log that lost events continues under another id; later erasures are in the log before they are anywhere else.
#[derive(Default)]
struct ComparedLogs {
    keys: HashMap<TenantId, LogId>,
    /// `None` until the copies have answered.
    copies: Option<HashMap<TenantId, LogId>>,
}

/// Requests erasures that the key store or a copy of the logs has and the log does not.
async fn request_missing_erasures(
    executor: &Executor,
    keyring: &Keyring,
    copies: &DerivedCopies,
    compared: &mut ComparedLogs,
) -> Result<Vec<(TenantId, Uuid)>, StoreError> {
    let mut again = Vec::new();
    let heads = executor.store().heads().await?;
    let logs: HashMap<TenantId, LogId> = heads.iter().map(|head| (head.tenant, head.log_id)).collect();
    for erasure in keyring.erasures().await? {
        let (tenant, subject) = (erasure.tenant, erasure.subject);
        if logs.get(&tenant).is_none_or(|log| compared.keys.get(&tenant) == Some(log)) {
            continue;
        }
        if request_if_missing(executor, tenant, subject).await? {
            again.push((tenant, subject));
        }
    }
    compared.keys.clone_from(&logs);
    // A new tenant has lost nothing.
    let is_replaced =
        |(tenant, log): (&TenantId, &LogId)| logs.get(tenant).is_some_and(|current| current != log);
    if compared.copies.as_ref().is_some_and(|known| !known.iter().any(is_replaced)) {
        return Ok(again);
    }
    let lost = match copies().await {
        Ok(lost) => lost,
        Err(error) => {
            tracing::debug!(error = %Causes(&error), "copies of the logs cannot be asked for erasures");
            return Ok(again);
        }
    };
    for (tenant, subject) in lost {
        // Another tenant may have used the slug before: ignore subjects that this tenant never had.
        if logs.contains_key(&tenant)
            && is_known(executor, keyring, tenant, subject).await?
            && request_if_missing(executor, tenant, subject).await?
        {
            again.push((tenant, subject));
        }
    }
    compared.copies = Some(logs);
    Ok(again)
}

async fn is_known(
    executor: &Executor,
    keyring: &Keyring,
    tenant: TenantId,
    subject: Uuid,
) -> Result<bool, StoreError> {
    Ok(!keyring.streams(tenant, subject).await?.is_empty()
        || subject_of_user(executor, tenant, subject).await?.is_some()
        || subject_of_customer(executor, tenant, subject).await?.is_some())
}

/// Requests an erasure as the product. Returns `false` if the log already has it.
async fn request_if_missing(
    executor: &Executor,
    tenant: TenantId,
    subject: Uuid,
) -> Result<bool, StoreError> {
    if executor.load::<Subject>(tenant, subject).await?.is_some() {
        return Ok(false);
    }
    let requested = request_as_system(executor, tenant, subject, CONSUMER_NAME).await;
    requested.map(|_| true).map_err(store_error)
}

/// Destroys keys again after the key store has lost tombstones: a standby that took over, or a restored copy, may have
/// keys that were destroyed since.
async fn destroy_restored_keys(
    executor: &Executor,
    keyring: &Keyring,
    tombstones: &mut HashSet<(TenantId, Uuid)>,
) -> Result<(), StoreError> {
    let now: HashSet<_> = destroyed_keys(keyring).await?;
    if !tombstones.is_subset(&now) {
        tracing::error!("the store of keys has lost tombstones: keys that were destroyed may be back");
        destroy_keys_again(executor, keyring).await?;
    }
    metrics::gauge!("annals_keys_destroyed").set(now.len() as f64);
    *tombstones = now;
    Ok(())
}

async fn destroyed_keys(keyring: &Keyring) -> Result<HashSet<(TenantId, Uuid)>, StoreError> {
    let destroyed = keyring.erasures().await?.into_iter().filter(|erasure| erasure.is_destroyed);
    Ok(destroyed.map(|erasure| (erasure.tenant, erasure.subject)).collect())
}

async fn destroy_keys_again(executor: &Executor, keyring: &Keyring) -> Result<(), StoreError> {
    let known = destroyed_keys(keyring).await?;
    let mut after = None;
    loop {
        let streams =
            executor.store().streams_of_category(Subject::CATEGORY, after.as_ref(), PAGE_SIZE_MAX).await?;
        for (tenant, stream) in &streams {
            let Some(subject) = stream.uuid() else { continue };
            if !known.contains(&(*tenant, subject)) && is_erased(executor, *tenant, subject).await? {
                tracing::warn!(%tenant, %subject, "the key of an erased subject was back");
                keyring.destroy(*tenant, subject).await?;
            }
        }
        if streams.len() < PAGE_SIZE_MAX as usize {
            return Ok(());
        }
        after = streams.last().cloned();
    }
}
