//! Rules of the log that are made false behind the product: the work of that tenant stops, nothing is repaired, and
//! other tenants continue.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use schemas::engine::{RecordedEvent, StreamName, TenantId};
use store::feed::{Batch, BatchOutcome, Consumer, FeedSettings};
use store::{ExpectedVersion, Invariant, LogFilter, PageLimit, Store, StoreError, StreamAppend, TenantStore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::support::postgres::{Database, event, metadata, open_tenant};
use crate::support::relay::{DEADLINE, append_many};
use crate::support::violations::Reports;

const NAME: &str = "test.consumer";

/// Moves its checkpoint and does nothing else.
struct Mover(Store);

impl Consumer for Mover {
    fn name(&self) -> &str {
        NAME
    }

    async fn handle(&self, from: u64, batch: Batch) -> Result<BatchOutcome, StoreError> {
        let to = from + batch.events.len() as u64;
        let transaction = self.0.tenant(batch.tenant).begin_worker_transaction().await?;
        if !transaction.move_checkpoint(NAME, batch.log_id, from, to).await? {
            return Ok(BatchOutcome::Conflict);
        }
        transaction.commit().await?;
        Ok(BatchOutcome::Advanced(to))
    }
}

/// Feeds the consumer until dropped.
fn feed(store: &Store) -> AbortOnDropHandle<()> {
    let settings = FeedSettings { compare_interval: Duration::from_millis(20), ..FeedSettings::default() };
    let consumer = Arc::new(Mover(store.clone()));
    let feeding = store::feed::run(
        store.clone(),
        consumer,
        futures::stream::pending(),
        settings,
        CancellationToken::new(),
    );
    AbortOnDropHandle::new(tokio::spawn(feeding))
}

async fn caught_up(tenant: &TenantStore) {
    let head = tenant.head().await.expect("a head");
    let reached = tenant.wait_for_checkpoint(NAME, head.log_id, head.position, DEADLINE).await;
    assert!(reached.expect("the checkpoint reads"), "the consumer reaches {}", head.position);
}

async fn checkpoint(tenant: &TenantStore) -> Option<u64> {
    let transaction = tenant.begin_worker_transaction().await.expect("begins");
    transaction.checkpoint(NAME).await.expect("reads").map(|checkpoint| checkpoint.position)
}

/// What the database holds of a tenant: the head, and position and version of each event.
async fn stored(owner: &tokio_postgres::Client, tenant: TenantId) -> String {
    let sql = "select concat((select position from heads where tenant_id = $1), ': ',
                             string_agg(concat(position, '/', version), ' ' order by position))
               from events where tenant_id = $1";
    owner.query_one(sql, &[&tenant.0]).await.expect("reads").get(0)
}

fn violated(error: &StoreError) -> Option<(Invariant, u64)> {
    match error {
        StoreError::InvariantViolated { invariant, position } => Some((*invariant, *position)),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_in_a_log_stops_its_consumer_and_its_readers() {
    let reports = Reports::of(Invariant::LogPositions).await;
    let database = Database::create().await;
    let store = database.store().await;
    let (broken, cut, whole) = (
        open_tenant(&store, "broken").await,
        open_tenant(&store, "cut").await,
        open_tenant(&store, "whole").await,
    );
    for tenant in [&broken, &cut, &whole] {
        append_many(tenant, 5).await;
    }
    let owner = database.connect("postgres").await;
    for (tenant, position) in [(&broken, 3_i64), (&cut, 5)] {
        let sql = "delete from events where tenant_id = $1 and position = $2";
        owner.execute(sql, &[&tenant.id().0, &position]).await.expect("deletes");
    }
    let before = (stored(&owner, broken.id()).await, stored(&owner, cut.id()).await);

    let _feeding = feed(&store);
    caught_up(&whole).await;
    reports.reach(2).await;
    append_many(&whole, 3).await;
    caught_up(&whole).await;
    assert_eq!((checkpoint(&broken).await, checkpoint(&cut).await), (None, None));

    for (tenant, position) in [(&broken, 3), (&cut, 5)] {
        let page = tenant.read_log_page(0, None, 100, &LogFilter::default()).await;
        let error = page.expect_err("the page has a gap");
        assert_eq!(violated(&error), Some((Invariant::LogPositions, position)));
        assert!(!error.is_unavailable());
    }
    let page = broken.read_log_page(3, None, 100, &LogFilter::default()).await.expect("the rest reads");
    assert_eq!(page.events.len(), 2);
    assert_eq!((stored(&owner, broken.id()).await, stored(&owner, cut.id()).await), before);
    assert_eq!(reports.count(), 2, "once for each tenant");
}

#[tokio::test]
async fn a_gap_in_a_stream_stops_its_readers() {
    let reports = Reports::of(Invariant::StreamVersions).await;
    let database = Database::create().await;
    let store = database.store().await;
    let stream = StreamName::new("test.thing", Uuid::from_u128(7));
    let (broken, whole) = (open_tenant(&store, "broken").await, open_tenant(&store, "whole").await);
    for tenant in [&broken, &whole] {
        let events = vec![event("test.thing.happened.v1", "{}"); 4];
        let append = StreamAppend::new(stream.clone(), ExpectedVersion::NoStream, events, metadata());
        tenant.append(append).await.expect("appends");
    }
    let owner = database.connect("postgres").await;
    let sql = "delete from events where tenant_id = $1 and version = 2";
    owner.execute(sql, &[&broken.id().0]).await.expect("deletes");
    let before = stored(&owner, broken.id()).await;

    let read = async |tenant: &TenantStore, from: u64| {
        tenant.read_stream(&stream, from).try_collect::<Vec<RecordedEvent>>().await
    };
    let limit = PageLimit { events: 10, bytes: 1_000_000 };
    let wanted = Some((Invariant::StreamVersions, 3));
    for _ in 0..2 {
        assert_eq!(violated(&read(&broken, 1).await.expect_err("a gap")), wanted);
        let page = broken.read_stream_page(&stream, 2, limit).await;
        assert_eq!(violated(&page.expect_err("a gap")), wanted);
        assert_eq!(read(&whole, 1).await.expect("reads").len(), 4);
    }
    assert_eq!(read(&broken, 3).await.expect("the rest reads").len(), 2);
    assert_eq!(stored(&owner, broken.id()).await, before);
    assert_eq!(reports.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_beyond_the_head_stops_its_consumer() {
    let reports = Reports::of(Invariant::CheckpointWithinHead).await;
    let database = Database::create().await;
    let store = database.store().await;
    let (broken, whole) = (open_tenant(&store, "broken").await, open_tenant(&store, "whole").await);
    let feeding = feed(&store);
    for tenant in [&broken, &whole] {
        append_many(tenant, 5).await;
        caught_up(tenant).await;
    }
    drop(feeding);
    let owner = database.connect("postgres").await;
    let sql = "update checkpoints set position = 9 where tenant_id = $1 and consumer = $2";
    owner.execute(sql, &[&broken.id().0, &NAME]).await.expect("alters");

    let _feeding = feed(&store);
    reports.reach(1).await;
    for tenant in [&broken, &whole] {
        append_many(tenant, 10).await;
    }
    caught_up(&whole).await;
    assert_eq!(checkpoint(&broken).await, Some(9), "although the head is beyond it");
    assert_eq!(reports.count(), 1);
}
