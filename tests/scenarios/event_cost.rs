//! What an event costs behind its command: the statements, commits and messages of all background work of a process.

use std::collections::BTreeMap;
use std::sync::Arc;

use commands::Executor;
use futures::FutureExt;
use futures::future::join_all;
use nats::StreamConsumer;
use store::TenantStore;
use store::feed::FeedSettings;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::support::eventually;
use crate::support::nats_server::NatsServer;
use crate::support::postgres::{Database, open_tenant};
use crate::support::read_models::{register, rename};
use crate::support::relay::{Relay, connect};
use crate::support::saga_engine::IMPATIENT;

/// A process with the roles that follow the logs, over a database that logs its statements.
struct Site {
    database: Database,
    /// For looking on: its statements are not those of the product.
    owner: tokio_postgres::Client,
    executor: Executor,
    tenant: TenantStore,
    _relay: Relay,
    _server: NatsServer,
    _work: Vec<AbortOnDropHandle<()>>,
    nats: nats::Nats,
}

/// What was counted.
#[derive(Debug)]
struct Cost {
    /// By role of the database: all statements, the commits among them.
    statements: BTreeMap<String, (usize, usize)>,
    notifications: usize,
    messages: u64,
}

impl Site {
    async fn new() -> Self {
        let (database, server) = (Database::create().await, NatsServer::start().await);
        database.log_statements().await;
        let store = database.store().await;
        let executor = Executor::new(store.clone(), 1_000);
        let tenant = open_tenant(&store, "acme").await;
        let relay = Relay::start(&store, &server).await;
        let nats = connect(server.url()).await;
        let cancel = CancellationToken::new();
        let follower = StreamConsumer::start(store.clone(), connect(server.url()).await, cancel.clone());
        let (projecting, reacting) = (follower.clone(), follower.clone());
        let projections = {
            let (store, cancel) = (store.clone(), cancel.clone());
            async move {
                projections::run_all(store, || projecting.batches(), FeedSettings::default(), cancel).await;
            }
        };
        let sagas = {
            let (executor, cancel) = (executor.clone(), cancel.clone());
            async move {
                let batches = move || reacting.batches();
                let running = sagas::run(executor, sagas::processes(), batches, IMPATIENT, cancel);
                running.await.expect("the sagas end well");
            }
        };
        let read_models = projections::CHECKPOINTS.iter().map(ToString::to_string).collect();
        let copies = Arc::new(|| std::future::ready(Ok(Vec::new())).boxed());
        let erasures = privacy::run(
            executor.clone(),
            database.keyring(),
            read_models,
            copies,
            follower.batches(),
            cancel.clone(),
        );
        let work = vec![
            AbortOnDropHandle::new(tokio::spawn(projections)),
            AbortOnDropHandle::new(tokio::spawn(sagas)),
            AbortOnDropHandle::new(tokio::spawn(erasures)),
        ];
        let owner = database.connect("postgres").await;
        Self { database, owner, executor, tenant, _relay: relay, _server: server, _work: work, nats }
    }

    /// Waits until every consumer and the relay have reached the head of the tenant.
    async fn at_rest(&self) {
        // Each consumer has a checkpoint; the relay has its own row.
        let consumers = (projections::CHECKPOINTS.len() + sagas::processes().len() + 1) as i64;
        let sql = "select (select count(*) from checkpoints c where c.tenant_id = h.tenant_id
                               and c.position = h.position) = $2
                          and exists (select from relay_progress p where p.tenant_id = h.tenant_id
                               and p.acked = h.position)
                   from heads h where tenant_id = $1";
        eventually("everything has reached the head", || async {
            let row = self.owner.query_one(sql, &[&self.tenant.id().0, &consumers]).await.expect("reads");
            row.get::<_, bool>(0).then_some(())
        })
        .await;
    }

    async fn messages(&self) -> u64 {
        let mut stream = self.nats.jetstream().get_stream("EVENTS").await.expect("the stream");
        stream.info().await.expect("its state").state.last_sequence
    }

    /// What the work costs, until everything rests again.
    async fn cost_of(&self, work: impl Future<Output = ()>) -> Cost {
        self.at_rest().await;
        let (before, messages) = (self.database.statements().len(), self.messages().await);
        work.await;
        self.at_rest().await;
        let logged = self.database.statements().split_off(before);
        let mut statements: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for (role, text) in logged.iter().filter(|(role, _)| role != "postgres") {
            if std::env::var_os("ANNALS_TEST_STATEMENTS").is_some() {
                println!("{role}: {text}");
            }
            let counted = statements.entry(role.clone()).or_default();
            counted.0 += 1;
            counted.1 += usize::from(text == "commit");
        }
        let notifications = logged.iter().filter(|(_, text)| text.contains("pg_notify")).count();
        Cost { statements, notifications, messages: self.messages().await - messages }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_event_costs_behind_its_command() {
    let site = Site::new().await;
    let mut customers = Vec::new();
    for n in 0..100 {
        customers.push(register(&site.executor, &site.tenant, &format!("Customer {n}")).await);
    }
    let one = site.cost_of(rename(&site.executor, &site.tenant, customers[0], "Renamed")).await;
    println!("one rename: {one:#?}");
    let hundred = site
        .cost_of(async {
            let rename = |(n, id)| {
                let text = format!("Renamed {n}");
                let site = &site;
                async move { rename(&site.executor, &site.tenant, id, &text).await }
            };
            join_all(customers.iter().copied().enumerate().map(rename)).await;
        })
        .await;
    println!("a hundred renames: {hundred:#?}");
    assert_eq!((one.messages, hundred.messages), (1, 100));
}
