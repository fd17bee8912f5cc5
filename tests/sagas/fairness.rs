//! Tenants with many steps do not keep the steps of another one waiting until theirs are done.

use std::sync::Arc;

use commands::AnyCommand;
use futures::future::join_all;
use sagas::engine::process::target_id;
use sagas::{Process, Reaction, SagaSettings, Trigger};
use schemas::crm::customer::{CustomerCommand, CustomerDetails};
use schemas::engine::{DecodeError, Email, Name, StreamName, TenantId, ids};
use store::{ExpectedVersion, StreamAppend, TenantStore};

use crate::support::nats_server::NatsServer;
use crate::support::postgres::{Database, event, metadata, open_tenant};
use crate::support::relay::wait_until;
use crate::support::saga_engine::{Engine, IMPATIENT, settled};

const NAME: &str = "welcome";
/// Tenants at work at once, in each process.
const BUSY: usize = 8;
const STEPS: usize = 250;

/// One step for each event.
struct Welcome;

impl Process for Welcome {
    fn name(&self) -> &'static str {
        NAME
    }

    fn react(&self, trigger: Trigger<'_>) -> Result<Option<Reaction>, DecodeError> {
        if trigger.event.stream.category() != "test.order" {
            return Ok(None);
        }
        let id = trigger.event.event_id;
        let command = CustomerCommand::RegisterCustomer {
            user_id: None,
            details: CustomerDetails {
                name: Name::parse("Ada").expect("valid"),
                email: Email::parse(&format!("{}@example.com", id.simple())).expect("valid"),
                company: None,
                notes: None,
            },
        };
        let command = AnyCommand::new(target_id(NAME, id, "register"), &command);
        Ok(Some(Reaction::new(id, "welcomed").step("register", command)))
    }
}

async fn place_orders(tenant: &TenantStore, count: usize) {
    let stream = StreamName::new("test.order", ids::new_id());
    let events = (0..count).map(|_| event("test.order.placed.v1", "{}")).collect();
    let append = StreamAppend::new(stream, ExpectedVersion::Any, events, metadata());
    tenant.append(append).await.expect("appends");
}

/// How many steps of the tenant are not taken yet.
async fn pending(owner: &tokio_postgres::Client, tenant: TenantId) -> i64 {
    let sql = "select count(*) from saga_steps where tenant_id = $1 and saga = $2 and status = 'pending'";
    owner.query_one(sql, &[&tenant.0, &NAME]).await.expect("counts").get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_with_one_step_does_not_wait_for_tenants_with_hundreds() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let owner = database.connect("postgres").await;
    let settings = SagaSettings { max_concurrent_steps: 8, ..IMPATIENT };
    let engine = Engine::start_with(&database, &server, vec![Arc::new(Welcome)], settings).await;
    let slugs: Vec<String> = (0..BUSY).map(|number| format!("busy{number}")).collect();
    let busy = join_all(slugs.iter().map(|slug| open_tenant(&engine.store, slug))).await;
    let quiet = open_tenant(&engine.store, "quiet").await;
    join_all(busy.iter().map(|tenant| place_orders(tenant, STEPS))).await;
    wait_until("each busy tenant is at work", || async {
        join_all(busy.iter().map(|tenant| pending(&owner, tenant.id()))).await.iter().all(|left| *left > 0)
    })
    .await;
    place_orders(&quiet, 1).await;
    settled(&database, &quiet, NAME).await;
    let left = join_all(busy.iter().map(|tenant| pending(&owner, tenant.id()))).await;
    assert!(left.iter().all(|left| *left > 0), "it waited for another tenant's steps: {left:?}");
    engine.stop().await;
}
