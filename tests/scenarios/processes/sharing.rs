//! Workers of one deployment, each with a store of its own as a process has, share tenants and take over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::join_all;
use schemas::engine::TenantId;
use store::feed::{self, Batch, BatchOutcome, Consumer, FeedSettings};
use store::{Store, StoreError, TenantStore, Workload};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::support::postgres::{Database, open_tenant};
use crate::support::relay::{append_many, wait_until};

const TENANTS: usize = 30;

/// Which workers handled each position of each tenant.
type HandledBy = Arc<Mutex<HashMap<(TenantId, u64), Vec<usize>>>>;

/// Notes who handled what.
struct Counter {
    worker: usize,
    store: Store,
    handled: HandledBy,
}

impl Consumer for Counter {
    fn name(&self) -> &'static str {
        "test.counter"
    }

    async fn handle(&self, from: u64, batch: Batch) -> Result<BatchOutcome, StoreError> {
        let to = from + batch.events.len() as u64;
        let transaction = self.store.tenant(batch.tenant).begin_worker_transaction().await?;
        if !transaction.move_checkpoint(self.name(), batch.log_id, from, to).await? {
            return Ok(BatchOutcome::Conflict);
        }
        transaction.commit().await?;
        let mut handled = self.handled.lock().expect("not poisoned");
        for event in &batch.events {
            handled.entry((batch.tenant, event.position)).or_default().push(self.worker);
        }
        Ok(BatchOutcome::Advanced(to))
    }
}

/// A process as far as this work goes. Dropped, it is gone without a goodbye.
struct Worker {
    store: Store,
    leave: CancellationToken,
    keeping: AbortOnDropHandle<()>,
    _feeding: AbortOnDropHandle<()>,
}

impl Worker {
    fn start(store: Store, worker: usize, handled: &HandledBy) -> Self {
        let leave = CancellationToken::new();
        let (assignment, leaving) = (store.tenant_assignment(Workload::Projections), leave.clone());
        let keeping =
            AbortOnDropHandle::new(tokio::spawn(
                async move { assignment.maintain_membership(leaving).await },
            ));
        let counter = Counter { worker, store: store.clone(), handled: Arc::clone(handled) };
        let settings = FeedSettings { workload: Some(Workload::Projections), ..FeedSettings::default() };
        let nothing = futures::stream::pending();
        let feeding =
            feed::run(store.clone(), Arc::new(counter), nothing, settings, CancellationToken::new());
        let feeding = AbortOnDropHandle::new(tokio::spawn(feeding));
        Self { store, leave, keeping, _feeding: feeding }
    }

    fn owns(&self, tenant: &TenantStore) -> bool {
        self.store.tenant_assignment(Workload::Projections).owns(tenant.id())
    }
}

/// How many of the workers own each tenant.
fn owners(workers: &[Worker], tenants: &[TenantStore]) -> Vec<usize> {
    tenants.iter().map(|tenant| workers.iter().filter(|worker| worker.owns(tenant)).count()).collect()
}

async fn shared(workers: &[Worker], tenants: &[TenantStore]) -> Duration {
    let begun = Instant::now();
    wait_until("each tenant has one worker", || async {
        owners(workers, tenants).iter().all(|owners| *owners == 1)
    })
    .await;
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_share_tenants_and_take_over_from_one_that_dies_and_one_that_leaves() {
    let database = Database::create().await;
    let store = database.store().await;
    let mut tenants = Vec::new();
    for n in 0..TENANTS {
        tenants.push(open_tenant(&store, &format!("tenant-{n}")).await);
    }
    let handled = HandledBy::default();
    let mut workers = vec![Worker::start(store.clone(), 0, &handled)];
    assert!(owners(&workers, &tenants).iter().all(|owners| *owners == 1), "alone from the first moment");
    for worker in 1..3 {
        workers.push(Worker::start(database.store().await, worker, &handled));
    }
    shared(&workers, &tenants).await;
    for worker in &workers {
        let own = tenants.iter().filter(|tenant| worker.owns(tenant)).count();
        assert!((1..TENANTS - 1).contains(&own), "{own} of {TENANTS}");
    }

    join_all(tenants.iter().map(|tenant| append_many(tenant, 10))).await;
    wait_until("every event is handled", || async {
        handled.lock().expect("not poisoned").keys().filter(|(id, _)| is_ours(&tenants, *id)).count() == 300
    })
    .await;
    {
        let handled = handled.lock().expect("not poisoned");
        for tenant in &tenants {
            let by = &handled[&(tenant.id(), 10)];
            let owners: Vec<bool> = workers.iter().map(|worker| worker.owns(tenant)).collect();
            assert!(by.len() == 1 && owners[by[0]], "by its own worker: {by:?} of {owners:?}");
        }
    }

    // One dies without a word while events come in.
    drop(workers.pop());
    let (took, ()) = futures::join!(shared(&workers, &tenants), async {
        join_all(tenants.iter().map(|tenant| append_many(tenant, 10))).await;
    });
    println!("taken over {} ms after a worker died", took.as_millis());
    assert!(took < Duration::from_secs(5), "{took:?}");

    // Another says goodbye.
    let leaver = workers.pop().expect("two are left");
    leaver.leave.cancel();
    leaver.keeping.await.expect("it leaves");
    let took = shared(&workers, &tenants).await;
    println!("taken over {} ms after a worker left", took.as_millis());
    assert!(took < Duration::from_secs(3), "{took:?}");
    join_all(tenants.iter().map(|tenant| append_many(tenant, 10))).await;
    wait_until("every event is handled", || async {
        handled.lock().expect("not poisoned").keys().filter(|(id, _)| is_ours(&tenants, *id)).count() == 900
    })
    .await;
    let handled = handled.lock().expect("not poisoned");
    assert!(handled.values().all(|by| by.len() == 1), "each event had its effect once");
}

fn is_ours(tenants: &[TenantStore], id: TenantId) -> bool {
    tenants.iter().any(|tenant| tenant.id() == id)
}
