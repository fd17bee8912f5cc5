//! Rebuilds: beside the version that serves, compared with it, switched in one instant; under load, cancelled, twice,
//! with one tenant or all.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use commands::Executor;
use futures::StreamExt;
use projections::{CUSTOMERS, CustomerRow, ProjectionState, RebuildError, RebuildReport, USERS, UserRow};
use queries::PageRequest;
use schemas::crm::customer::{CustomerDetails, CustomerEvent, CustomerName};
use schemas::engine::{Event, EventType, Sealed, StreamName, ids};
use serde_json::json;
use store::{DeadLetterStatus, ExpectedVersion, NewEvent, Store, StreamAppend, TenantStore};
use tokio::sync::Barrier;
use tokio_util::sync::CancellationToken;

use super::poison::{append_raw, decide, letter_with};
use crate::support::eventually;
use crate::support::lists::{list, select};
use crate::support::postgres::{Database, metadata, open_tenant};
use crate::support::read_models::{
    caught_up, customers, email, folded, frequent_comparison, keep, log, name, no_notifications,
    random_history, register, rename, users,
};

/// Events of one customer.
const EVENTS_A_CUSTOMER: u64 = 10;

fn new_event(event: &CustomerEvent) -> NewEvent {
    NewEvent {
        event_id: None,
        event_type: EventType::parse(event.type_name()).expect("a valid type"),
        payload: event.encode().expect("encodes").into(),
        subject_keys: Vec::new(),
    }
}

/// A customer who is renamed again and again, in one append.
fn history(n: u64) -> StreamAppend {
    let registered = CustomerEvent::Registered {
        user_id: Some(ids::new_id()),
        details: Sealed::own(CustomerDetails {
            name: name(&format!("Customer {n}")),
            email: email(&format!("customer{n}@example.com")),
            company: None,
            notes: None,
        }),
    };
    let renamed = |round| {
        let details = Sealed::own(CustomerName { name: name(&format!("Customer {n} {round}")) });
        CustomerEvent::Renamed { details }
    };
    let events = std::iter::once(registered).chain((1..EVENTS_A_CUSTOMER).map(renamed));
    let stream = StreamName::new(CustomerEvent::CATEGORY, ids::new_id());
    let events = events.map(|event| new_event(&event)).collect();
    StreamAppend::new(stream, ExpectedVersion::NoStream, events, metadata())
}

/// Appends so many events.
pub async fn fill(tenant: &TenantStore, events: u64) {
    futures::stream::iter(0..events / EVENTS_A_CUSTOMER)
        .for_each_concurrent(200, |n| async move {
            tenant.append(history(n)).await.expect("appends");
        })
        .await;
}

async fn rebuild_one(
    store: &Store,
    tenant: &TenantStore,
    force: bool,
) -> Result<RebuildReport, RebuildError> {
    let cancel = CancellationToken::new();
    let mut done = projections::rebuild(store, CUSTOMERS, &[tenant.id()], force, &|_, _| {}, &cancel).await;
    done.pop().expect("one tenant").1
}

async fn state(store: &Store, tenant: &TenantStore) -> ProjectionState {
    let lags = projections::lag(store).await.expect("reads");
    lags.into_iter()
        .find(|lag| lag.tenant == tenant.id() && lag.projection == CUSTOMERS)
        .expect("is listed")
        .state
}

/// How many rows the tenant has in a table, whatever serves.
async fn rows_in(database: &Database, table: &str, tenant: &TenantStore) -> i64 {
    let superuser = database.connect("postgres").await;
    let sql = format!("select count(*) from {table} where tenant_id = $1");
    superuser.query_one(&sql, &[&tenant.id().0]).await.expect("counts").get(0)
}

/// Reads and writes beside a rebuild: at least so many, however fast it is.
const ROUNDS_MIN: u64 = 4;

/// Reads as a client would until told to stop: the list only ever grows, and its beginning stays what it is.
async fn read_until(tenant: &TenantStore, running: &Barrier, stop: &AtomicBool) {
    let select = select::<CustomerRow>(&json!({}), "REGISTERED_AT_ASC");
    let first =
        async || list::<CustomerRow>(tenant, &select, PageRequest::first(20)).await.expect("a page").ids();
    let (beginning, mut highest, mut reads) = (first().await, 0, 0);
    while !stop.load(Ordering::Relaxed) || reads < ROUNDS_MIN {
        assert_eq!(first().await, beginning, "a page of something half-built");
        let count = select.count(tenant).await.expect("counts");
        assert!(count >= highest, "{count} customers where there were {highest}");
        highest = count;
        reads += 1;
        if reads == 1 {
            running.wait().await;
        }
    }
}

