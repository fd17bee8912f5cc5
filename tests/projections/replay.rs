//! Whole read models as they were: in scratch tables and page by page, against a fold by hand; what differs between two
//! moments; and that nothing of it stays, or is seen by anybody else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use commands::Executor;
use futures::TryStreamExt;
use nix::sys::signal::Signal;
use projections::{
    CUSTOMERS, CustomerRow, HistoricReadModel, HistoricStateError, ReplayTarget, RowChange, USERS, UserRow,
};
use queries::whole;
use schemas::engine::{Actor, LogId, RecordedEvent};
use serde_json::{Value, json};
use store::{DeadLetterStatus, LogFilter, Replacement, Store, StoreConfig, StoreError, TenantStore};
use uuid::Uuid;

use super::poison::{append_raw, decide, letter_with};
use super::rebuild::fill;
use crate::support::postgres::{Database, open_tenant};
use crate::support::postgres_server::{DATABASE, PostgresServer};
use crate::support::read_models::{
    caught_up, customers, frequent_comparison, keep, log, no_notifications, random_history, register, rename,
    rows, users,
};
use crate::support::{eventually, lists, long};

type Rows = BTreeMap<Uuid, Value>;

async fn current(tenant: &TenantStore) -> LogId {
    tenant.head().await.expect("reads").log_id
}

async fn replay(
    tenant: &TenantStore,
    checkpoint: &str,
    wanted: ReplayTarget,
) -> Result<HistoricReadModel, HistoricStateError> {
    projections::replay(tenant, checkpoint, current(tenant).await, wanted, &|_, _| {}).await
}

/// The log with personal data among the payloads' other fields, as readers outside get it.
async fn readable(tenant: &TenantStore) -> Vec<RecordedEvent> {
    let events: Vec<RecordedEvent> =
        tenant.read_log(0, LogFilter::default()).try_collect().await.expect("reads");
    tenant.open_for_readers(events).await.expect("opens")
}

/// The rows worked out in a scratch table.
async fn in_scratch(tenant: &TenantStore, checkpoint: &str, at: u64) -> Rows {
    let replayed = replay(tenant, checkpoint, ReplayTarget::At(at)).await.expect("replays");
    let (mut rows, mut behind) = (Rows::new(), None);
    loop {
        let page = replayed.rows(behind).await.expect("reads");
        let Some((last, _)) = page.last() else { return rows };
        behind = Some(*last);
        rows.extend(page);
    }
}

/// The same from the pages that auditors get.
async fn by_pages(tenant: &TenantStore, checkpoint: &str, at: u64) -> Rows {
    let (mut rows, mut after) = (Rows::new(), None);
    loop {
        let page = whole::rows(tenant, checkpoint, current(tenant).await, Some(at), after, 5).await;
        let page = page.expect("reads");
        assert!(page.rows.len() <= 5 && page.at == at);
        let id = |row: &Value| row["id"].as_str().and_then(|id| id.parse().ok()).expect("a key");
        rows.extend(page.rows.into_iter().map(|row| (id(&row), row)));
        after = page.next_after;
        if after.is_none() {
            return rows;
        }
    }
}

async fn changes_in_scratch(tenant: &TenantStore, wanted: ReplayTarget) -> BTreeMap<Uuid, RowChange> {
    let replayed = replay(tenant, CUSTOMERS, wanted).await.expect("replays");
    let (mut changes, mut behind) = (BTreeMap::new(), None);
    loop {
        let (page, next) = replayed.changes(behind).await.expect("reads");
        changes.extend(page.into_iter().map(|change| (change.id, change)));
        behind = next;
        if behind.is_none() {
            return changes;
        }
    }
}

