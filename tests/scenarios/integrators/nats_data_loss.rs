//! A tenant's log is followed by a NATS client, server-sent events and a webhook while nats-server is killed, restarted and
//! wiped at places that a seed draws. Afterwards each follower's record is compared with the log: every position once, in
//! order. `make test-long` takes a million events, or `ANNALS_TEST_EVENTS`; `ANNALS_TEST_SEED` repeats the draw.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use reqwest::{Method, StatusCode};
use schemas::engine::{StreamName, TenantSlug};
use serde_json::{Value, json};
use store::{ExpectedVersion, LogFilter, Store, StreamAppend, TenantStore};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::consumer_record::Record;
use super::consumers::{Endpoint, follow_jetstream, follow_sse};
use crate::support::deployment::{Account, Answer, Deployment, Process};
use crate::support::dice::Dice;
use crate::support::nats_server::NatsServer;
use crate::support::postgres::{event, metadata};
use crate::support::postgres_server::PostgresServer;
use crate::support::{folder, long};

const ROLES: [&str; 3] = ["gateway", "relay", "webhooks"];
/// Events of one append, and appends at a time.
const BATCH: u64 = 100;
const AT_ONCE: usize = 4;
const STREAMS: u64 = 200;
/// Tokens last an hour.
const RENEWED: Duration = Duration::from_mins(20);

/// How much of everything.
#[derive(Clone, Copy)]
struct Size {
    events: u64,
    restarts: usize,
    wipes: usize,
    /// How far appends may be ahead of the slowest follower, so that faults meet followers at work.
    ahead: u64,
    /// The longest that a follower may stand still: a message that was lost with its connection comes again after 30 s.
    stall: Duration,
}

const SHORT: Size =
    Size { events: 4_000, restarts: 2, wipes: 2, ahead: 1_000, stall: Duration::from_secs(70) };

const LONG: Size =
    Size { events: 1_000_000, restarts: 12, wipes: 6, ahead: 50_000, stall: Duration::from_mins(5) };

/// Something that happens to nats-server when so many events have been appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Fault {
    at: u64,
    down: Duration,
    wiped: bool,
}

fn faults(size: &Size, dice: &mut Dice) -> Vec<Fault> {
    let mut faults: Vec<Fault> = (0..size.restarts + size.wipes)
        .map(|number| Fault {
            at: size.events / 20 + dice.below(size.events * 9 / 10),
            down: Duration::from_millis(dice.below(400)),
            wiped: number < size.wipes,
        })
        .collect();
    faults.sort_unstable();
    faults
}

struct Site {
    _database: PostgresServer,
    nats: NatsServer,
    deployment: Deployment,
    processes: Vec<Process>,
    tenant: Account,
}

impl Site {
    async fn start() -> Self {
        let database = PostgresServer::start(&["max_wal_size=4GB"]).await;
        let nats = Box::pin(NatsServer::start_in_operator_mode()).await;
        let keys = nats.keys();
        let settings = format!(
            "credentials_file = \"{}\"\nsystem_credentials_file = \"{}\"\nedge_account = \"{}\"\n\
             edge_signing_seed = \"{}\"\noperator_signing_seed = \"{}\"\n\
             [webhooks]\nallow_private_addresses = true\ninitial_delay_ms = 50\nmax_delay_ms = 200\n",
            nats.credentials("application").display(),
            nats.credentials("system").display(),
            keys.edge_account(),
            keys.edge_signing_seed(),
            keys.operator_signing_seed(),
        );
        let deployment = Deployment::with(database.port(), &nats.url(), &settings);
        let processes: Vec<Process> = ROLES.iter().map(|role| deployment.serve(role)).collect();
        for process in &processes {
            process.started().await;
        }
        let tenant = deployment.tenant(&processes[0], "acme").await;
        Self { _database: database, nats, deployment, processes, tenant }
    }

    /// A request of the administrator that must have this status.
    async fn ask(&self, method: Method, path: &str, body: &Value, wanted: StatusCode) -> Value {
        let request = || self.processes[0].request(method.clone(), path).bearer_auth(&self.tenant.token);
        let answer = Answer::of(request().json(body)).await;
        assert_eq!(answer.status, wanted, "{path}: {:?}", answer.body);
        answer.body
    }

