//! The two stores of keys: what both promise, and what the database adds.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use keyring::{KeyStoreConfig, Keyring, KeyringError, RootKey};
use nix::sys::signal::Signal;
use reqwest::{Method, StatusCode};
use schemas::engine::{Actor, EventType, LogId, Metadata, RecordedEvent, StreamName, TenantId, clock, ids};
use serde_json::{Value, json};
use store::{Store, StoreError};
use uuid::Uuid;

use crate::support::deployment::Answer;
use crate::support::eventually;
use crate::support::key_stores::{KeyStoreKind, TestKeys, over_both_key_stores};
use crate::support::postgres::{Database, PASSWORD};
use crate::support::postgres_server::PostgresServer;
use crate::support::process::{output_of, run};
use crate::support::restore_site::{EVERYTHING, Site};
use crate::support::restore_site::{erase, named, users};

over_both_key_stores!(
    keys_are_made_once_and_given_to_every_process_until_they_are_fenced,
    a_missing_key_is_told_and_never_taken_for_an_erasure,
    keys_and_events_of_different_deployments_refuse_each_other,
);

const TENANT: TenantId = TenantId(Uuid::from_u128(5));
const LEASE: Duration = Duration::from_secs(1);

fn stream(subject: u128) -> StreamName {
    StreamName::new("crm.customer", Uuid::from_u128(subject))
}

/// Something sealed for a subject, as an event.
async fn sealed(keyring: &Keyring, subject: u128) -> Result<RecordedEvent, KeyringError> {
    let payload = json!({"$open": {"value": {"name": "Ada"}}}).to_string();
    let event_id = ids::new_id();
    let sealed = keyring.seal(TENANT, &stream(subject), event_id, payload.into()).await?;
    Ok(RecordedEvent {
        log_id: LogId(Uuid::from_u128(1)),
        position: 1,
        stream: stream(subject),
        version: 1,
        event_id,
        event_type: EventType::parse("crm.customer.registered.v1").expect("a type"),
        recorded_at: clock::now(),
        payload: sealed.payload,
        metadata: Metadata::new(Actor::system("test"), Uuid::nil()),
    })
}

async fn opened(keyring: &Keyring, event: &RecordedEvent) -> Result<Value, KeyringError> {
    let events = keyring.open_events(TENANT, vec![event.clone()]).await?;
    Ok(serde_json::from_slice(&events[0].payload).expect("JSON"))
}

fn key_of(event: &RecordedEvent) -> Uuid {
    let payload: Value = serde_json::from_slice(&event.payload).expect("JSON");
    payload["$sealed"]["key"].as_str().and_then(|id| id.parse().ok()).expect("an id")
}

async fn keys_are_made_once_and_given_to_every_process_until_they_are_fenced(kind: KeyStoreKind) {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = TestKeys::create(kind, folder.path()).await;
    let root = RootKey::generate();
    let open = || keys.open(root.clone().into(), LEASE);
    let (one, other) = (open(), open());
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200_u128 {
        // Two processes make the same subject's first key at once.
        let keyring = if n % 2 == 0 { one.clone() } else { other.clone() };
        tasks.spawn(async move { (n / 2, sealed(&keyring, n / 2).await.expect("seals")) });
    }
    let made: Vec<(u128, RecordedEvent)> = tasks.join_all().await;
    let distinct: HashSet<(u128, Uuid)> =
        made.iter().map(|(subject, event)| (*subject, key_of(event))).collect();
    assert_eq!(distinct.len(), 100, "one key for each");
    let third = open();
    for (_, event) in &made {
        assert!(opened(&third, event).await.expect("opens").get("$open").is_some());
    }
    let event = &made.iter().find(|(subject, _)| *subject == 7).expect("is there").1;
    assert_eq!(third.streams(TENANT, Uuid::from_u128(7)).await.expect("answers"), [stream(7)]);

    // Fenced: a process that has not heard of it uses the key for a lease at most, and one that loads it gets none.
    one.fence(TENANT, Uuid::from_u128(7)).await.expect("fences");
    assert!(opened(&open(), event).await.expect("answers").get("$erased").is_some());
    assert!(matches!(sealed(&one, 7).await, Err(KeyringError::SubjectErased)));
    assert!(matches!(sealed(&open(), 7).await, Err(KeyringError::SubjectErased)));
    eventually("a lease ends", || async {
        opened(&other, event).await.expect("answers").get("$erased").is_some().then_some(())
    })
    .await;
    let key = one.destroy(TENANT, Uuid::from_u128(7)).await.expect("destroys");
    assert_eq!(key, Some(key_of(event)));
    assert_eq!(
        other.destroy(TENANT, Uuid::from_u128(7)).await.expect("destroys"),
        key,
        "a repeat says the same"
    );
    // Whoever is erased before a key was made never gets one.
    assert_eq!(one.destroy(TENANT, Uuid::from_u128(900)).await.expect("destroys"), None);
    assert!(matches!(sealed(&other, 900).await, Err(KeyringError::SubjectErased)));
    let erasures = third.erasures().await.expect("answers");
    let erased: Vec<_> = erasures.iter().map(|erasure| (erasure.subject, erasure.is_destroyed)).collect();
    assert_eq!(erased, [(Uuid::from_u128(7), true), (Uuid::from_u128(900), true)]);

    // What is listed: keys that are there, and ids that belong to no key.
    let stranger = Uuid::from_u128(1);
    let named = vec![key_of(event), key_of(&made[0].1), stranger];
    assert_eq!(third.unknown(TENANT, named).await.expect("answers"), [stranger]);
    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let page = third.keys(after, 30).await.expect("answers");
        let Some(last) = page.last() else { break };
        after = Some((last.tenant, last.subject));
        listed.extend(page);
    }
    assert_eq!(listed.len(), 99);
    assert!(listed.iter().all(|key| key.streams == [StreamName::new("crm.customer", key.subject)]));
}