async fn rebuilt_under_load(events: u64) {
    let database = Database::create().await;
    let (store, operator) = (database.store().await, database.store().await);
    let (tenant, other) = (open_tenant(&store, "acme").await, open_tenant(&store, "globex").await);
    fill(&tenant, events).await;
    fill(&other, 300).await;
    let _keeper = keep::<CustomerRow>(&store, no_notifications(), frequent_comparison());
    let head = tenant.head().await.expect("a head");
    let patience = Duration::from_mins(10);
    let reached = tenant.wait_for_checkpoint(CUSTOMERS, head.log_id, head.position, patience).await;
    assert!(reached.expect("reads"));
    caught_up::<CustomerRow>(&other).await;

    let (stop, highest) = (AtomicBool::new(false), AtomicU64::new(0));
    let told = Mutex::new(Vec::new());
    let progress = |position: u64, target: u64| {
        assert!(position <= target);
        assert!(position >= highest.fetch_max(position, Ordering::SeqCst), "progress is monotone");
        told.lock().expect("no panic").push(position);
    };
    let cancel = CancellationToken::new();
    // The rebuild begins when all others are running, and they go on until it has ended.
    let running = Barrier::new(4);
    let work = async {
        running.wait().await;
        let done =
            projections::rebuild(&operator, CUSTOMERS, &[tenant.id()], false, &progress, &cancel).await;
        stop.store(true, Ordering::Relaxed);
        done
    };
    let write = async {
        let mut n = 0;
        while !stop.load(Ordering::Relaxed) || n < ROUNDS_MIN {
            tenant.append(history(events + n)).await.expect("appends");
            other.append(history(n)).await.expect("appends");
            n += 1;
            if n == 1 {
                running.wait().await;
            }
        }
    };
    let reads =
        async { tokio::join!(read_until(&tenant, &running, &stop), read_until(&other, &running, &stop)) };
    let (mut done, ..) = tokio::join!(work, write, reads);

    let rebuilt = done.pop().expect("one tenant").1.expect("is rebuilt");
    assert!(rebuilt.switched && rebuilt.compared && rebuilt.generation == 1, "{rebuilt:?}");
    assert!(rebuilt.position >= events && rebuilt.differences.count == 0, "{rebuilt:?}");
    let told = told.into_inner().expect("no panic");
    assert_eq!((told.first(), told.last()), (Some(&0), Some(&rebuilt.position)));
    // What comes later goes into the new version.
    fill(&tenant, 100).await;
    caught_up::<CustomerRow>(&tenant).await;
    assert_eq!(customers(&tenant).await, folded::<CustomerRow>(&tenant).await);
    let (old, new) = (
        rows_in(&database, "customers_v2", &tenant).await,
        rows_in(&database, "customers_v2_b", &tenant).await,
    );
    assert!(new > old, "{new} rows serve, {old} are left of the old version");
    assert_eq!(rows_in(&database, "customers_v2_b", &other).await, 0, "the other tenant is where it was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_under_load_never_shows_anything_half_built() {
    rebuilt_under_load(20_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_a_million_events_are_rebuilt_under_load() {
    if std::env::var_os("ANNALS_TEST_LONG").is_some() {
        rebuilt_under_load(1_000_000).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rebuilt_again_and_again_it_stays_a_fold_of_the_log() {
    let store = Database::create().await.store().await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let tenants = [open_tenant(&store, "acme").await, open_tenant(&store, "bolt").await];
    let _keepers = (
        keep::<CustomerRow>(&store, no_notifications(), frequent_comparison()),
        keep::<UserRow>(&store, no_notifications(), frequent_comparison()),
    );
    for round in 0..3 {
        for (tenant, seed) in tenants.iter().zip(1..) {
            random_history(&executor, tenant, 60, 10 * round + seed).await;
        }
        let ids: Vec<_> = tenants.iter().map(TenantStore::id).collect();
        for checkpoint in [CUSTOMERS, USERS] {
            let cancel = CancellationToken::new();
            let work = projections::rebuild(&store, checkpoint, &ids, false, &|_, _| {}, &cancel);
            let meanwhile = random_history(&executor, &tenants[0], 40, 100 + round);
            for (_, done) in tokio::join!(work, meanwhile).0 {
                let rebuilt = done.expect("is rebuilt");
                assert_eq!((rebuilt.switched, rebuilt.generation), (true, round + 1));
            }
        }
        for tenant in &tenants {
            caught_up::<CustomerRow>(tenant).await;
            caught_up::<UserRow>(tenant).await;
            assert_eq!(customers(tenant).await, folded::<CustomerRow>(tenant).await);
            assert_eq!(users(tenant).await, folded::<UserRow>(tenant).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn differences_are_told_and_stop_the_switch_unless_forced() {
    let database = Database::create().await;
    let store = database.store().await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let tenant = open_tenant(&store, "acme").await;
    let mut ids = Vec::new();
    for text in ["Ada", "Bo", "Cy"] {
        ids.push(register(&executor, &tenant, text).await);
    }
    let _keeper = keep::<CustomerRow>(&store, no_notifications(), frequent_comparison());
    caught_up::<CustomerRow>(&tenant).await;
    let stray = ids::new_id();
    let superuser = database.connect("postgres").await;
    superuser
        .batch_execute(&format!(
            "update customers_v2 set name = 'Wrong' where id = '{}';
             delete from customers_v2 where id = '{}';
             insert into customers_v2 select tenant_id, '{stray}', user_id, name, email, email_key, company, notes,
                 status, erased, registered_at, version, updated_at from customers_v2 limit 1",
            ids[0], ids[1]
        ))
        .await
        .expect("spoils");
    let spoilt = customers(&tenant).await;

    let refused = rebuild_one(&store, &tenant, false).await.expect("is compared");
    assert!(!refused.switched && refused.generation == 0);
    let mut shown: Vec<_> = refused
        .differences
        .shown
        .iter()
        .map(|difference| (difference.id, difference.kind, difference.columns.join(" ")))
        .collect();
    shown.sort();
    let mut expected = vec![
        (ids[0], "changed", "name".to_owned()),
        (ids[1], "additional", String::new()),
        (stray, "missing", String::new()),
    ];
    expected.sort();
    assert_eq!((refused.differences.count, shown), (3, expected));
    assert_eq!(customers(&tenant).await, spoilt, "the old version serves");
    assert_eq!(rows_in(&database, "customers_v2_b", &tenant).await, 0, "nothing half-made is left");

    let forced = rebuild_one(&store, &tenant, true).await.expect("is rebuilt");
    assert!(forced.switched && forced.differences.count == 3);
    assert_eq!(customers(&tenant).await, folded::<CustomerRow>(&tenant).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_rebuild_leaves_the_old_version_and_nothing_else() {
    let database = Database::create().await;
    let store = database.store().await;
    let tenant = open_tenant(&store, "acme").await;
    fill(&tenant, 6_000).await;
    let _keeper = keep::<CustomerRow>(&store, no_notifications(), frequent_comparison());
    caught_up::<CustomerRow>(&tenant).await;
    let before = customers(&tenant).await;

    let cancel = CancellationToken::new();
    let busy = Mutex::new(None);
    let progress = |position: u64, _| {
        if position > 0 {
            cancel.cancel();
            *busy.lock().expect("no panic") = Some(position);
        }
    };
    let ids = [tenant.id()];
    let (mut done, second) =
        tokio::join!(projections::rebuild(&store, CUSTOMERS, &ids, false, &progress, &cancel), async {
            eventually("the rebuild is seen", || async {
                let rebuilding = matches!(state(&store, &tenant).await, ProjectionState::Rebuilding { .. });
                (rebuilding || cancel.is_cancelled()).then_some(())
            })
            .await;
            cancel.is_cancelled()
                || matches!(rebuild_one(&store, &tenant, false).await, Err(RebuildError::Busy))
        });
    assert!(second, "two rebuilds of one tenant do not meet");
    assert!(matches!(done.pop(), Some((_, Err(RebuildError::Cancelled)))));
    assert!(busy.into_inner().expect("no panic").is_some_and(|position| position < 6_000));
    assert_eq!(customers(&tenant).await, before);
    assert_eq!(rows_in(&database, "customers_v2_b", &tenant).await, 0, "nothing half-made is left");
    assert_eq!(state(&store, &tenant).await, ProjectionState::Live);

    let again = rebuild_one(&store, &tenant, false).await.expect("is rebuilt");
    assert!(again.switched);
    assert_eq!(customers(&tenant).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_rebuild_left_is_cleared_by_the_next() {
    let database = Database::create().await;
    let store = database.store().await;
    let tenant = open_tenant(&store, "acme").await;
    fill(&tenant, 3_000).await;
    let _keeper = keep::<CustomerRow>(&store, no_notifications(), frequent_comparison());
    caught_up::<CustomerRow>(&tenant).await;
    let before = customers(&tenant).await;
    // Dropped in the middle: nothing is taken back.
    let reached = AtomicBool::new(false);
    let cancel = CancellationToken::new();
    let progress = |position: u64, _| reached.store(position > 0, Ordering::Relaxed);
    let ids = [tenant.id()];
    tokio::select! {
        biased;
        _ = projections::rebuild(&store, CUSTOMERS, &ids, false, &progress, &cancel) => panic!("it is too quick"),
        () = async {
            while !reached.load(Ordering::Relaxed) {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    assert!(rows_in(&database, "customers_v2_b", &tenant).await > 0);
    assert_eq!(customers(&tenant).await, before);
    assert!(
        matches!(rebuild_one(&store, &tenant, false).await, Err(RebuildError::Busy)),
        "it might be alive"
    );
    // Its time is over.
    let superuser = database.connect("postgres").await;
    superuser.batch_execute("update read_models set rebuild_until = now()").await.expect("updates");
    assert_eq!(state(&store, &tenant).await, ProjectionState::Live);
    // One customer more than the rebuild that died had seen, one row in its place that never was.
    superuser.batch_execute("update customers_v2_b set id = gen_random_uuid()").await.expect("updates");
    assert!(rebuild_one(&store, &tenant, false).await.expect("is rebuilt").switched);
    assert_eq!(customers(&tenant).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_was_discarded_stays_out_and_one_that_was_not_stops_the_rebuild() {
    let database = Database::create().await;
    let store = database.store().await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let tenant = open_tenant(&store, "acme").await;
    let ada = register(&executor, &tenant, "Ada").await;
    append_raw(&tenant, ada, "crm.customer.renamed.v1", "{}").await;
    register(&executor, &tenant, "Bo").await;
    let _keeper = keep::<CustomerRow>(&store, no_notifications(), frequent_comparison());
    let letter = letter_with(&store, |letter| letter.status == DeadLetterStatus::Open).await;
    assert_eq!(state(&store, &tenant).await, ProjectionState::Stopped { dead_letter: letter.id });
    // The version that serves stands before the event; so does the new one, and the letter stands.
    assert!(rebuild_one(&store, &tenant, false).await.expect("is rebuilt").switched);
    assert_eq!(customers(&tenant).await.len(), 1);

    decide(&tenant, &letter, DeadLetterStatus::Discarded).await;
    caught_up::<CustomerRow>(&tenant).await;
    let rebuilt = rebuild_one(&store, &tenant, false).await.expect("is rebuilt");
    assert_eq!((rebuilt.switched, rebuilt.position, rebuilt.generation), (true, 3, 2));
    assert_eq!(customers(&tenant).await.len(), 2);

    // Nobody has decided about it, as after a change of the program.
    let superuser = database.connect("postgres").await;
    superuser.batch_execute("delete from dead_letters").await.expect("deletes");
    let failed = rebuild_one(&store, &tenant, false).await;
    assert!(matches!(failed, Err(RebuildError::Poison { position: 2, .. })), "{failed:?}");
    assert_eq!(customers(&tenant).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_model_of_a_replaced_log_is_rebuilt_and_goes_on() {
    let database = Database::create().await;
    let store = database.store().await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let tenant = open_tenant(&store, "acme").await;
    let ada = register(&executor, &tenant, "Ada").await;
    {
        let _keeper = keep::<CustomerRow>(&store, no_notifications(), frequent_comparison());
        caught_up::<CustomerRow>(&tenant).await;
    }
    let superuser = database.connect("postgres").await;
    superuser
        .batch_execute("update checkpoints set log_id = gen_random_uuid(), position = 7")
        .await
        .expect("updates");
    assert_eq!(state(&store, &tenant).await, ProjectionState::OtherLog);
    let rebuilt = rebuild_one(&store, &tenant, false).await.expect("is rebuilt");
    assert!(rebuilt.switched && !rebuilt.compared);
    assert_eq!(state(&store, &tenant).await, ProjectionState::Live);
    let _keeper = keep::<CustomerRow>(&store, no_notifications(), frequent_comparison());
    rename(&executor, &tenant, ada, "Bo").await;
    caught_up::<CustomerRow>(&tenant).await;
    assert_eq!(customers(&tenant).await[&ada].name, "Bo");
    assert_eq!(log(&tenant).await.len(), 2);
}

#[tokio::test]
async fn two_stores_of_a_process_do_not_share_what_they_know_of_generations() {
    let (one, other) = tokio::join!(Database::create(), Database::create());
    let (one, other) = tokio::join!(one.store(), other.store());
    let id = schemas::engine::TenantId(schemas::engine::ids::new_id());
    one.tenant(id).cache_generation("customers_v2", 1);
    assert_eq!(one.tenant(id).cached_generation("customers_v2"), 1);
    assert_eq!(other.tenant(id).cached_generation("customers_v2"), 0);
}
