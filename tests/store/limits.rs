//! No wait of an append is endless and no queue without a bound, whatever the database does; and everything goes on
//! afterwards.

use std::task::Poll;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use schemas::engine::ids;
use store::append::EVENTS_MAX;
use store::{
    AppendError, DeploymentKey, ExpectedVersion, IdempotencyClaim, Store, StoreConfig, StreamAppend,
    TenantStore,
};

use super::append::{append, assert_dense, stream};
use super::flushes::waits_for_a_lock;
use crate::support::eventually;
use crate::support::postgres::{Database, PASSWORD, event, open_tenant};
use crate::support::postgres_server::{DATABASE, PostgresServer};
use crate::support::proxy::{Proxy, Weather};

/// Longest that a caller waits when there is no answer at all.
const BOUND: Duration = Duration::from_secs(15);

fn config(port: u16) -> StoreConfig {
    StoreConfig {
        host: "127.0.0.1".to_owned(),
        port,
        database: DATABASE.to_owned(),
        runtime_password: PASSWORD.to_owned(),
        key: DeploymentKey::generate(),
        keyring: None,
        append_workers: 1,
        pool_size: 4,
        tls: store::TlsConfig::default(),
        idle_timeout: std::time::Duration::from_mins(1),
    }
}

fn commands() -> Vec<StreamAppend> {
    let command = |_| {
        let mut command = append(&stream(), ExpectedVersion::NoStream, "{}");
        command.claim = Some(IdempotencyClaim::new(ids::new_id(), [1; 32]));
        command
    };
    (0..60).map(command).collect()
}

/// Everybody is refused within the bound; afterwards each command happens once, whatever became of its first attempt.
async fn refused_then_resumed(tenant: &TenantStore, freeze: impl FnOnce(), thaw: impl FnOnce()) {
    tenant.append(append(&stream(), ExpectedVersion::NoStream, "{}")).await.expect("appends");
    let before = assert_dense(tenant).await;
    let commands = commands();
    freeze();
    let begun = Instant::now();
    let refused = tenant.append_all(commands.clone()).await;
    let took = begun.elapsed();
    assert!(took < BOUND + Duration::from_secs(2), "refused after {took:?}");
    for answer in refused {
        assert!(matches!(answer, Err(AppendError::Unavailable(_))), "{answer:?}");
    }
    thaw();
    eventually("appends go on", || async {
        let lone = append(&stream(), ExpectedVersion::NoStream, "{}");
        tenant.append(lone).await.ok()
    })
    .await;
    for answer in tenant.append_all(commands).await {
        answer.expect("a repeat is answered");
    }
    assert_eq!(assert_dense(tenant).await, before + 61);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_is_waited_for_within_a_bound() {
    let postgres = PostgresServer::start(&[]).await;
    let store = Store::connect(config(postgres.port())).await.expect("the store connects");
    let tenant = open_tenant(&store, "acme").await;
    let (freeze, thaw) = (|| postgres.signal_all(Signal::SIGSTOP), || postgres.signal_all(Signal::SIGCONT));
    refused_then_resumed(&tenant, freeze, thaw).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_says_nothing_is_waited_for_within_a_bound() {
    let postgres = PostgresServer::start(&[]).await;
    let proxy = Proxy::start(postgres.port()).await;
    let store = Store::connect(config(proxy.port())).await.expect("the store connects");
    let tenant = open_tenant(&store, "acme").await;
    refused_then_resumed(&tenant, || proxy.set(Weather::Silent), || proxy.set(Weather::Clear)).await;
}

#[tokio::test]
async fn a_head_that_is_never_let_go_is_waited_for_within_a_bound() {
    let database = Database::create().await;
    let store = database.store().await;
    let (held, free) = (open_tenant(&store, "acme").await, open_tenant(&store, "bolt").await);
    let other = database.connect("postgres").await;
    let hold = format!("begin; select from heads where tenant_id = '{}' for update", held.id());
    other.batch_execute(&hold).await.expect("holds the head");
    let begun = Instant::now();
    let refused = held.append(append(&stream(), ExpectedVersion::NoStream, "{}")).await;
    let took = begun.elapsed();
    assert!(matches!(refused, Err(AppendError::Unavailable(_) | AppendError::Overloaded)), "{refused:?}");
    assert!(took < Duration::from_secs(8), "refused after {took:?}");
    free.append(append(&stream(), ExpectedVersion::NoStream, "{}")).await.expect("appends");
    other.batch_execute("rollback").await.expect("lets the head go");
    held.append(append(&stream(), ExpectedVersion::NoStream, "{}")).await.expect("appends");
    assert_eq!(assert_dense(&held).await, 1);
}

/// Waiting appends are bounded in bytes: eight thousand of the largest would be half a terabyte.
#[tokio::test]
async fn a_queue_is_bounded_in_bytes() {
    let database = Database::create().await;
    let store =
        Store::connect(StoreConfig { append_workers: 1, ..database.store_config() }).await.expect("connects");
    let tenant = open_tenant(&store, "acme").await;
    let quiet = open_tenant(&store, "quiet").await;
    let (other, observer) = (database.connect("postgres").await, database.connect("postgres").await);
    let hold = format!("begin; select from heads where tenant_id = '{}' for update", tenant.id());
    other.batch_execute(&hold).await.expect("holds the head");
    let mut first = Box::pin(tenant.append(append(&stream(), ExpectedVersion::NoStream, "{}")));
    assert!(futures::poll!(&mut first).is_pending());
    waits_for_a_lock(&observer).await;

    // Half a megabyte each by what their events may need at most, and next to nothing in this process.
    let large = || {
        let mut append = append(&stream(), ExpectedVersion::NoStream, "{}");
        append.events = vec![event("crm.customer.renamed.v1", "{}"); EVENTS_MAX];
        append
    };
    let mut waiting = Vec::new();
    let refused = loop {
        let mut next = Box::pin(tenant.append(large()));
        match futures::poll!(&mut next) {
            Poll::Ready(answer) => break answer,
            Poll::Pending => waiting.push(next),
        }
    };
    assert!(matches!(refused, Err(AppendError::Overloaded)), "{refused:?}");
    assert!((64..256).contains(&waiting.len()), "{} appends wait", waiting.len());
    // One tenant fills half of the queue.
    let mut of_another = Box::pin(quiet.append(large()));
    assert!(futures::poll!(&mut of_another).is_pending(), "there is room for another tenant");
    // Callers that go away are not written, and what they waited with is free again.
    drop(waiting);
    other.batch_execute("rollback").await.expect("lets the head go");
    drop(first.await);
    eventually("the queue has room", || async { tenant.append(large()).await.ok() }).await;
}
