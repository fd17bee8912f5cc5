//! Snapshots: a load of an old aggregate reads the events after the newest one, and no snapshot changes an answer.

use commands::{CommandSideEffects, Customer, Executor};
use projections::{CustomerRow, ReadModel};
use queries::{AsOf, Reached, RowCache, as_of};
use schemas::crm::customer::CustomerStatus;
use schemas::engine::{Row, StreamName};
use store::{SNAPSHOT_INTERVAL, StoreError, TenantStore};
use uuid::Uuid;

use crate::support::commands::{by_admin, registered, rename};
use crate::support::eventually;
use crate::support::postgres::{Database, open_tenant};

/// A customer with this many versions. Its name tells the version.
struct Old {
    database: Database,
    tenant: TenantStore,
    id: Uuid,
}

const VERSIONS: u64 = 2 * SNAPSHOT_INTERVAL + 40;

impl Old {
    async fn new() -> Self {
        let database = Database::create().await;
        let store = database.store().await;
        let tenant = open_tenant(&store, "acme").await;
        let executor = Executor::new(store, 1024 * 1024);
        let id = registered(&executor, tenant.id(), "Ada 1").await.id;
        for version in 2..=VERSIONS {
            rename_to(&executor, &tenant, id, version).await;
        }
        let old = Self { database, tenant, id };
        eventually("the states are kept", async || (old.kept("rules").await == 2).then_some(())).await;
        old
    }

    /// A process that has nothing in its caches.
    async fn executor(&self) -> Executor {
        Executor::new(self.database.store().await, 1024 * 1024)
    }

    async fn loaded(&self) -> Result<(Customer, u64), StoreError> {
        let loaded = self.executor().await.load::<Customer>(self.tenant.id(), self.id).await?;
        Ok(loaded.expect("is there"))
    }

    async fn name(&self) -> String {
        let (customer, version) = self.loaded().await.expect("loads");
        assert_eq!(version, VERSIONS);
        customer.name
    }

    async fn row(&self, version: u64) -> CustomerRow {
        let end = Some(AsOf::Version(version));
        let row = as_of::at(&self.tenant, customers(), self.id, end).await.expect("folds").expect("is there");
        serde_json::from_value(serde_json::Value::Object(row)).expect("a customer")
    }

    async fn kept(&self, fold: &str) -> i64 {
        let superuser = self.database.connect("postgres").await;
        let sql = "select count(*) from snapshots where tenant_id = $1 and fold = $2 and stream = $3";
        superuser
            .query_one(sql, &[&self.tenant.id().0, &fold, &self.stream().as_str()])
            .await
            .expect("counts")
            .get(0)
    }

    fn stream(&self) -> StreamName {
        StreamName::new("crm.customer", self.id)
    }

    async fn change(&self, sql: &str) {
        self.database.connect("postgres").await.batch_execute(sql).await.expect("changes");
    }

    /// The first event does not decode any more. So a load from the start fails.
    async fn break_first_event(&self) {
        self.change("update events set payload = '{}' where version = 1 and stream like 'crm.customer/%'")
            .await;
    }
}

fn customers() -> &'static ReadModel {
    ReadModel::find(CustomerRow::MODEL.name).expect("is registered")
}

async fn rename_to(executor: &Executor, tenant: &TenantStore, id: Uuid, version: u64) {
    let command = rename(&format!("Ada {version}"));
    let context = by_admin(tenant.id());
    let renamed = executor.execute::<Customer>(&context, id, command, CommandSideEffects::default()).await;
    assert_eq!(renamed.expect("is renamed").version, version);
}

#[tokio::test]
async fn a_load_reads_no_event_before_the_newest_snapshot() {
    let old = Old::new().await;
    old.break_first_event().await;
    assert_eq!(old.name().await, format!("Ada {VERSIONS}"));

    let executor = old.executor().await;
    rename_to(&executor, &old.tenant, old.id, VERSIONS + 1).await;
}

#[tokio::test]
async fn a_snapshot_that_was_changed_is_dropped() {
    let old = Old::new().await;
    old.change("update snapshots set position = position + 1").await;
    assert_eq!(old.name().await, format!("Ada {VERSIONS}"));
    // The load from the start has kept another one.
    eventually("one is kept", async || (old.kept("rules").await == 1).then_some(())).await;
    old.break_first_event().await;
    assert_eq!(old.name().await, format!("Ada {VERSIONS}"));
}

#[tokio::test]
async fn a_snapshot_counts_for_its_source_code_and_its_log() {
    for change in ["fingerprint = fingerprint + 1", "log_id = gen_random_uuid()"] {
        let old = Old::new().await;
        old.change(&format!("update snapshots set {change}")).await;
        assert_eq!(old.name().await, format!("Ada {VERSIONS}"));
        // The load from the start has kept another one, which is taken away.
        eventually("one is kept", async || (old.kept("rules").await == 3).then_some(())).await;
        old.change(&format!("delete from snapshots where version = {VERSIONS}")).await;
        old.break_first_event().await;
        assert!(matches!(old.loaded().await, Err(StoreError::Corrupt(_))), "{change}");
    }
}

