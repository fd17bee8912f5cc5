//! Appends from several processes, at random, with everything that may go wrong: whatever they were answered, and
//! whatever stands in the log, must be what some serial execution of them gives.
//!
//! The processes are this binary, run again with one test alone. `ANNALS_TEST_SEED` repeats the schedules, not the
//! interleaving: a rare failure may take several runs of its seed.

mod history;
mod judge;
mod record;
mod worker;

use std::process::Stdio;

use schemas::engine::ids;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use uuid::Uuid;

use self::history::{Line, Orders, monotonic};
use self::judge::Judge;
use crate::support::dice::Dice;
use crate::support::postgres::{Database, PASSWORD, open_tenant};
use crate::support::wire::{Moment, Wire};
use crate::support::{eventually, long};

/// The variable that makes this binary a worker process.
const WORKER: &str = "ANNALS_TEST_WORKER";
const PROCESSES: usize = 3;
const TENANTS: usize = 4;

/// How hard a run is.
struct Effort {
    writers: u64,
    appends: u64,
    /// Calls between two faults of connections.
    calls_a_cut: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_processes_append_has_a_serial_order() {
    let seed = long::seed();
    run(seed, Effort { writers: 70, appends: 10, calls_a_cut: 60 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_whatever_processes_append_has_a_serial_order() {
    if !long::is_wanted() {
        return;
    }
    let mut dice = Dice::new(long::seed());
    for _ in 0..40 {
        let effort = Effort {
            writers: 10 + dice.below(190),
            appends: 10 + dice.below(20),
            calls_a_cut: 20 + dice.below(500) as usize,
        };
        run(dice.next(), effort).await;
    }
}

/// It is also the worker process: with [`WORKER`] in its environment it reads orders from its standard input, and prints
/// what it did.
#[test]
fn a_worker_without_orders_fails() {
    if std::env::var_os(WORKER).is_none() {
        let mut worker = worker_command().into_std();
        let output = worker.stdin(Stdio::null()).output().expect("this binary runs");
        assert!(!output.status.success());
        return;
    }
    let mut orders = String::new();
    std::io::stdin().read_line(&mut orders).expect("standard input reads");
    let orders = serde_json::from_str::<Orders>(&orders).expect("orders are JSON");
    std::thread::spawn(|| {
        // It ends with whoever started it.
        drop(std::io::stdin().read_line(&mut String::new()));
        std::process::exit(1);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(worker::work(orders));
}

fn worker_command() -> Command {
    let (_, path) = module_path!().split_once("::").expect("a module of the crate");
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command
        .args([&format!("{path}::a_worker_without_orders_fails"), "--exact", "--nocapture"])
        .env(WORKER, "1");
    command
}

async fn start(orders: &Orders, lines: mpsc::UnboundedSender<Line>) -> Child {
    let mut child = worker_command()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("this binary runs");
    let orders = format!("{}\n", serde_json::to_string(orders).expect("orders are JSON"));
    let stdin = child.stdin.as_mut().expect("it is piped");
    stdin.write_all(orders.as_bytes()).await.expect("it takes its orders");
    let mut heard = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    tokio::spawn(async move {
        while let Ok(Some(text)) = heard.next_line().await {
            if let Some(line) = Line::heard(&text) {
                drop(lines.send(line));
            }
        }
    });
    child
}

async fn run(seed: u64, effort: Effort) {
    let mut dice = Dice::new(seed);
    let database = Database::create().await;
    let store = database.store().await;
    let mut tenants = Vec::new();
    for n in 0..TENANTS {
        tenants.push(open_tenant(&store, &format!("tenant-{n}")).await.id().0);
    }
    // From here on only the workers append.
    store.shutdown().await;
    let wire = Wire::start(database.port).await;
    let orders = |worker: usize, seed: u64| Orders {
        host: "127.0.0.1".to_owned(),
        port: wire.port(),
        database: database.name.clone(),
        password: PASSWORD.to_owned(),
        key: database.key.to_hex(),
        lanes: 1 + worker % 2,
        worker,
        seed,
        writers: effort.writers,
        appends: effort.appends,
        tenants: tenants.clone(),
    };
    let (sender, mut lines) = mpsc::unbounded_channel();
    let mut children = Vec::new();
    for worker in 0..PROCESSES {
        children.push(start(&orders(worker, dice.next()), sender.clone()).await);
    }

    // Faults are counted in calls, so a slow machine meets as many as a fast one.
    let all = effort.writers as usize * effort.appends as usize * PROCESSES;
    let (first, kill) = (all / 4, all / 2);
    let superuser = database.connect("postgres").await;
    let mut sender = Some(sender);
    let (mut history, mut calls, mut first_fault, mut ended) = (Vec::new(), 0, u64::MAX, Vec::new());
    while let Some(line) = lines.recv().await {
        calls += usize::from(matches!(line, Line::Call(_)));
        let called = matches!(line, Line::Call(_));
        history.push(line);
        if called && calls >= first && (calls - first) % effort.calls_a_cut == 0 {
            first_fault = first_fault.min(monotonic());
            wire.release();
            let role = ["annals_appender", "annals_appender", "annals_lookup"][dice.below(3) as usize];
            match dice.below(5) {
                0 => {
                    let cut = "select pg_terminate_backend(pid) from pg_stat_activity
                               where datname = current_database() and usename = $1
                               order by random() limit 2";
                    superuser.query(cut, &[&role]).await.expect("cuts");
                }
                1 => wire.arm(role, 1 + dice.below(6) as u32, Moment::Before),
                2 => wire.arm("annals_appender", 1 + dice.below(6) as u32, Moment::Late),
                _ => wire.arm(role, 1 + dice.below(6) as u32, Moment::After),
            }
        }
        if called && calls == kill {
            first_fault = first_fault.min(monotonic());
            let mut killed = children.remove(dice.below(PROCESSES as u64) as usize);
            killed.start_kill().expect("it is our child");
            ended.push(killed);
            let sender = sender.take().expect("one is killed");
            children.push(start(&orders(PROCESSES, dice.next()), sender).await);
        }
    }
    // What is still held arrives now.
    wire.disarm();
    wire.release();
    for child in &mut children {
        let status = child.wait().await.expect("it is our child");
        assert!(status.success(), "seed {seed}: a worker failed: {status}");
    }
    judge(seed, &database, tenants, history, first_fault).await;
}

async fn judge(seed: u64, database: &Database, tenants: Vec<Uuid>, history: Vec<Line>, first_fault: u64) {
    let superuser = database.connect("postgres").await;
    // What a killed process had sent may still be under way.
    eventually("the workers' connections have gone", || async {
        let left = "select count(*) from pg_stat_activity where datname = current_database()
                    and usename = 'annals_appender'";
        let left: i64 = superuser.query_one(left, &[]).await.expect("counts").get(0);
        (left == 0).then_some(())
    })
    .await;
    let store = database.store().await;
    let mut judge = Judge::new(history, first_fault);
    let mut records = Vec::new();
    for (index, tenant) in tenants.iter().enumerate() {
        let record = record::read(database, &store, *tenant, &mut judge.violations).await;
        judge.tenant(index, &record);
        records.push(record);
    }
    let known: Vec<Uuid> = tenants.into_iter().chain([ids::PLATFORM.0]).collect();
    judge.opened(&records, &record::opened(database, &known).await);
    println!("seed {seed}: {:?}", judge.tally);
    let (count, some) = (judge.violations.len(), judge.violations.iter().take(12));
    assert!(count == 0, "seed {seed}: {count} violations\n{}", some.cloned().collect::<Vec<_>>().join("\n"));
    for kind in ["done", "duplicate", "conflict", "reused", "reserved", "invalid"] {
        assert!(judge.tally.contains_key(kind), "seed {seed}: no answer was {kind}: {:?}", judge.tally);
    }
}
