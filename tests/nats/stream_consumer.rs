//! The follower, and the feed that makes it complete: whatever the broker loses, repeats or makes up.

use std::sync::Arc;
use std::sync::Mutex;

use bytes::Bytes;
use futures::StreamExt;
use nats::StreamConsumer;
use store::feed::{self, Batch, BatchOutcome, Consumer, FeedSettings};
use store::{Store, StoreError, TenantStore};
use tokio_util::sync::CancellationToken;

use crate::support::nats_server::NatsServer;
use crate::support::postgres::{Database, open_tenant};
use crate::support::relay::{DEADLINE, Relay, append_many, connect, read_log, wait_until};

/// Follows before anything is recorded: waits until the server knows the consumer.
pub async fn follower(store: &Store, server: &NatsServer, cancel: &CancellationToken) -> StreamConsumer {
    let nats = connect(server.url()).await;
    let follower = StreamConsumer::start(store.clone(), nats.clone(), cancel.clone());
    wait_until("the consumer stands", || async {
        nats.event_stream().await.is_ok_and(|stream| stream.state.consumer_count == 1)
    })
    .await;
    follower
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_recorded_is_handed_on_as_it_was_recorded() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let store = database.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let cancel = CancellationToken::new();
    let follower = follower(&store, &server, &cancel).await;
    let mut batches = Box::pin(follower.batches());
    let client = async_nats::connect(server.url()).await.expect("a stock client connects");
    // Somebody else's message in our stream: skipped.
    let jetstream = async_nats::jetstream::new(client);
    let sent = jetstream.publish("events.acme.x", Bytes::from_static(b"?")).await.expect("sent");
    sent.await.expect("stored");
    let relay = Relay::start(&store, &server).await;
    append_many(&tenant, 300).await;

    let mut followed = Vec::new();
    let following = async {
        while followed.len() < 300 {
            let batch = batches.next().await.expect("the follower goes on");
            if batch.tenant == tenant.id() {
                assert!(batch.events.iter().all(|event| event.log_id == batch.log_id));
                followed.extend(batch.events);
            }
        }
    };
    tokio::time::timeout(DEADLINE, following).await.expect("everything is followed");
    assert_eq!(followed, read_log(&tenant).await);
    relay.stop().await;
    cancel.cancel();
}

/// Remembers the positions handled, in PostgreSQL the checkpoint only.
pub struct Recorder {
    pub handled: Mutex<Vec<u64>>,
    pub tenant: TenantStore,
}

impl Consumer for Recorder {
    fn name(&self) -> &'static str {
        "test.recorder"
    }

    async fn handle(&self, from: u64, batch: Batch) -> Result<BatchOutcome, StoreError> {
        let positions: Vec<u64> = batch.events.iter().map(|event| event.position).collect();
        let to = from + positions.len() as u64;
        assert_eq!(positions, (from + 1..=to).collect::<Vec<_>>(), "contiguous, right after the checkpoint");
        if batch.tenant == self.tenant.id() {
            self.handled.lock().expect("not poisoned").extend(positions);
        }
        let transaction = self.tenant.store().tenant(batch.tenant).begin_worker_transaction().await?;
        if !transaction.move_checkpoint(self.name(), batch.log_id, from, to).await? {
            return Ok(BatchOutcome::Conflict);
        }
        transaction.commit().await?;
        Ok(BatchOutcome::Advanced(to))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_sees_every_event_once_although_the_broker_goes_and_comes() {
    let (database, mut server) = (Database::create().await, NatsServer::start().await);
    let store = database.store().await;
    let tenant = open_tenant(&store, "acme").await;
    append_many(&tenant, 100).await;
    let cancel = CancellationToken::new();
    let follower = follower(&store, &server, &cancel).await;
    let recorder = Arc::new(Recorder { handled: Mutex::default(), tenant: tenant.clone() });
    let settings = FeedSettings { batch: 64, ..FeedSettings::default() };
    let feeding = tokio::spawn(feed::run(
        store.clone(),
        Arc::clone(&recorder),
        follower.batches(),
        settings,
        cancel.clone(),
    ));
    let relay = Relay::start(&store, &server).await;
    append_many(&tenant, 400).await;
    server.kill();
    append_many(&tenant, 100).await;
    server.restart().await;
    append_many(&tenant, 400).await;

    let head = tenant.head().await.expect("a head");
    let reached = tenant.wait_for_checkpoint("test.recorder", head.log_id, head.position, DEADLINE).await;
    assert!(reached.expect("the checkpoint reads"), "the consumer reaches the head");
    let handled = recorder.handled.lock().expect("not poisoned").clone();
    assert_eq!(handled, (1..=1_000).collect::<Vec<_>>());
    cancel.cancel();
    feeding.await.expect("the feed ends well");
    relay.stop().await;
}
