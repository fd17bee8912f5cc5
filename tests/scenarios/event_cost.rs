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
use sagas::SagaSettings;

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
        let executor = Executor::new(store.clone(), 1024 * 1024);
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
                let running =
                    sagas::run(executor, sagas::processes(), batches, SagaSettings::default(), cancel);
                running.await.expect("the sagas end well");
            }
        };
        let read_models = projections::checkpoints().iter().map(ToString::to_string).collect();
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

    /// Waits until every consumer and the relay have reached the head of every tenant.
    async fn at_rest(&self) {
        // Each consumer has a checkpoint for each tenant; the relay has its own row.
        let consumers = (projections::READ_MODELS.len() + sagas::processes().len() + 1) as i64;
        let sql = "select coalesce(bool_and(
                              (select count(*) from checkpoints c where c.tenant_id = h.tenant_id
                                   and c.position = h.position) = $1
                              and exists (select from relay_progress p where p.tenant_id = h.tenant_id
                                   and p.acked = h.position)), false)
                   from heads h where position > 0";
        eventually("everything has reached the head", || async {
            let row = self.owner.query_one(sql, &[&consumers]).await.expect("reads");
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
async fn consumers_share_the_transactions_of_events_that_come_together() {
    let site = Site::new().await;
    let mut customers = Vec::new();
    for n in 0..100 {
        customers.push(register(&site.executor, &site.tenant, &format!("Customer {n}")).await);
    }
    let one = site.cost_of(Box::pin(rename(&site.executor, &site.tenant, customers[0], "Renamed"))).await;
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
    // What comes at the same time shares its transactions.
    let (statements, commits) = hundred.statements["annals_projector"];
    assert!(statements <= 60 && commits <= 12 && hundred.notifications <= 10, "{hundred:?}");
    let (statements, commits) = one.statements["annals_projector"];
    assert!(statements <= 12 && commits <= 3 && one.notifications <= 2, "{one:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_at_rest_looks_at_moved_heads_once_for_all_its_consumers() {
    let site = Site::new().await;
    register(&site.executor, &site.tenant, "Ada").await;
    site.at_rest().await;
    let before = site.database.statements().len();
    let logged = eventually("the heads are looked at three times", || async {
        let logged = site.database.statements().split_off(before);
        let looks = logged.iter().filter(|(_, text)| text.starts_with("select m.mark")).count();
        (looks >= 3).then_some(logged)
    })
    .await;
    let count = |beginning: &str| logged.iter().filter(|(_, text)| text.starts_with(beginning)).count();
    assert!(count("select m.mark") < 5, "once for all: {logged:?}");
    assert_eq!(count("select h.tenant_id, h.log_id, h.position"), 0, "{logged:?}");
    assert!(logged.iter().all(|(role, _)| role != "annals_projector"), "{logged:?}");
}

/// The processor time that a process has used, in seconds.
fn processor_seconds(pid: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or(Vec::new(), |(_, fields)| fields.split_whitespace().collect());
    let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // The kernel counts in hundredths.
    ticks as f64 / 100.0
}

/// The processor time of this process, and of the sessions of a database by role.
async fn usage(site: &Site) -> BTreeMap<String, f64> {
    let sql = "select usename::text, pid from pg_stat_activity where datname = current_database()";
    let sessions = site.owner.query(sql, &[]).await.expect("reads");
    let mut used = BTreeMap::from([("this process".to_owned(), processor_seconds("self"))]);
    for session in sessions {
        let (role, pid): (String, i32) = (session.get(0), session.get(1));
        *used.entry(role).or_default() += processor_seconds(&pid.to_string());
    }
    used
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_a_hundred_thousand_tenants_at_rest() {
    if !crate::support::long::is_wanted() {
        return;
    }
    let site = Site::new().await;
    // As many tenants as there may be, each with one event that every consumer and the relay have handled.
    let sql = "insert into tenants (tenant_id, slug, name, tier, registration)
                   select gen_random_uuid(), 'x' || n, 'X', 'free', 'open' from generate_series(1, 100000) n;
               insert into heads (tenant_id, log_id, position, recorded_at)
                   select tenant_id, gen_random_uuid(), 1, now() from tenants where slug like 'x%';
               insert into checkpoints (tenant_id, consumer, log_id, position)
                   select h.tenant_id, c.consumer, h.log_id, h.position
                   from heads h join tenants t using (tenant_id),
                        (select distinct consumer from checkpoints) c where t.slug like 'x%';
               insert into relay_progress (tenant_id, log_id, generation, acked, removed, mark_sequence,
                                           mark_position, disordered_to)
                   select h.tenant_id, h.log_id, 0, 1, 0, 0, 0, 0
                   from heads h join tenants t using (tenant_id) where t.slug like 'x%';
               analyze";
    site.at_rest().await;
    site.owner.batch_execute(sql).await.expect("fills");
    let begun = std::time::Instant::now();
    let second = site.database.store().await;
    second.heads().await.expect("reads");
    println!("a store connects and reads all heads in {} ms", begun.elapsed().as_millis());
    second.shutdown().await;
    site.at_rest().await;
    // Some rounds of everything that is done periodically.
    for seconds in [5, 30] {
        let (begun, before) = (std::time::Instant::now(), usage(&site).await);
        let looks = site.database.statements().len();
        let rest = std::time::Duration::from_secs(seconds);
        drop(tokio::time::timeout(rest, std::future::pending::<()>()).await);
        let took = begun.elapsed().as_secs_f64();
        let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
        for statement in site.database.statements().split_off(looks) {
            *counts.entry(statement).or_default() += 1;
        }
        for ((role, text), count) in counts.iter().filter(|(_, count)| **count >= seconds as usize) {
            println!("{count} x {role}: {text}");
        }
        for (role, used) in usage(&site).await {
            let share = (used - before.get(&role).copied().unwrap_or_default()) / took;
            println!("{role}: {share:.3} cores over {took:.1} s");
        }
    }
    Box::pin(rename_in(&site)).await;
}

/// A tenant among many is served as before.
async fn rename_in(site: &Site) {
    let id = register(&site.executor, &site.tenant, "Ada").await;
    let cost = site.cost_of(Box::pin(rename(&site.executor, &site.tenant, id, "Renamed"))).await;
    println!("one rename: {cost:#?}");
    assert_eq!(cost.messages, 1);
}