/// Runs SQL on the keys of a site, in the dialect of its store.
async fn change_keys(site: &Site, kind: KeyStoreKind, file: &str, postgres: &str) {
    match kind {
        KeyStoreKind::Postgres => {
            site.deployment.keys().connect().await.batch_execute(postgres).await.expect("changes");
        }
        KeyStoreKind::File => {
            let path = site.deployment.settings().with_file_name("keys").join("keys.sqlite");
            let database = rusqlite::Connection::open(path).expect("opens");
            database.busy_timeout(LEASE * 10).expect("waits");
            database.execute_batch(file).expect("changes");
        }
    }
}

/// Rows of `annals key check`, and its exit code.
fn check(site: &Site) -> (Option<i32>, Vec<Value>) {
    let settings = site.deployment.settings().display().to_string();
    let output = run(&["key", "check", "--config", &settings, "--output", "jsonl"]);
    let text = String::from_utf8(output.stdout).expect("text");
    let rows = text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect();
    (output.status.code(), rows)
}

async fn a_missing_key_is_told_and_never_taken_for_an_erasure(kind: KeyStoreKind) {
    let mut site = Site::with_keys(&[EVERYTHING], kind).await;
    site.at_rest().await;
    let all = users(&site).await;
    let ada = named(&all, "ada").expect("is there")["id"].as_str().expect("an id").to_owned();
    let bob = named(&all, "bob").expect("is there")["id"].clone();
    assert_eq!(check(&site), (Some(0), Vec::new()));

    // One key goes, and one is there that no event names.
    let unused = Uuid::from_u128(77);
    let keyring = site.deployment.keyring();
    let payload = json!({"$open": {"value": 1}}).to_string();
    keyring.seal(TENANT, &stream(77), ids::new_id(), payload.into()).await.expect("seals");
    let hex = Uuid::parse_str(&ada).expect("an id").simple().to_string();
    let unused_hex = unused.simple().to_string();
    let file = format!(
        "delete from keys where subject = x'{hex}'; update keys set created_at = 0 where subject = x'{unused_hex}'"
    );
    let postgres = format!(
        "delete from keys where subject = '{ada}'; update keys set created_at = '2000-01-01' where subject = '{unused}'"
    );
    change_keys(&site, kind, &file, &postgres).await;
    let refused = eventually("the lease ends", || async {
        let request =
            site.gateway().request(Method::GET, "/v1/events?limit=1000").bearer_auth(&site.busy.token);
        let answer = Answer::of(request).await;
        assert!(!answer.body.to_string().contains("$erased"), "{answer:?}");
        (answer.status != StatusCode::OK).then_some(answer)
    })
    .await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{refused:?}");
    let (exit, rows) = check(&site);
    assert_eq!(exit, Some(9));
    let shown: BTreeSet<(&str, &str)> = rows
        .iter()
        .map(|row| (row["problem"].as_str().expect("text"), row["subject"].as_str().expect("text")))
        .collect();
    assert_eq!(
        shown,
        BTreeSet::from([("missing", ada.as_str()), ("unused", &*unused.to_string())]),
        "{rows:?}"
    );

    // The processes tell it too, and others are read as before.
    site.stop_processes().await;
    site.start_processes().await;
    let metrics = eventually("the comparison", || async {
        let (_, metrics) = site.gateway().operations("/metrics").await?;
        metrics.lines().any(|line| line == "annals_keys_missing 1").then_some(metrics)
    })
    .await;
    assert!(metrics.lines().any(|line| line == "annals_keys_unused 1"), "{metrics}");
    let path = format!("/v1/streams/identity.user/{}/events", bob.as_str().expect("an id"));
    let request = site.gateway().request(Method::GET, &path).bearer_auth(&site.busy.token);
    assert_eq!(Answer::of(request).await.body["events"][0]["data"]["name"], "bob");

    // Lost for good: erasing the person says so, although their key is not there.
    let list = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(list.path(), json!({"tenant": "busy", "subject": ada}).to_string()).expect("written");
    let settings = site.deployment.settings().display().to_string();
    output_of(&["erasure", "repeat", &list.path().display().to_string(), "--config", &settings]);
    eventually("the log opens again and says who was erased", || async {
        let log = site.log(&site.busy).await.to_string();
        (log.contains("$erased") && log.contains("privacy.subject.erased.v1")).then_some(())
    })
    .await;
    assert!(named(&users(&site).await, "ada").is_none());
    assert_eq!(check(&site).0, Some(0));
}

