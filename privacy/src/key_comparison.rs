//! Periodically compares the encryption keys of personal data with the logs, in both directions.
//! A missing key means that the key store was lost or restored to an earlier state.
//! A key that no event uses means the same of the event database.

use std::time::Duration;

use chrono::TimeDelta;
use keyring::StoredKey;
use schemas::engine::{TenantId, clock};
use store::{Causes, Store, StoreError, Workload};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::key_rows::{EventWithoutKey, events_without_key, uses_key};

/// How often all keys are compared.
const COMPARISON_INTERVAL: Duration = Duration::from_hours(6);
/// Wait after a failed comparison.
const RETRY_INTERVAL: Duration = Duration::from_mins(1);
/// Pause between two pages, so that a comparison does not slow down other database work.
const PAGE_PAUSE: Duration = Duration::from_millis(20);
/// Positions of one page of a log.
const LOG_PAGE_SIZE: u64 = 5_000;
/// Keys of one page of the store.
const KEY_PAGE_SIZE: u32 = 500;
/// Minimum age of an unused key. A key is made before the first event that it encrypts, so a younger key may be unused.
const UNUSED_AGE_MIN: TimeDelta = TimeDelta::minutes(10);
/// Maximum findings of each kind that a comparison returns; more are only counted.
const FINDINGS_MAX: usize = 1_000;
/// Maximum findings that are logged individually.
const LOGGED_MAX: usize = 20;

/// Result of a comparison.
#[derive(Debug, Default)]
pub struct KeyComparison {
    /// The first event of each missing key, at most 1000.
    pub missing: Vec<(TenantId, EventWithoutKey)>,
    /// The number of missing keys.
    pub missing_count: u64,
    /// Keys that no event uses, at most 1000.
    pub unused: Vec<StoredKey>,
    /// The number of keys that no event uses.
    pub unused_count: u64,
}

/// Compares the tenants of this process until cancelled.
pub(crate) async fn run(store: Store, cancel: CancellationToken) {
    let assignment = store.tenant_assignment(Workload::Sagas);
    loop {
        let compared = tokio::select! {
            () = cancel.cancelled() => return,
            compared = compare_keys(&store, |tenant| assignment.owns(tenant)) => compared,
        };
        let pause = match compared {
            Ok(compared) => {
                report(&compared);
                COMPARISON_INTERVAL
            }
            Err(error) => {
                tracing::warn!(error = %Causes(&error), "the keys of personal data cannot be compared with the logs");
                RETRY_INTERVAL
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

fn report(compared: &KeyComparison) {
    metrics::gauge!("annals_keys_missing").set(compared.missing_count as f64);
    metrics::gauge!("annals_keys_unused").set(compared.unused_count as f64);
    for (tenant, event) in compared.missing.iter().take(LOGGED_MAX) {
        let EventWithoutKey { position, subject, key, .. } = event;
        tracing::error!(%tenant, position, %subject, %key, "a key of personal data is missing and was not destroyed");
    }
    for key in compared.unused.iter().take(LOGGED_MAX) {
        let StoredKey { tenant, subject, key, .. } = key;
        tracing::warn!(%tenant, %subject, %key, "no event is sealed under a key of personal data");
    }
    tracing::info!(
        missing = compared.missing_count,
        unused = compared.unused_count,
        "the keys of personal data were compared with the logs"
    );
}

/// Compares the keys and the logs of the tenants for which `owns` is true.
///
/// # Errors
/// [`StoreError`] if the database or the key store fails.
pub async fn compare_keys(
    store: &Store,
    owns: impl Fn(TenantId) -> bool,
) -> Result<KeyComparison, StoreError> {
    let mut compared = KeyComparison::default();
    let Some(keyring) = store.keyring() else { return Ok(compared) };
    for head in store.heads().await?.into_iter().filter(|head| owns(head.tenant)) {
        let tenant = store.tenant(head.tenant);
        let mut known = std::collections::HashSet::new();
        let mut after = 0;
        while after < head.position {
            let to = (after + LOG_PAGE_SIZE).min(head.position);
            for event in events_without_key(&tenant, after, to).await? {
                if known.insert(event.key) {
                    compared.missing_count += 1;
                    if compared.missing.len() < FINDINGS_MAX {
                        compared.missing.push((head.tenant, event));
                    }
                }
            }
            after = to;
            sleep(PAGE_PAUSE).await;
        }
    }
    let mut after = None;
    loop {
        let page = keyring.keys(after, KEY_PAGE_SIZE).await?;
        let Some(last) = page.last().map(|key| (key.tenant, key.subject)) else { return Ok(compared) };
        after = Some(last);
        for key in page.into_iter().filter(|key| owns(key.tenant)) {
            let is_young = clock::now() - key.created_at < UNUSED_AGE_MIN;
            if !is_young && !uses_key(&store.tenant(key.tenant), &key).await? {
                compared.unused_count += 1;
                if compared.unused.len() < FINDINGS_MAX {
                    compared.unused.push(key);
                }
            }
        }
        sleep(PAGE_PAUSE).await;
    }
}
