//! Compares the keys of personal data with the logs now and then, both ways. A key that is missing tells that the store of keys
//! was lost or went back to an earlier state; one that no event names tells the same of the database of events.

use std::time::Duration;

use chrono::TimeDelta;
use keyring::StoredKey;
use schemas::engine::{TenantId, clock};
use store::{Causes, EventWithoutKey, Store, StoreError, Workload};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How often everything is compared.
const COMPARISON_INTERVAL: Duration = Duration::from_hours(6);
/// Wait before a comparison that could not be made is tried again.
const RETRY_INTERVAL: Duration = Duration::from_mins(1);
/// Between two pages, so that a comparison leaves the database to those who wait for it.
const PAGE_PAUSE: Duration = Duration::from_millis(20);
/// Positions of one page of a log.
const LOG_PAGE_SIZE: u64 = 5_000;
/// Keys of one page of the store.
const KEY_PAGE_SIZE: u32 = 500;
/// A key is made before the event that is sealed under it is appended, so a younger one may still have none.
const UNUSED_AGE_MIN: TimeDelta = TimeDelta::minutes(10);
/// Findings that a comparison returns; more are counted only.
const FINDINGS_MAX: usize = 1_000;
/// Findings that are logged one by one.
const LOGGED_MAX: usize = 20;

/// What a comparison has found.
#[derive(Debug, Default)]
pub struct KeyComparison {
    /// The first event of each key that is missing, at most a thousand.
    pub missing: Vec<(TenantId, EventWithoutKey)>,
    /// Keys that are missing, in all.
    pub missing_count: u64,
    /// Keys that no event names, at most a thousand.
    pub unused: Vec<StoredKey>,
    /// Keys that no event names, in all.
    pub unused_count: u64,
}

/// Compares until cancelled, what this process owns of the tenants.
pub(crate) async fn run(store: Store, cancel: CancellationToken) {
    let assignment = store.tenant_assignment(Workload::Sagas);
    loop {
        let compared = tokio::select! {
            () = cancel.cancelled() => return,
            compared = compare(&store, |tenant| assignment.owns(tenant)) => compared,
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

/// Compares the keys and the logs of those tenants.
pub async fn compare(store: &Store, owns: impl Fn(TenantId) -> bool) -> Result<KeyComparison, StoreError> {
    let mut compared = KeyComparison::default();
    let Some(keyring) = store.keyring() else { return Ok(compared) };
    for head in store.heads().await?.into_iter().filter(|head| owns(head.tenant)) {
        let tenant = store.tenant(head.tenant);
        let mut known = std::collections::HashSet::new();
        let mut after = 0;
        while after < head.position {
            let to = (after + LOG_PAGE_SIZE).min(head.position);
            for event in tenant.events_without_key(after, to).await? {
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
            if !is_young && !store.tenant(key.tenant).uses_key(&key).await? {
                compared.unused_count += 1;
                if compared.unused.len() < FINDINGS_MAX {
                    compared.unused.push(key);
                }
            }
        }
        sleep(PAGE_PAUSE).await;
    }
}