async fn changes_by_pages(tenant: &TenantStore, from: u64, to: u64) -> BTreeMap<Uuid, RowChange> {
    let (mut changes, mut after) = (BTreeMap::new(), None);
    loop {
        let log = current(tenant).await;
        let page = whole::changes(tenant, CUSTOMERS, log, (from, Some(to)), after, 7).await.expect("reads");
        for change in page.changes {
            assert!(changes.insert(change.id, change).is_none(), "each row is told once");
        }
        assert!(page.next_after > after.unwrap_or(from) || page.next_after == to);
        after = Some(page.next_after);
        if page.next_after >= to {
            return changes;
        }
    }
}

/// Name, status and version of each customer, from nothing but the events' own bytes.
fn by_hand(events: &[RecordedEvent], at: u64) -> BTreeMap<Uuid, (String, &'static str, u64)> {
    let mut customers = BTreeMap::new();
    for event in events.iter().filter(|event| event.position <= at) {
        let Some(id) = event.stream.as_str().strip_prefix("crm.customer/") else { continue };
        let payload: Value = serde_json::from_slice(&event.payload).expect("JSON");
        let name = payload["name"].as_str().map(str::to_owned);
        let row = customers.entry(id.parse().expect("a UUID")).or_insert((String::new(), "active", 0));
        row.2 = event.version;
        match event.event_type.as_str() {
            "crm.customer.registered.v1" | "crm.customer.renamed.v1" => row.0 = name.expect("a name"),
            "crm.customer.suspended.v1" => row.1 = "suspended",
            "crm.customer.closed.v1" => row.1 = "closed",
            other => panic!("what is {other}?"),
        }
    }
    customers
}

fn in_short(rows: &Rows) -> BTreeMap<Uuid, (String, &str, u64)> {
    let short = |row: &Value| {
        let status = ["active", "suspended", "closed"].into_iter().find(|status| row["status"] == *status);
        let name = row["name"].as_str().expect("a name").to_owned();
        (name, status.expect("a status"), row["version"].as_u64().expect("a version"))
    };
    rows.iter().map(|(id, row)| (*id, short(row))).collect()
}

#[tokio::test]
async fn a_read_model_of_any_past_position_is_what_a_fold_by_hand_says() {
    let store = Database::create().await.store().await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let (tenant, other) = (open_tenant(&store, "acme").await, open_tenant(&store, "other").await);
    random_history(&executor, &other, 20, 1).await;
    random_history(&executor, &tenant, 150, 2).await;
    let events = readable(&tenant).await;
    let head = events.len() as u64;
    assert!(head > 40, "{head}");
    for at in [0, 1, head / 3, head / 2, head - 1, head] {
        let rows = in_scratch(&tenant, CUSTOMERS, at).await;
        assert_eq!(in_short(&rows), by_hand(&events, at), "at {at}");
        assert_eq!(by_pages(&tenant, CUSTOMERS, at).await, rows, "at {at}");
        assert_eq!(by_pages(&tenant, USERS, at).await, in_scratch(&tenant, USERS, at).await, "at {at}");
    }

    // At the head it is what serves.
    let _keepers = (
        keep::<CustomerRow>(&store, no_notifications(), frequent_comparison()),
        keep::<UserRow>(&store, no_notifications(), frequent_comparison()),
    );
    caught_up::<CustomerRow>(&tenant).await;
    caught_up::<UserRow>(&tenant).await;
    let serving = |rows: Vec<(Uuid, Value)>| rows.into_iter().collect::<Rows>();
    let value = |row: &dyn Fn() -> serde_json::Result<Value>| row().expect("serialises");
    let kept = customers(&tenant).await;
    let kept = kept.iter().map(|(id, row)| (*id, value(&|| serde_json::to_value(row)))).collect();
    assert_eq!(in_scratch(&tenant, CUSTOMERS, head).await, serving(kept));
    let kept = users(&tenant).await;
    let kept = kept.iter().map(|(id, row)| (*id, value(&|| serde_json::to_value(row)))).collect();
    assert_eq!(in_scratch(&tenant, USERS, head).await, serving(kept));

    // Between two positions: whatever is not the same in both folds, with its fields.
    for (from, to) in [(0, head), (head / 4, head / 2), (head / 2, head), (head, head)] {
        let (before, after) =
            (in_scratch(&tenant, CUSTOMERS, from).await, in_scratch(&tenant, CUSTOMERS, to).await);
        let keys: BTreeSet<Uuid> = before.keys().chain(after.keys()).copied().collect();
        let differ = keys.into_iter().filter(|id| before.get(id) != after.get(id));
        let changes = changes_in_scratch(&tenant, ReplayTarget::Between(from, to)).await;
        assert_eq!(changes.keys().copied().collect::<Vec<_>>(), differ.collect::<Vec<_>>(), "{from} to {to}");
        for (id, change) in &changes {
            for (name, field) in &change.fields {
                assert_eq!(field.before.as_ref(), before.get(id).map(|row| &row[name]), "{id} {name}");
                assert_eq!(field.after.as_ref(), after.get(id).map(|row| &row[name]), "{id} {name}");
                assert_ne!(field.before, field.after);
            }
        }
        assert_eq!(changes_by_pages(&tenant, from, to).await, changes, "{from} to {to}");
    }
}

