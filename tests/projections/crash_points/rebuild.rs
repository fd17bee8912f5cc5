//! A rebuild that is killed at each of its messages to PostgreSQL, from its claim to its switch: reads are served all the
//! while, and the next rebuild makes a fold of the log whatever it finds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use commands::Executor;
use projections::{CUSTOMERS, CustomerRow, RebuildError, RebuildReport};
use queries::PageRequest;
use serde_json::json;
use store::{Store, TenantStore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::support::lists::{list, select};
use crate::support::postgres::{Database, open_tenant};
use crate::support::read_models::{
    caught_up, customers, folded, frequent_comparison, keep, no_notifications, register, rename,
};
use crate::support::wire::{Moment, Wire};
use crate::support::{eventually, long};

/// The roles that a rebuild works as.
const ROLES: [&str; 2] = ["annals_projector", "annals_tenant"];
/// Fewer points than this are no enumeration: something was not counted.
const LEAST: u32 = 8;

async fn rebuild(store: &Store, tenant: &TenantStore) -> Result<RebuildReport, RebuildError> {
    let cancel = CancellationToken::new();
    let mut done = projections::rebuild(store, CUSTOMERS, &[tenant.id()], false, &|_, _| {}, &cancel).await;
    done.pop().expect("one tenant").1
}

/// Reads for as long as the value lives: the same customers each time, whatever they are called.
fn read_on(
    tenant: &TenantStore,
    expected: Vec<Uuid>,
) -> (AbortOnDropHandle<()>, Arc<AtomicU64>, Arc<AtomicBool>) {
    let (reads, wrong) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (tenant, counted, told) = (tenant.clone(), Arc::clone(&reads), Arc::clone(&wrong));
    let reading = tokio::spawn(async move {
        let mut tempo = tokio::time::interval(std::time::Duration::from_millis(5));
        loop {
            tempo.tick().await;
            let select = select::<CustomerRow>(&json!({}), "REGISTERED_AT_ASC");
            let page = list::<CustomerRow>(&tenant, &select, PageRequest::first(20)).await;
            let shown = page.map(|page| page.ids());
            if !shown.is_ok_and(|shown| shown == expected) {
                told.store(true, Ordering::Relaxed);
            }
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    (AbortOnDropHandle::new(reading), reads, wrong)
}

async fn killed_at_each_message(role: &str, moment: Moment) {
    let database = Database::create().await;
    let direct = database.store().await;
    let executor = Executor::new(direct.clone(), 1024 * 1024);
    let tenant = open_tenant(&direct, "acme").await;
    let owner = database.connect("postgres").await;
    let mut ids = Vec::new();
    for n in 0..8 {
        ids.push(register(&executor, &tenant, &format!("Ada {n}")).await);
    }
    let _keeper = keep::<CustomerRow>(&direct, no_notifications(), frequent_comparison());
    caught_up::<CustomerRow>(&tenant).await;
    let (_reading, reads, wrong) = read_on(&tenant, ids.clone());
    for point in long::points(14) {
        let name = format!("{moment:?} message {point} of {role}");
        let wire = Wire::start(database.port).await;
        wire.arm_kill(role, point, moment);
        let mut config = database.store_config();
        config.port = wire.port();
        let id = tenant.id();
        let mut process = AbortOnDropHandle::new(tokio::spawn(async move {
            let store = Store::connect(config).await.ok()?;
            rebuild(&store, &store.tenant(id)).await.ok()
        }));
        // Of one that is killed nothing is heard any more, not even that it gives up.
        let ended = eventually(&name, || async {
            (process.is_finished() || wire.has_killed()).then(|| process.is_finished())
        })
        .await;
        let killed = wire.has_killed();
        let done = if ended && !killed { (&mut process).await.expect("no panic") } else { None };
        drop(process);
        assert_eq!(customers(&tenant).await, folded::<CustomerRow>(&tenant).await, "{name}: what serves");
        // What comes meanwhile concerns both versions.
        rename(&executor, &tenant, ids[point as usize % ids.len()], &format!("Bo {point}")).await;
        let over = "update read_models set rebuild_until = now() where rebuild is not null";
        owner.execute(over, &[]).await.expect("updates");
        let rebuilt = rebuild(&direct, &tenant).await.expect("is rebuilt");
        assert!(rebuilt.switched && rebuilt.compared, "{name}: {rebuilt:?}");
        caught_up::<CustomerRow>(&tenant).await;
        assert_eq!(customers(&tenant).await, folded::<CustomerRow>(&tenant).await, "{name}");
        assert!(!wrong.load(Ordering::Relaxed), "{name}: reads were not served");
        if !killed {
            assert!(done.is_some_and(|done| done.switched), "{name}: nobody disturbed it");
            assert!(point > LEAST, "{role} sends more than {point} messages");
            break;
        }
    }
    assert!(reads.load(Ordering::Relaxed) > 10, "reads went on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_is_killed_at_each_of_its_messages() {
    let kills = ROLES
        .into_iter()
        .flat_map(|role| [Moment::Before, Moment::After].map(|moment| killed_at_each_message(role, moment)));
    futures::future::join_all(kills).await;
}
