//! What the tests share: bare servers for engine tests (`postgres`, `postgres_server`, `nats_server`), the product as a
//! child process (`process`, `product`), `annals serve` over servers of the test (`deployment`), waiting.
//!
//! Everything started here ends with this process, however it ends.

#![allow(dead_code, reason = "each test module uses its own part of this")]

pub mod checker;
pub mod commands;
pub mod connections;
pub mod deployment;
pub mod dice;
pub mod erasures;
pub mod integration_site;
pub mod integrator;
pub mod key_stores;
pub mod lists;
pub mod long;
pub mod nats_cluster;
pub mod nats_server;
pub mod operator_site;
pub mod outage_site;
pub mod postgres;
pub mod postgres_server;
pub mod process;
pub mod product;
pub mod programs;
pub mod proxy;
pub mod raw_http;
pub mod read_models;
pub mod relay;
pub mod restore_site;
pub mod rows;
pub mod saga_engine;
pub mod sealed_site;
pub mod services;
pub mod violations;
pub mod webhook_receiver;
pub mod wire;

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

pub use process::Annals;
pub use product::Product;

/// How long [`eventually`] waits. Far above what anything takes, so that only a fault reaches it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Polls until `look` finds something, and fails the test when it never does. For what has no position to wait for.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let polling = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, polling).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// A temporary folder that the servers' own user may enter.
pub fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))
        .expect("the folder is ours");
    folder
}

/// A name that no other test of this run has: `prefix-1`, `prefix-2`, ...
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    format!("{prefix}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}