#[tokio::test]
async fn the_rows_that_serve_are_compared_with_the_log() {
    let database = Database::create().await;
    let store = database.store().await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let tenant = open_tenant(&store, "acme").await;
    let (ada, bo) = (register(&executor, &tenant, "Ada").await, register(&executor, &tenant, "Bo").await);
    {
        let _keeper = keep::<CustomerRow>(&store, no_notifications(), frequent_comparison());
        caught_up::<CustomerRow>(&tenant).await;
    }
    let served_to = tenant.head().await.expect("reads").position;
    // The rows stand behind the log: that is no difference at the position at which they stand.
    rename(&executor, &tenant, bo, "Bob").await;
    assert!(changes_in_scratch(&tenant, ReplayTarget::Serving(None)).await.is_empty());
    let replayed = replay(&tenant, CUSTOMERS, ReplayTarget::Serving(None)).await.expect("replays");
    assert_eq!((replayed.at, replayed.compared_with), (served_to, Some(served_to)));
    let since = changes_in_scratch(&tenant, ReplayTarget::Serving(Some(served_to + 1))).await;
    assert_eq!(since[&bo].fields["name"].after, Some(json!("Bo")), "against a later state it is one");

    let admin = database.connect("postgres").await;
    let spoil = "update customers_v2 set company = 'Forged' where id = $1";
    assert_eq!(admin.execute(spoil, &[&ada]).await.expect("spoils"), 1);
    let found = changes_in_scratch(&tenant, ReplayTarget::Serving(None)).await;
    assert_eq!(found.keys().collect::<Vec<_>>(), [&ada]);
    assert_eq!(found[&ada].fields.keys().collect::<Vec<_>>(), ["company"]);
    assert_eq!(found[&ada].fields["company"].after, Some(json!("Forged")));

    // Rows of a log that was replaced behind them are of no use to compare with.
    let elsewhere = "update checkpoints set log_id = gen_random_uuid()";
    admin.execute(elsewhere, &[]).await.expect("another log");
    let refused = replay(&tenant, CUSTOMERS, ReplayTarget::Serving(None)).await;
    assert!(matches!(refused, Err(HistoricStateError::OtherLog)));
}

#[tokio::test]
async fn an_event_that_was_discarded_is_passed_over_in_the_past_too() {
    let store = Database::create().await.store().await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let tenant = open_tenant(&store, "acme").await;
    let ada = register(&executor, &tenant, "Ada").await;
    append_raw(&tenant, ada, "crm.customer.renamed.v1", "{}").await;
    register(&executor, &tenant, "Bo").await;
    assert_eq!(in_scratch(&tenant, CUSTOMERS, 1).await.len(), 1, "before it nothing is wrong");
    for refused in [
        replay(&tenant, CUSTOMERS, ReplayTarget::At(3)).await.err().expect("stops"),
        whole::rows(&tenant, CUSTOMERS, current(&tenant).await, None, None, 10).await.expect_err("stops"),
    ] {
        assert!(matches!(refused, HistoricStateError::Poison { position: 2, .. }), "{refused}");
    }
    let _keeper = keep::<CustomerRow>(&store, no_notifications(), frequent_comparison());
    let letter = letter_with(&store, |letter| letter.status == DeadLetterStatus::Open).await;
    decide(&tenant, &letter, DeadLetterStatus::Discarded).await;
    assert_eq!(in_scratch(&tenant, CUSTOMERS, 3).await.len(), 2);
    assert_eq!(by_pages(&tenant, CUSTOMERS, 3).await.len(), 2);
}