    async fn tenant_of(&self, store: &Store) -> TenantStore {
        let slug = TenantSlug::parse(&self.tenant.slug).expect("a slug");
        let record = store.tenant_by_slug(&slug).await.expect("the store answers").expect("it is there");
        store.tenant(record.id)
    }

    async fn suffer(&mut self, fault: Fault) {
        self.nats.kill();
        // The length of the fault: nothing is waited for here.
        tokio::time::interval_at(tokio::time::Instant::now() + fault.down, RENEWED).tick().await;
        if fault.wiped {
            self.nats.wipe();
            self.nats.wipe_accounts();
        }
        Box::pin(self.nats.restart()).await;
    }
}

/// Appends events until the log has as many as wanted; `head` tells how many it has.
struct Writer {
    tenant: TenantStore,
    head: Arc<AtomicU64>,
    records: Vec<Arc<Record>>,
    size: Size,
}

impl Writer {
    async fn run(self) {
        let batches = self.size.events.div_ceil(BATCH);
        futures::stream::iter(0..batches).for_each_concurrent(AT_ONCE, |batch| self.append(batch)).await;
    }

    async fn append(&self, batch: u64) {
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        let slowest = || self.records.iter().map(|record| record.last()).min().expect("three of them");
        while self.head.load(Ordering::Relaxed) > slowest() + self.size.ahead {
            looks.tick().await;
        }
        let one =
            |number| event("ext.load.meter.read.v1", &json!({"value": batch * BATCH + number}).to_string());
        let stream = StreamName::new("ext.load.meter", Uuid::from_u128(u128::from(batch % STREAMS)));
        let append =
            StreamAppend::new(stream, ExpectedVersion::Any, (0..BATCH).map(one).collect(), metadata());
        let receipt = self.tenant.append(append).await.expect("appended");
        self.head.fetch_max(receipt.position, Ordering::Relaxed);
    }
}

async fn followed_under_faults(size: Size) {
    let seed = long::seed();
    println!("seed {seed}: ANNALS_TEST_SEED={seed} repeats these faults");
    let mut dice = Dice::new(seed);
    let faults = faults(&size, &mut dice);
    let mut site = Site::start().await;
    let records_folder = folder();
    let record = |name| Arc::new(Record::new(records_folder.path(), name));
    let (jetstream, sse, webhook) = (record("JetStream"), record("SSE"), record("webhook"));
    let records = vec![Arc::clone(&jetstream), Arc::clone(&sse), Arc::clone(&webhook)];
    let (renew, token) = watch::channel(site.tenant.token.clone());
    let url = site.processes[0].url("/v1/events/stream");

    let body = json!({"name": "erp", "after": 0});
    let credential = site.ask(Method::POST, "/v1/integrations/credentials", &body, StatusCode::CREATED).await;
    let endpoint = Endpoint::start(Arc::clone(&webhook), dice.split()).await;
    let body = json!({"url": endpoint.url, "after": 0});
    let registered = site.ask(Method::POST, "/v1/webhooks", &body, StatusCode::CREATED).await;
    endpoint.verify(registered["secret"].as_str().expect("a secret"));
    let file = records_folder.path().join("erp.creds");
    let follow = follow_jetstream(jetstream, credential, file);
    let head = Arc::new(AtomicU64::new(0));
    let store = site.deployment.store().await;
    let tenant = site.tenant_of(&store).await;
    let writer = Writer { tenant: tenant.clone(), head: Arc::clone(&head), records: records.clone(), size };
    let begun = Instant::now();
    let _following = [
        AbortOnDropHandle::new(tokio::spawn(follow)),
        AbortOnDropHandle::new(tokio::spawn(follow_sse(sse, url, token, dice.split(), size.events / 8))),
    ];
    let mut writing = tokio::spawn(writer.run());

    let (mut pending, mut renewed) = (faults.iter().copied().peekable(), Instant::now());
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let mut finished = [None; 3];
    let mut appended_in = None;
    while finished.iter().any(Option::is_none) || appended_in.is_none() {
        tokio::select! {
            ended = &mut writing, if appended_in.is_none() => {
                ended.expect("everything was appended");
                appended_in = Some(begun.elapsed());
            }
            _ = looks.tick() => {}
        }
        let appended = head.load(Ordering::Relaxed);
        if let Some(fault) = pending.next_if(|fault| fault.at <= appended) {
            println!("{:7.1} s  {fault:?}, records at {:?}", begun.elapsed().as_secs_f64(), at(&records));
            site.suffer(fault).await;
        }
        if renewed.elapsed() > RENEWED {
            renewed = Instant::now();
            renew.send_replace(site.deployment.login(&site.processes[0], &site.tenant.slug).await.token);
        }
        for (done, record) in finished.iter_mut().zip(&records) {
            if appended_in.is_some() && done.is_none() && record.last() >= appended {
                *done = Some(begun.elapsed());
            }
        }
        let stands_still = records.iter().all(|record| record.quiet_for() > size.stall);
        let last_stands_still = appended_in.is_some()
            && records.iter().any(|record| record.last() < appended && record.quiet_for() > size.stall);
        assert!(!stands_still && !last_stands_still, "no follower goes on: {:?} of {appended}", at(&records));
    }
    assert_eq!(pending.next(), None, "every fault was met");
    for process in &site.processes {
        assert!(process.is_running(), "the process with the role {} has ended", process.roles());
    }
    let events = judge(&tenant, &records).await;
    store.shutdown().await;
    let report = report(seed, events, &faults, appended_in.unwrap_or_default(), &finished, &records);
    println!("{report}");
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("wipes.txt");
    let mut file = std::fs::File::create(path).expect("the report can be written");
    file.write_all(report.as_bytes()).expect("the report is written");
    for record in &records {
        assert_eq!(record.lock().violations, Vec::<String>::new(), "{}", record.name);
    }
}

