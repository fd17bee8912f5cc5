//! What is recorded counts: a reaction that stands in the log is what happens, whatever the process would say today.

use std::sync::Arc;

use commands::{AnyCommand, Customer};
use sagas::engine::process::target_id;
use sagas::{Process, Reaction, Trigger};
use schemas::crm::customer::{CustomerCommand, CustomerDetails};
use schemas::engine::{DecodeError, Email, Name};
use schemas::saga::instance_stream;

use super::rejected::place_order;
use crate::support::nats_server::NatsServer;
use crate::support::postgres::{Database, open_tenant};
use crate::support::relay::wait_until;
use crate::support::saga_engine::{Engine, settled, types};

const NAME: &str = "ordering";

/// Registers a customer for each order, in a step whose label is the version of this process.
struct Ordering(&'static str);

impl Process for Ordering {
    fn name(&self) -> &'static str {
        NAME
    }

    fn react(&self, trigger: Trigger<'_>) -> Result<Option<Reaction>, DecodeError> {
        let (true, Some(instance)) =
            (trigger.event.event_type.as_str() == "test.order.placed.v1", trigger.event.stream.uuid())
        else {
            return Ok(None);
        };
        let command = CustomerCommand::RegisterCustomer {
            user_id: None,
            details: CustomerDetails {
                name: Name::parse("Ada").expect("valid"),
                email: Email::parse("ada@example.com").expect("valid"),
                company: None,
                notes: None,
            },
        };
        let command = AnyCommand::new(target_id(NAME, instance, self.0), &command);
        Ok(Some(Reaction::new(instance, "ordered").step(self.0, command)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reaction_that_stands_counts_although_the_process_has_changed_since() {
    let (database, server) = (Database::create().await, NatsServer::start().await);
    let engine = Engine::start(&database, &server, vec![Arc::new(Ordering("first"))]).await;
    let tenant = open_tenant(&engine.store, "acme").await;
    // Rows cannot be written, so the engine stops right behind the append of its reaction.
    let mut owner = database.connect("postgres").await;
    let lock = owner.transaction().await.expect("a transaction");
    lock.batch_execute("lock table saga_steps in exclusive mode").await.expect("locks");
    let instance = place_order(&tenant).await;
    let stream = instance_stream(NAME, instance);
    wait_until("the reaction is recorded", || async { !types(&tenant, &stream).await.is_empty() }).await;
    engine.abort().await;
    lock.rollback().await.expect("unlocks");

    let engine = Engine::start(&database, &server, vec![Arc::new(Ordering("second"))]).await;
    settled(&database, &tenant, NAME).await;
    let customer = |label: &str| {
        let (executor, id) = (engine.executor.clone(), target_id(NAME, instance, label));
        let tenant = tenant.id();
        async move { executor.load::<Customer>(tenant, id).await.expect("loads").is_some() }
    };
    assert!(customer("first").await, "what was decided is done");
    assert!(!customer("second").await, "what would be decided now is not");
    engine.stop().await;
}