#[tokio::test]
async fn scratch_tables_are_nobody_elses_and_go_with_their_connection() {
    let database = Database::create().await;
    let store = database.store().await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let tenant = open_tenant(&store, "acme").await;
    register(&executor, &tenant, "Ada").await;
    let admin = database.connect("postgres").await;
    let scratch = async || {
        let found = "select n.nspname || '.' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
                     where c.relpersistence = 't' and c.relkind = 'r'";
        let rows = admin.query(found, &[]).await.expect("reads");
        rows.iter().map(|row| row.get(0)).collect::<Vec<String>>()
    };
    let replayed = replay(&tenant, CUSTOMERS, ReplayTarget::Between(0, 1)).await.expect("replays");
    let tables = scratch().await;
    assert_eq!(tables.len(), 2, "{tables:?}");
    let others = database.connect("annals_scratch").await;
    for table in &tables {
        let read = others.query(&format!("select * from {table}"), &[]).await;
        assert!(read.is_err(), "{table} is read by another session");
    }
    let (changes, _) = replayed.changes(None).await.expect("reads");
    assert_eq!((changes.len(), changes[0].kind), (1, "added"));

    // However the connection ends: by the server's hand here, and by the process's below.
    let end = "select pg_terminate_backend(pid) from pg_stat_activity
               where usename = 'annals_scratch' and datname = current_database() and pid <> $1";
    let mine: i32 = others.query_one("select pg_backend_pid()", &[]).await.expect("reads").get(0);
    admin.execute(end, &[&mine]).await.expect("ends");
    eventually("they are gone", || async { scratch().await.is_empty().then_some(()) }).await;
    assert!(replayed.changes(None).await.is_err(), "another connection has none of it");
    let replayed = replay(&tenant, CUSTOMERS, ReplayTarget::At(1)).await.expect("replays");
    assert_eq!(scratch().await.len(), 1);
    drop(replayed);
    eventually("they are gone", || async { scratch().await.is_empty().then_some(()) }).await;
}

#[tokio::test]
async fn positions_of_a_log_that_was_replaced_are_refused_and_kept_ones_hold() {
    let store = Database::create().await.store().await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let tenant = open_tenant(&store, "acme").await;
    let ada = register(&executor, &tenant, "Ada").await;
    rename(&executor, &tenant, ada, "Grace").await;
    let old = current(&tenant).await;
    let before = in_scratch(&tenant, CUSTOMERS, 1).await;
    let wanted = [Replacement::of(tenant.id(), old)];
    store.replace_logs(&wanted, "a test", &Actor::system("test")).await.expect("replaces");
    let new = current(&tenant).await;

    let is_replaced = |error: &HistoricStateError| matches!(error, HistoricStateError::Store(StoreError::LogReplaced { current }) if *current == new);
    let refused = projections::replay(&tenant, CUSTOMERS, old, ReplayTarget::At(1), &|_, _| {}).await;
    assert!(is_replaced(&refused.err().expect("refused")));
    let refused = whole::rows(&tenant, CUSTOMERS, old, Some(1), None, 10).await;
    assert!(is_replaced(&refused.expect_err("refused")));
    let refused = whole::changes(&tenant, CUSTOMERS, old, (0, Some(1)), None, 10).await;
    assert!(is_replaced(&refused.expect_err("refused")));
    // One aggregate: the moment that was read before the replacement is refused, one of the log as it is now is not.
    let as_of = |log| queries::AsOf::Position(log, 1);
    let refused = lists::as_of::<CustomerRow>(&tenant, ada, Some(as_of(old))).await;
    assert!(
        matches!(refused, Err(queries::QueryError::Store(StoreError::LogReplaced { .. }))),
        "{refused:?}"
    );
    let kept = lists::as_of::<CustomerRow>(&tenant, ada, Some(as_of(new))).await.expect("reads");
    assert_eq!(kept.map(|entry| entry.row.name), Some("Ada".to_owned()));
    assert_eq!(in_scratch(&tenant, CUSTOMERS, 1).await, before);
    assert_eq!(by_pages(&tenant, CUSTOMERS, 3).await, in_scratch(&tenant, CUSTOMERS, 2).await);
    let beyond = replay(&tenant, CUSTOMERS, ReplayTarget::At(4)).await.err();
    assert!(matches!(beyond, Some(HistoricStateError::Beyond { head: 3 })));
}