fn at(records: &[Arc<Record>]) -> Vec<u64> {
    records.iter().map(|record| record.last()).collect()
}

/// Compares each record with the log, entry by entry; returns how many events there are.
async fn judge(tenant: &TenantStore, records: &[Arc<Record>]) -> u64 {
    let mut log = std::pin::pin!(tenant.read_log(0, LogFilter::default()));
    let mut events = 0;
    while let Some(event) = log.try_next().await.expect("the log reads") {
        for record in records {
            let entry = record.lock().entry(events);
            assert_eq!(entry, (event.position, event.event_id), "{}: entry {events}", record.name);
        }
        events += 1;
        assert_eq!(event.position, events, "the log is dense");
    }
    for record in records {
        assert_eq!(record.lock().entries(), events, "{} has nothing else", record.name);
    }
    events
}

fn report(
    seed: u64,
    events: u64,
    faults: &[Fault],
    appended_in: Duration,
    finished: &[Option<Duration>; 3],
    records: &[Arc<Record>],
) -> String {
    let wipes = faults.iter().filter(|fault| fault.wiped).count();
    let mut text = format!(
        "{events} events appended in {:.0} s; nats-server killed {} times, its storage wiped {wipes} times of these; seed \
         {seed}\n",
        appended_in.as_secs_f64(),
        faults.len(),
    );
    for (record, finished) in records.iter().zip(finished) {
        let (kept, seconds) = (record.lock(), finished.unwrap_or_default().as_secs_f64());
        writeln!(
            text,
            "  {:9} every position, in order, after {seconds:.0} s ({:.0}/s); repeated {}, early {}, begun {} times, longest silence {:.1} s",
            record.name,
            events as f64 / seconds,
            kept.repeated,
            kept.early,
            kept.resumed,
            kept.longest.as_secs_f64(),
        )
        .expect("a string");
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_becomes_of_nats_each_follower_has_every_position_in_order() {
    Box::pin(followed_under_faults(SHORT)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_a_million_events_are_followed_while_nats_is_killed_and_wiped() {
    if long::is_wanted() {
        Box::pin(followed_under_faults(Size { events: long::events(), ..LONG })).await;
    }
}
