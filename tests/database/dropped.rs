//! A future that is dropped in the middle of a statement, as that of a request whose client has gone: the statement ends, its
//! connection serves the next one, and nothing of the tenant stays on it.

use std::time::{Duration, Instant};

use schemas::engine::{StreamName, TenantSlug, ids};
use store::{ExpectedVersion, Store, StoreConfig, StreamAppend};
use tokio_postgres::Client;

use crate::support::eventually;
use crate::support::postgres::{Database, event, metadata, open_tenant};

/// Well below the 30 seconds after which PostgreSQL ends a statement by itself.
const SOON: Duration = Duration::from_secs(5);
/// The observer holds this lock, so that a statement that waits for it does not end by itself.
const HOLD: &str = "select pg_advisory_lock(7)";
const WAIT: &str = "select pg_advisory_xact_lock_shared(7)::text";

async fn store_of_one_connection(database: &Database) -> Store {
    let config = StoreConfig { pool_size: 1, append_workers: 1, ..database.store_config() };
    Store::connect(config).await.expect("connects")
}

/// The server processes of a role that execute something like this.
async fn busy(observer: &Client, role: &str, like: &str) -> Vec<i32> {
    let statement = "select pid from pg_stat_activity
                     where datname = current_database() and usename = $1 and state = 'active' and query like $2";
    let rows = observer.query(statement, &[&role, &like]).await.expect("reads");
    rows.iter().map(|row| row.get(0)).collect()
}

/// Polls a future until the server works on it, then drops it. Returns the server process.
async fn dropped_while_busy(
    observer: &Client,
    role: &str,
    like: &str,
    future: impl Future<Output = ()>,
) -> i32 {
    let begun = eventually("the server works on it", || async { busy(observer, role, like).await.pop() });
    tokio::select! {
        () = future => panic!("it ended by itself"),
        pid = begun => pid,
    }
}

async fn ends(observer: &Client, role: &str, like: &str) {
    let dropped = Instant::now();
    eventually("the statement ends", || async { busy(observer, role, like).await.is_empty().then_some(()) })
        .await;
    assert!(dropped.elapsed() < SOON, "the statement ran on for {:?}", dropped.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_read_of_a_tenant_ends_and_its_connection_serves_the_next_tenant() {
    let database = Database::create().await;
    let store = store_of_one_connection(&database).await;
    let (acme, beta) = (open_tenant(&store, "acme").await, open_tenant(&store, "beta").await);
    let observer = database.connect("postgres").await;
    observer.batch_execute(HOLD).await.expect("locks");
    let (role, waits) = ("annals_tenant", "select pg_advisory_xact_lock%");
    let slow = async {
        let transaction = acme.begin().await.expect("begins");
        drop(transaction.query(WAIT, &[]).await);
    };
    let pid = dropped_while_busy(&observer, role, waits, slow).await;
    let dropped = Instant::now();
    // The only connection of the pool: it waits until that is clean.
    let transaction = beta.begin().await.expect("the pool has its connection again");
    assert!(dropped.elapsed() < SOON);
    let row = transaction
        .query_opt("select pg_backend_pid(), current_setting('annals.tenant'), count(*) from heads", &[])
        .await
        .expect("reads")
        .expect("a row");
    assert_eq!(row.get::<_, i32>(0), pid, "the same connection");
    assert_eq!(row.get::<_, String>(1), beta.id().to_string());
    assert_eq!(row.get::<_, i64>(2), 1, "the head of one tenant");
    transaction.commit().await.expect("commits");
    ends(&observer, role, waits).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_write_of_a_projection_is_rolled_back_at_once() {
    let database = Database::create().await;
    let store = store_of_one_connection(&database).await;
    let tenant = open_tenant(&store, "acme").await;
    let append = StreamAppend::new(
        StreamName::new("crm.customer", ids::new_id()),
        ExpectedVersion::NoStream,
        vec![event("crm.customer.closed.v1", "{}")],
        metadata(),
    );
    let log_id = tenant.append(append).await.expect("appends").log_id;
    let observer = database.connect("postgres").await;
    observer.batch_execute(HOLD).await.expect("locks");
    let (role, waits) = ("annals_projector", "select pg_advisory_xact_lock%");
    let slow = async {
        let transaction = tenant.begin_worker_transaction().await.expect("begins");
        assert!(transaction.move_checkpoint("test", log_id, 0, 1).await.expect("moves"));
        drop(transaction.execute(WAIT, &[]).await);
    };
    dropped_while_busy(&observer, role, waits, slow).await;
    ends(&observer, role, waits).await;
    let transaction = tenant.begin_worker_transaction().await.expect("the connection is free");
    assert!(transaction.move_checkpoint("test", log_id, 0, 1).await.expect("moves"), "it was rolled back");
    transaction.commit().await.expect("commits");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_look_up_without_a_transaction_ends_too() {
    let database = Database::create().await;
    let store = store_of_one_connection(&database).await;
    open_tenant(&store, "acme").await;
    let (holder, observer) = (database.connect("postgres").await, database.connect("postgres").await);
    holder.batch_execute("begin; lock table tenants in access exclusive mode").await.expect("locks");
    let slug = TenantSlug::parse("acme").expect("a slug");
    let (role, look_up) = ("annals_worker", "%from tenants where slug%");
    let slow = async { drop(store.tenant_by_slug(&slug).await) };
    dropped_while_busy(&observer, role, look_up, slow).await;
    // The lock is held all the while.
    ends(&observer, role, look_up).await;
    holder.batch_execute("rollback").await.expect("ends");
    assert!(store.tenant_by_slug(&slug).await.expect("reads").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slow_reads_of_one_tenant_leave_a_connection_for_another() {
    let database = Database::create().await;
    // Half of them are for reads in one round trip.
    let config = StoreConfig { pool_size: 8, ..database.store_config() };
    let store = Store::connect(config).await.expect("connects");
    let (acme, beta) = (open_tenant(&store, "acme").await, open_tenant(&store, "beta").await);
    let mut slow = Vec::new();
    for _ in 0..3 {
        slow.push(acme.begin().await.expect("its share"));
    }
    let mut waiting: Vec<_> = (0..20).map(|_| Box::pin(acme.begin())).collect();
    for read in &mut waiting {
        assert!(futures::poll!(read).is_pending(), "beyond its share");
    }
    let begun = Instant::now();
    beta.head().await.expect("another tenant reads");
    assert!(begun.elapsed() < Duration::from_secs(2), "it did not wait for the tenant that came before");
    drop(waiting);
    for transaction in slow {
        transaction.commit().await.expect("commits");
    }
    acme.head().await.expect("the share is free again");
}