#[tokio::test]
async fn a_name_of_no_read_model_is_refused_and_means_no_other() {
    let store = Database::create().await.store().await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let tenant = open_tenant(&store, "acme").await;
    register(&executor, &tenant, "Ada").await;
    let (log, cancel) = (current(&tenant).await, tokio_util::sync::CancellationToken::new());
    for name in ["invoices.v1", "invoices", "customers.v9", ""] {
        let unknown = |error: Option<HistoricStateError>| matches!(error, Some(HistoricStateError::Unknown(told)) if told == name);
        assert!(unknown(replay(&tenant, name, ReplayTarget::At(1)).await.err()), "{name}");
        assert!(unknown(whole::rows(&tenant, name, log, None, None, 10).await.err()), "{name}");
        assert!(unknown(whole::changes(&tenant, name, log, (0, None), None, 10).await.err()), "{name}");
        let done = projections::rebuild(&store, name, &[tenant.id()], true, &|_, _| {}, &cancel).await;
        assert!(
            matches!(&done[0].1, Err(projections::RebuildError::Unknown(told)) if told == name),
            "{done:?}"
        );
    }
    let states = store.read_models().await.expect("reads");
    assert!(states.iter().all(|state| state.rebuild.is_none()), "nothing was begun");
}

#[tokio::test]
async fn a_time_leads_to_the_last_position_recorded_by_then() {
    let store = Database::create().await.store().await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let tenant = open_tenant(&store, "acme").await;
    let early = schemas::engine::clock::now();
    let at = async |time| projections::log_position_at(&tenant, Some(time)).await.expect("reads").position;
    assert_eq!(at(early).await, 0);
    for number in 0..9 {
        register(&executor, &tenant, &format!("Customer {number}")).await;
    }
    let events = log(&tenant).await;
    let step = chrono::TimeDelta::microseconds(1);
    for event in &events {
        let by = |time| events.iter().filter(|event| event.recorded_at <= time).count() as u64;
        for time in [event.recorded_at, event.recorded_at - step, event.recorded_at + step] {
            assert_eq!(at(time).await, by(time), "{time}");
        }
    }
    assert_eq!(at(early - chrono::TimeDelta::days(365)).await, 0);
    assert_eq!(at(early + chrono::TimeDelta::days(365)).await, events.len() as u64);
}