#[tokio::test]
async fn the_past_is_read_from_snapshots_and_stays_the_same() {
    let old = Old::new().await;
    let versions = [1, SNAPSHOT_INTERVAL - 1, SNAPSHOT_INTERVAL, SNAPSHOT_INTERVAL + 1, VERSIONS];
    let mut before = Vec::new();
    for version in versions {
        before.push(old.row(version).await);
        assert_eq!(before.last().expect("a row").name, format!("Ada {version}"));
    }
    eventually("the rows are kept", async || (old.kept(CustomerRow::MODEL.name).await == 2).then_some(()))
        .await;
    old.break_first_event().await;
    for (version, before) in versions.into_iter().zip(before).skip(2) {
        assert_eq!(old.row(version).await, before);
        let position =
            old.tenant.position_of(&old.stream(), version).await.expect("reads").expect("is there");
        let log = old.tenant.head().await.expect("reads").log_id;
        let at = as_of::at(&old.tenant, customers(), old.id, Some(AsOf::Position(log, position))).await;
        assert_eq!(at.expect("folds").expect("is there")["name"], before.name);
    }
    let history =
        as_of::history(&old.tenant, customers(), old.id, SNAPSHOT_INTERVAL + 3, 5).await.expect("reads");
    let names: Vec<_> =
        history.facts.iter().map(|past| past.row.as_ref().expect("a row")["name"].clone()).collect();
    let expected: Vec<_> = (1..=5).map(|n| format!("Ada {}", SNAPSHOT_INTERVAL + 3 + n)).collect();
    assert_eq!((names, history.total), (expected.into_iter().map(Into::into).collect(), VERSIONS));
    assert_eq!(history.facts[0].event.version, SNAPSHOT_INTERVAL + 4);
}

#[tokio::test]
async fn an_erasure_makes_snapshots_unreadable_and_they_are_dropped() {
    let old = Old::new().await;
    assert_eq!(old.row(VERSIONS).await.name, format!("Ada {VERSIONS}"));
    eventually("the rows are kept", async || (old.kept(CustomerRow::MODEL.name).await == 2).then_some(()))
        .await;
    let stored = old.database.connect("postgres").await.query("select state from snapshots", &[]).await;
    for row in stored.expect("reads") {
        let state: Vec<u8> = row.get(0);
        assert!(!state.windows(4).any(|part| part == b"Ada "), "it is encrypted");
    }

    old.database.keyring().destroy(old.tenant.id(), old.id).await.expect("destroys");
    // As another process, whose keys are not cached.
    let store = old.database.store().await;
    let tenant = store.tenant(old.tenant.id());
    let row = as_of::at(&tenant, customers(), old.id, None).await.expect("folds").expect("is there");
    assert_eq!((row["name"].as_str(), row["version"].as_u64()), (Some(""), Some(VERSIONS)));
    let (customer, _) = old.loaded().await.expect("loads");
    assert_eq!((customer.name.as_str(), customer.status), ("", CustomerStatus::Active));
    // What is kept now has nothing of the person.
    for fold in ["rules", CustomerRow::MODEL.name] {
        eventually("new ones are kept", async || (old.kept(fold).await > 0).then_some(())).await;
    }
    let sealed = old.database.connect("postgres").await;
    let sealed =
        sealed.query("select from snapshots where state like '%$sealed%'", &[]).await.expect("reads");
    assert_eq!(sealed.len(), 0);
}

#[tokio::test]
async fn a_row_after_a_command_is_the_same_from_memory_and_from_the_log() {
    let old = Old::new().await;
    let (rows, executor) = (RowCache::new(1024 * 1024), old.executor().await);
    let dispatch = async |name: &str| {
        let command = commands::AnyCommand::new(old.id, &rename(name));
        commands::dispatch(&executor, &by_admin(old.tenant.id()), command).await.expect("is renamed")
    };
    for name in ["Bo", "Cy", "Di"] {
        let done = dispatch(name).await;
        let recorded = done.recorded.as_ref().map(|recorded| (recorded.at, &*recorded.events));
        assert!(recorded.is_some());
        let reached = Reached { log_id: done.log_id, version: done.version, recorded };
        let row = rows.row_at(&old.tenant, customers(), old.id, reached).await.expect("folds");
        let end = Some(AsOf::Version(done.version));
        assert_eq!(row, as_of::at(&old.tenant, customers(), old.id, end).await.expect("folds"));
        assert_eq!(row.expect("is there")["name"], name);
    }
    // The row of an earlier version, as for a repeat.
    let log_id = old.tenant.head().await.expect("reads").log_id;
    let earlier = Reached { log_id, version: VERSIONS + 1, recorded: None };
    let row = rows.row_at(&old.tenant, customers(), old.id, earlier).await.expect("folds").expect("is there");
    assert_eq!(row["name"], "Bo");
}
