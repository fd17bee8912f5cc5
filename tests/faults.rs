//! The fault harness: a load on a deployment of two processes for each role, integrators that follow it, and faults, one
//! after the other, drawn from a seed. Afterwards a judge who knows nothing but the public contract states what holds.
//!
//! `ANNALS_TEST_SEED` repeats a run's faults; `make test-long` runs 200 of them (`ANNALS_TEST_FAULTS` says how many).

mod check;
mod erasures;
mod followers;
mod load;
mod seals;
mod site;
mod tally;
mod users;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio_util::task::AbortOnDropHandle;

use self::followers::Followers;
use self::load::{Client, World};
use self::site::{Fault, Site};
use self::tally::Tally;
use crate::support::dice::Dice;
use crate::support::key_stores::KeyStoreKind;
use crate::support::{eventually, long};

pub const TENANTS: usize = 5;
const CLIENTS: u64 = 2;
/// Requests that are answered between two faults.
const BREATH: u64 = 20;
/// When the short form takes no further fault.
const SHORT: Duration = Duration::from_secs(15);
/// The same over the other store of keys.
const SHORTER: Duration = Duration::from_secs(6);

#[tokio::test]
async fn whatever_dies_no_fact_is_lost_doubled_or_leaked() {
    judge(KeyStoreKind::File, long::faults(), SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_dies_the_same_holds_with_keys_in_a_database() {
    judge(KeyStoreKind::Postgres, None, SHORTER).await;
}

/// Brings so many faults about, or in the short form one of each kind until the time is over, and judges.
async fn judge(keys: KeyStoreKind, faults: Option<usize>, short: Duration) {
    let seed = long::seed();
    let (wanted, bound) = match faults {
        Some(faults) => (faults, Duration::MAX),
        None => (Fault::round(&mut Dice::new(seed), false).len(), short),
    };
    println!("seed {seed}: ANNALS_TEST_SEED={seed} repeats these faults");
    let mut dice = Dice::new(seed);
    let mut site = Site::start(keys).await;
    let mut tenants = Vec::new();
    for number in 0..TENANTS {
        tenants.push(site.deployment.tenant(&site.processes[0], &format!("tenant-{number}")).await);
    }
    let slugs: Vec<String> = tenants.iter().map(|tenant| tenant.slug.clone()).collect();
    let world = Arc::new(World {
        client: reqwest::Client::new(),
        gateways: [site.processes[0].url(""), site.processes[1].url("")],
        tenants,
        tally: Tally::default(),
        stop: AtomicBool::new(false),
    });
    let jetstream = Followers::new("JetStream", &world);
    let sse = Followers::new("SSE", &world);
    let mut following = vec![
        AbortOnDropHandle::new(tokio::spawn(Arc::clone(&jetstream).follow_jetstream(site.nats.url()))),
        AbortOnDropHandle::new(tokio::spawn(Arc::clone(&jetstream).fill())),
        AbortOnDropHandle::new(tokio::spawn(Arc::clone(&sse).fill())),
    ];
    following.extend(
        (0..TENANTS).map(|tenant| AbortOnDropHandle::new(tokio::spawn(Arc::clone(&sse).follow_sse(tenant)))),
    );
    let mut load_dice = dice.split();
    let mut clients = tokio::task::JoinSet::new();
    for (tenant, number) in (0..TENANTS).flat_map(|tenant| (0..CLIENTS).map(move |number| (tenant, number))) {
        let dice = load_dice.split();
        clients.spawn(Client { world: Arc::clone(&world), tenant, number, dice }.run());
    }

    let eraser = tokio::spawn(erasures::run(Arc::clone(&world), load_dice.split()));

    let begun = Instant::now();
    let mut faults = 0;
    let mut round = Vec::new();
    breathe(&world).await;
    while faults < wanted && begun.elapsed() < bound {
        if round.is_empty() {
            round = Fault::round(&mut dice, bound == Duration::MAX);
            if keys == KeyStoreKind::Postgres {
                // First what its connections suffer as well.
                round.sort_by_key(|fault| matches!(fault, Fault::Cut));
            }
        }
        let fault = round.pop().expect("a round has faults");
        println!("{:7.2} s  {fault:?}", begun.elapsed().as_secs_f64());
        world.tally.begin(&fault.kind());
        site.suffer(&fault, &slugs).await;
        breathe(&world).await;
        for ended in site.ended() {
            world.tally.violation(ended);
        }
        faults += 1;
    }
    let under_faults = begun.elapsed();
    world.tally.begin("afterwards");
    world.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.expect("a client ends in good order");
    }
    let erased = eraser.await.expect("the client ends in good order");
    let certificates = erasures::done(&world, &erased).await;

    // Somebody who comes only now finds everything on the stream, and is told nothing from the log.
    let latecomer = Followers::new("latecomer", &world);
    following
        .push(AbortOnDropHandle::new(tokio::spawn(Arc::clone(&latecomer).follow_jetstream(site.nats.url()))));
    let poisons: HashSet<String> = site.poisons.iter().map(ToString::to_string).collect();
    let mut recorded = 0;
    for tenant in 0..TENANTS {
        let events = check::at_rest(&world, tenant).await;
        check::log(&world, tenant, &events);
        check::promises(&world, tenant, &events);
        check::read_models(&world, tenant, &events, &poisons).await;
        erasures::nobody_is_left(&world, tenant, &events, &erased).await;
        let certificates = certificates.get(&tenant).map_or(&[][..], Vec::as_slice);
        seals::check(&world, tenant, &events, certificates, &mut dice).await;
        for follower in [&jetstream, &sse, &latecomer] {
            check::follower(&world, follower, tenant, &events).await;
        }
        recorded += events.len();
    }
    let report =
        report(&world, seed, faults, under_faults, recorded, erased.len(), [&jetstream, &sse, &latecomer]);
    println!("{report}");
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{keys:?}.txt"));
    std::fs::write(path, &report).expect("the report is written");
    assert_eq!(world.tally.lock().violations, Vec::<String>::new());
}

/// Waits until the load goes on.
async fn breathe(world: &World) {
    let before = world.tally.requests();
    eventually("the load goes on", || async { (world.tally.requests() >= before + BREATH).then_some(()) })
        .await;
}

fn report(
    world: &World,
    seed: u64,
    faults: usize,
    under_faults: Duration,
    recorded: usize,
    erased: usize,
    followers: [&Arc<Followers>; 3],
) -> String {
    let tally = world.tally.lock();
    let mut text = format!("{faults} faults in {:.0} s, seed {seed}\n", under_faults.as_secs_f64());
    for (name, kind) in &tally.kinds {
        let seconds = kind.longest.as_secs_f64();
        writeln!(text, "  {name:24} {:4} times, longest request {seconds:6.2} s", kind.count)
            .expect("a string");
    }
    let figures = [
        ("requests answered", tally.requests),
        ("repeated attempts", tally.repeats),
        ("promises kept", tally.promises.len() as u64),
        ("reads behind a token", tally.reads),
        ("reads that were told to come again", tally.late_reads),
        ("events", recorded as u64),
        ("people erased", erased as u64),
    ];
    for (name, figure) in figures {
        writeln!(text, "  {name:36} {figure}").expect("a string");
    }
    for follower in followers {
        let sum =
            |of: fn(&followers::Followed) -> u64| (0..TENANTS).map(|t| of(&follower.of(t))).sum::<u64>();
        let (repeated, filled) = (sum(|followed| followed.repeated), sum(|followed| followed.filled));
        let name = follower.name;
        writeln!(text, "  {name:10} repeated {repeated}, read from the log to fill holes {filled}")
            .expect("a string");
    }
    writeln!(text, "  violations {}", tally.violations.len()).expect("a string");
    text
}