#[tokio::test]
async fn progress_goes_up_to_the_position_asked_for_and_no_row_is_lost_between_pages() {
    let store = Database::create().await.store().await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let tenant = open_tenant(&store, "acme").await;
    let registering = (0..1_100).map(|n| {
        let (executor, tenant) = (executor.clone(), tenant.clone());
        async move { register(&executor, &tenant, &format!("Customer {n}")).await }
    });
    let ids: BTreeSet<Uuid> = futures::future::join_all(registering).await.into_iter().collect();
    let told = AtomicU64::new(0);
    let progress = |position: u64, target: u64| {
        assert_eq!(target, 1_100);
        assert!(told.swap(position, Ordering::Relaxed) <= position);
    };
    let log = current(&tenant).await;
    let replayed = projections::replay(&tenant, CUSTOMERS, log, ReplayTarget::At(1_100), &progress).await;
    let replayed = replayed.expect("replays");
    assert_eq!(told.load(Ordering::Relaxed), 1_100);
    let first = replayed.rows(None).await.expect("reads");
    assert!(first.len() < 1_100, "more than a page");
    let rest = replayed.rows(first.last().map(|(id, _)| *id)).await.expect("reads");
    assert!(first.iter().chain(&rest).map(|(id, _)| *id).eq(ids.iter().copied()));
    assert!(rows::<CustomerRow>(&tenant).await.is_empty(), "nothing was written where rows serve");
}

#[tokio::test]
async fn a_crash_of_the_database_leaves_no_scratch_file_and_the_next_replay_finds_its_place() {
    let mut server = PostgresServer::start(&[]).await;
    // The keys are those of a database beside it.
    let keys = Database::create().await;
    let config = StoreConfig { port: server.port(), database: DATABASE.to_owned(), ..keys.store_config() };
    let store = Store::connect(config).await.expect("connects");
    let tenant = open_tenant(&store, "acme").await;
    register(&Executor::new(store.clone(), 1024 * 1024), &tenant, "Ada").await;
    // Files of temporary tables are named after their session: `t<backend>_<number>`.
    let scratch_files = |server: &PostgresServer| {
        let mut find = std::process::Command::new("find");
        let found = find.arg(server.data().join("base")).args(["-name", "t*_*"]).output().expect("find runs");
        String::from_utf8(found.stdout).expect("text")
    };
    let replayed = replay(&tenant, CUSTOMERS, ReplayTarget::At(1)).await.expect("replays");
    assert!(!scratch_files(&server).is_empty());
    server.stop(Signal::SIGQUIT);
    server.restart().await;
    assert_eq!(scratch_files(&server), "", "recovery has removed them");
    assert!(replayed.rows(None).await.is_err(), "what was worked out is gone");
    let again = eventually("the database answers", || async {
        replay(&tenant, CUSTOMERS, ReplayTarget::At(1)).await.ok()
    })
    .await;
    assert_eq!(again.rows(None).await.expect("reads").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_a_large_read_model_is_replayed_compared_and_paged() {
    const EVENTS: u64 = 200_000;
    if !long::is_wanted() {
        return;
    }
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    fill(&tenant, EVENTS).await;
    let measured = |what: &str, begun: Instant| eprintln!("{what}: {:.1} s", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    let rows = in_scratch(&tenant, CUSTOMERS, EVENTS).await;
    measured("200,000 events into a scratch table, 20,000 rows out", begun);
    assert_eq!(in_short(&rows), by_hand(&readable(&tenant).await, EVENTS));
    let begun = Instant::now();
    let changes = changes_in_scratch(&tenant, ReplayTarget::Between(EVENTS / 2, EVENTS)).await;
    measured("two scratch tables, compared", begun);
    assert!(!changes.is_empty());
    let begun = Instant::now();
    let (mut paged, mut after, mut longest) = (Rows::new(), None, Duration::ZERO);
    loop {
        let asked = Instant::now();
        let page = whole::rows(&tenant, CUSTOMERS, current(&tenant).await, Some(EVENTS), after, 500).await;
        let page = page.expect("reads");
        longest = longest.max(asked.elapsed());
        paged.extend(
            page.rows
                .into_iter()
                .map(|row| (row["id"].as_str().and_then(|id| id.parse().ok()).expect("a key"), row)),
        );
        after = page.next_after;
        if after.is_none() {
            break;
        }
    }
    measured("20,000 rows by pages of 500", begun);
    eprintln!("the longest page: {:.2} s", longest.as_secs_f64());
    assert!(longest < Duration::from_secs(4), "within a request's time");
    assert_eq!(paged, rows);
}