async fn keys_and_events_of_different_deployments_refuse_each_other(kind: KeyStoreKind) {
    let database = Database::with_keys(kind).await;
    drop(database.store().await);
    let refused = async |keyring: Keyring| {
        let config = store::StoreConfig { keyring: Some(keyring), ..database.store_config() };
        match Store::connect(config).await {
            Err(StoreError::Config(problem)) => problem,
            Err(error) => panic!("another error: {error}"),
            Ok(_) => panic!("it is used"),
        }
    };
    // A store that nothing has used yet is not the one that was in use before: it may be there because that one is lost.
    let folder = tempfile::tempdir().expect("a folder");
    let fresh = TestKeys::create(kind, folder.path()).await;
    let open = || fresh.open(database.roots(), LEASE);
    let problem = refused(open()).await;
    assert!(problem.contains("annals key adopt"), "{problem}");
    let without = Store::connect(store::StoreConfig { keyring: None, ..database.store_config() }).await;
    assert!(without.expect("connects").adopt_keys(&open()).await.expect("answers"));
    let config = store::StoreConfig { keyring: Some(open()), ..database.store_config() };
    drop(Store::connect(config).await.expect("it is this deployment's now"));

    let elsewhere = tempfile::tempdir().expect("a folder");
    let other = TestKeys::create(kind, elsewhere.path()).await.open(database.roots(), LEASE);
    assert_eq!(other.mark(Uuid::from_u128(1)).await.expect("marks"), Uuid::from_u128(1));
    let problem = refused(other.clone()).await;
    assert!(problem.contains("belong to the deployment"), "{problem}");
    let without = Store::connect(store::StoreConfig { keyring: None, ..database.store_config() }).await;
    assert!(
        !without.expect("connects").adopt_keys(&other).await.expect("answers"),
        "a marked store is not taken"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_role_of_the_product_makes_and_changes_keys_and_removes_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = TestKeys::create(KeyStoreKind::Postgres, folder.path()).await;
    let database = keys.connect().await;
    let rights = database
        .query(
            "select table_name::text, string_agg(lower(privilege_type), ' ' order by privilege_type)
             from information_schema.role_table_grants where grantee = 'annals_keys' group by table_name order by 1",
            &[],
        )
        .await
        .expect("reads");
    let rights: Vec<(&str, &str)> = rights.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(
        rights,
        [
            ("deployment", "insert select"),
            ("epochs", "delete insert select"),
            ("keys", "insert select update"),
            ("streams", "insert select"),
        ]
    );
    let sql = "select rolsuper or rolcreatedb or rolcreaterole or rolbypassrls or rolreplication or
                      has_schema_privilege('annals_keys', 'public', 'create') or
                      has_database_privilege('annals_keys', current_database(), 'temporary')
               from pg_roles where rolname = 'annals_keys'";
    assert!(!database.query_one(sql, &[]).await.expect("reads").get::<_, bool>(0));
    let others = "select has_database_privilege('annals_worker', current_database(), 'connect')";
    // The role is made by the migration of a database of events on the same server.
    drop(Database::create().await);
    assert!(!database.query_one(others, &[]).await.expect("reads").get::<_, bool>(0));
    let as_product = keys.connect_as("annals_keys").await;
    assert!(as_product.batch_execute("delete from keys").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_on_disk_before_it_is_used_whatever_the_server_is_set_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = TestKeys::create(KeyStoreKind::Postgres, folder.path()).await;
    let database = keys.connect().await;
    database
        .batch_execute(
            "do $$ begin execute format('alter database %I set synchronous_commit = off', current_database()); end $$;
             create function refuse() returns trigger language plpgsql as $$ begin
                 if current_setting('synchronous_commit') in ('off', 'local') then raise 'not durable'; end if;
                 return new;
             end $$;
             create trigger refuse before insert or update on keys for each row execute function refuse();",
        )
        .await
        .expect("is set");
    let keyring = keys.open(RootKey::generate().into(), LEASE);
    sealed(&keyring, 7).await.expect("seals");
    keyring.fence(TENANT, Uuid::from_u128(7)).await.expect("fences");
    keyring.destroy(TENANT, Uuid::from_u128(7)).await.expect("destroys");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_not_read_from_a_standby() {
    let mut server = PostgresServer::start(&[]).await;
    let url = format!("postgres://127.0.0.1:{}/keys", server.port());
    let database = keyring::KeyDatabase::new(&url, PASSWORD, keyring::TlsConfig::default()).expect("reads");
    let owner = keyring::KeyDatabaseOwner { user: "postgres".to_owned(), password: PASSWORD.into() };
    server.connect().await.batch_execute("create database keys").await.expect("creates");
    keyring::migrate(&database, &owner).await.expect("migrates");
    let root = RootKey::generate();
    let config = KeyStoreConfig::Database(database);
    let running = config.open(root.clone().into(), LEASE).await.expect("opens");
    let event = sealed(&running, 7).await.expect("seals");
    server.stop(Signal::SIGINT);
    server.stand_by();
    server.restart().await;
    let told = config.open(root.into(), LEASE).await.expect_err("it takes no writes");
    assert!(
        matches!(&told, KeyringError::Unavailable(problem) if problem.contains("takes no writes")),
        "{told}"
    );
    eventually("what is in memory is good for a lease", || async {
        opened(&running, &event).await.is_err().then_some(())
    })
    .await;
    // Promoted, it serves again: no process has to be started anew.
    server.connect().await.batch_execute("select pg_promote()").await.expect("is promoted");
    eventually("keys are there", || async { opened(&running, &event).await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destroyed_key_that_comes_back_under_running_processes_is_destroyed_again() {
    let mut site = Site::with_keys(&[EVERYTHING], KeyStoreKind::Postgres).await;
    site.at_rest().await;
    let ada = named(&users(&site).await, "ada").expect("is there")["id"].clone();
    let subject: Uuid = ada.as_str().and_then(|id| id.parse().ok()).expect("an id");
    let keys = site.deployment.keys().connect().await;
    let sql = "select epoch, wrapped from keys where subject = $1";
    let before = keys.query_one(sql, &[&subject]).await.expect("a key");
    let (epoch, wrapped): (i64, Vec<u8>) = (before.get(0), before.get(1));
    erase(&site, &ada).await;
    site.stop_processes().await;
    site.start_processes().await;
    eventually("the processes have seen the tombstone", || async {
        let (_, metrics) = site.gateway().operations("/metrics").await?;
        metrics.lines().any(|line| line == "annals_keys_destroyed 1").then_some(())
    })
    .await;
    let sql =
        "update keys set epoch = $2, wrapped = $3, fenced_at = null, destroyed_at = null where subject = $1";
    keys.execute(sql, &[&subject, &epoch, &wrapped]).await.expect("comes back");
    let is_destroyed = async || {
        let erased = site.deployment.keyring().erasures().await.expect("answers");
        erased.iter().any(|erasure| erasure.subject == subject && erasure.is_destroyed)
    };
    assert!(!is_destroyed().await);
    eventually("the key is destroyed again", || async { is_destroyed().await.then_some(()) }).await;
    assert!(site.gateway().logged().contains("has lost tombstones"));
}
