//! Sealing, opening and destroying over the file of keys.

use proptest::prelude::*;
use schemas::engine::{Actor, EventType, LogId, Metadata, clock, ids};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::RootKey;

const TENANT: TenantId = TenantId(Uuid::from_u128(5));
const LEASE: Duration = Duration::from_millis(50);

struct Site {
    folder: TempDir,
    root: RootKey,
}

impl Site {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder"), root: RootKey::generate() }
    }

    fn open(&self) -> Keyring {
        Keyring::open(self.folder.path(), self.root.clone().into(), LEASE).expect("opens")
    }

    /// Whether the bytes stand in any file of the folder.
    fn holds(&self, needle: &[u8]) -> bool {
        let files = std::fs::read_dir(self.folder.path()).expect("the folder").flatten();
        let read = |path| match std::fs::read(path) {
            // The write-ahead log goes with the last handle, when its thread ends.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            read => read.expect("a file"),
        };
        files
            .map(|file| read(file.path()))
            .any(|bytes| bytes.windows(needle.len()).any(|window| window == needle))
    }
}

fn stream(id: u128) -> StreamName {
    StreamName::new("crm.customer", Uuid::from_u128(id))
}

fn payload(name: &str) -> Bytes {
    json!({"$open": {"value": {"name": name}}, "roles": [1]}).to_string().into()
}

fn recorded(event_id: Uuid, stream: &StreamName, payload: Bytes) -> RecordedEvent {
    RecordedEvent {
        log_id: LogId(Uuid::from_u128(1)),
        position: 1,
        stream: stream.clone(),
        version: 1,
        event_id,
        event_type: EventType::parse("crm.customer.registered.v1").expect("a type"),
        recorded_at: clock::now(),
        payload,
        metadata: Metadata::new(Actor::system("test"), Uuid::nil()),
    }
}

async fn opened(keyring: &Keyring, event: &RecordedEvent) -> Value {
    let events = keyring.open_events(TENANT, vec![event.clone()]).await.expect("opens");
    serde_json::from_slice(&events[0].payload).expect("JSON")
}

async fn sealed(keyring: &Keyring, id: u128, name: &str) -> RecordedEvent {
    let event = ids::new_id();
    let sealed = keyring.seal(TENANT, &stream(id), event, payload(name)).await.expect("seals");
    assert_eq!(sealed.keys.len(), 1);
    recorded(event, &stream(id), sealed.payload)
}

#[tokio::test]
async fn what_was_sealed_is_opened_by_another_process_and_by_no_other_root() {
    let site = Site::new();
    let event = sealed(&site.open(), 7, "Ada Lovelace").await;
    assert!(!String::from_utf8_lossy(&event.payload).contains("Ada"));
    let expected =
        json!({"$open": {"subject": Uuid::from_u128(7), "value": {"name": "Ada Lovelace"}}, "roles": [1]});
    assert_eq!(opened(&site.open(), &event).await, expected);
    let foreign = Keyring::open(site.folder.path(), RootKey::generate().into(), LEASE);
    assert!(matches!(foreign, Err(KeyringError::Config(_))));
    assert!(!site.holds(b"Ada"));
}

#[test]
fn processes_that_make_the_file_at_once_all_open_it() {
    for _ in 0..100 {
        let (site, start) = (Site::new(), std::sync::Barrier::new(8));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    site.open()
                });
            }
        });
    }
}

#[tokio::test]
async fn a_segment_belongs_to_its_event_its_tenant_and_its_bytes() {
    let site = Site::new();
    let keyring = site.open();
    let event = sealed(&keyring, 7, "Ada").await;
    let mut moved = event.clone();
    moved.event_id = ids::new_id();
    assert!(opened(&keyring, &moved).await.get("$sealed").is_some());
    let elsewhere = keyring.open_events(TenantId(Uuid::from_u128(6)), vec![event.clone()]).await;
    assert!(matches!(elsewhere, Err(KeyringError::KeyMissing { .. })), "{elsewhere:?}");
    let mut document: Value = serde_json::from_slice(&event.payload).expect("JSON");
    document["$sealed"]["ct"] = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".into();
    let broken = recorded(event.event_id, &event.stream, document.to_string().into());
    assert!(opened(&keyring, &broken).await.get("$sealed").is_some());
}

#[tokio::test]
async fn one_lease_after_the_fence_no_process_opens_or_seals() {
    let site = Site::new();
    let (eraser, other) = (site.open(), site.open());
    let event = sealed(&other, 7, "Ada").await;
    eraser.fence(TENANT, Uuid::from_u128(7)).await.expect("fences");
    let begun = Instant::now();
    while opened(&other, &event).await.get("$open").is_some() {
        assert!(begun.elapsed() < LEASE * 10, "a lease ends");
    }
    let refused = other.seal(TENANT, &stream(7), ids::new_id(), payload("Ada")).await;
    assert!(matches!(refused, Err(KeyringError::SubjectErased)));
    let erased = json!({"$erased": {"subject": Uuid::from_u128(7)}, "roles": [1]});
    assert_eq!(opened(&eraser, &event).await, erased);
}

#[tokio::test]
async fn a_destroyed_key_is_nowhere_and_the_others_are_where_they_were() {
    let site = Site::new();
    let keyring = site.open();
    let mut events = Vec::new();
    for id in 0..200 {
        events.push(sealed(&keyring, id, &format!("Person {id}")).await);
    }
    let database = rusqlite::Connection::open(site.folder.path().join("keys.sqlite")).expect("opens");
    let wrapped = |id: u128| -> Option<Vec<u8>> {
        let subject = Uuid::from_u128(id).into_bytes();
        database
            .query_row(
                "select bytes from keys join wrapped using (slot) where subject = ?1",
                [subject],
                |row| row.get(0),
            )
            .ok()
    };
    let doomed: Vec<Vec<u8>> = (50..100).map(|id| wrapped(id).expect("a key")).collect();
    assert!(doomed.iter().all(|key| site.holds(key)));
    let schema_version =
        || database.query_row("pragma schema_version", [], |row| row.get::<_, i64>(0)).expect("a number");
    let before = schema_version();
    for id in 50..100 {
        let first = keyring.destroy(TENANT, Uuid::from_u128(id)).await.expect("destroys");
        let again = keyring.destroy(TENANT, Uuid::from_u128(id)).await.expect("destroys");
        assert!(first.is_some() && first == again);
    }
    assert!(!doomed.iter().any(|key| site.holds(key)));
    assert_eq!(schema_version(), before, "they were overwritten in place: the file was not written anew");
    assert!(wrapped(60).is_none() && wrapped(10).is_some());
    for (id, event) in events.iter().enumerate() {
        let is_open = opened(&keyring, event).await.get("$open").is_some();
        assert_eq!(is_open, !(50..100).contains(&id));
    }
    assert_eq!(keyring.erasures().await.expect("answers").len(), 50);
    let streams = keyring.streams(TENANT, Uuid::from_u128(60)).await.expect("answers");
    assert_eq!(streams, [stream(60)]);
}

#[tokio::test]
async fn many_subjects_at_once_get_a_key_each() {
    let site = Site::new();
    let (one, other) = (site.open(), site.open());
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..500_u128 {
        // Two processes make the same subject's first key at once.
        let keyring = if n % 2 == 0 { one.clone() } else { other.clone() };
        tasks.spawn(async move {
            let (event, stream) = (ids::new_id(), stream(n / 2));
            let sealed = keyring.seal(TENANT, &stream, event, payload("Ada")).await.expect("seals");
            (n / 2, sealed.keys[0], recorded(event, &stream, sealed.payload))
        });
    }
    let mut keys: HashMap<u128, HashSet<Uuid>> = HashMap::new();
    let third = site.open();
    for (subject, key, event) in tasks.join_all().await {
        keys.entry(subject).or_default().insert(key);
        assert!(opened(&third, &event).await.get("$open").is_some());
    }
    assert!(keys.len() == 250 && keys.values().all(|keys| keys.len() == 1));
}

#[tokio::test]
async fn a_batch_of_more_subjects_than_are_loaded_together_is_opened_whole() {
    let site = Site::new();
    let keyring = site.open();
    let subjects = 2 * OPENED_SUBJECTS_MAX as u128 + 7;
    let names: Vec<String> = (1..=subjects).map(|id| format!("Name {id}")).collect();
    let seal = (1..=subjects).zip(&names).map(|(id, name)| sealed(&keyring, id, name));
    let mut events = futures::future::join_all(seal).await;
    for id in 1..=subjects / 3 {
        let plain = recorded(ids::new_id(), &stream(id), Bytes::from_static(b"{\"plain\": true}"));
        events.insert(id as usize * 4, plain);
    }
    let opened = site.open().open_events(TENANT, events.clone()).await.expect("opens");
    assert_eq!(opened.len(), events.len());
    for (opened, event) in opened.iter().zip(&events) {
        assert_eq!(opened.event_id, event.event_id);
        let id = event.stream.uuid().expect("an id").as_u128();
        let text = String::from_utf8_lossy(&opened.payload).into_owned();
        assert!(text.contains("\"plain\"") || text.contains(&format!("\"Name {id}\"")), "{text}");
    }
}

#[tokio::test]
async fn a_key_that_is_gone_without_a_tombstone_is_missing_and_not_erased() {
    let site = Site::new();
    let (keyring, other) = (site.open(), site.open());
    let event = sealed(&keyring, 7, "Ada").await;
    let database = rusqlite::Connection::open(site.folder.path().join("keys.sqlite")).expect("opens");
    database.execute("delete from keys", []).expect("deletes");
    let missing = |result| matches!(result, Err(KeyringError::KeyMissing { subject, .. }) if subject == Uuid::from_u128(7));
    assert!(missing(other.open_events(TENANT, vec![event.clone()]).await));
    let part = serde_json::from_slice(&event.payload).expect("JSON");
    assert!(missing(other.open_part(TENANT, event.event_id, part).await.map(|_| Vec::new())));
    assert_eq!(other.missing_keys(TENANT, &event.payload).await.expect("answers").len(), 1);
    // A new key for the subject does not hide that the earlier one is missing.
    let later = sealed(&other, 7, "Ada").await;
    assert!(missing(other.open_events(TENANT, vec![later.clone(), event.clone()]).await));
    assert!(opened(&other, &later).await.get("$open").is_some());
    // A tombstone without a key says that the subject is erased, also of what was sealed under the missing key.
    other.destroy(TENANT, Uuid::from_u128(7)).await.expect("destroys");
    assert!(opened(&site.open(), &event).await.get("$erased").is_some());
    assert!(other.missing_keys(TENANT, &event.payload).await.expect("answers").is_empty());
}

#[tokio::test]
async fn keys_are_served_while_a_key_is_destroyed() {
    let site = Site::new();
    let keyring = site.open();
    let event = sealed(&keyring, 7, "Ada").await;
    // A reader that holds back the emptying of the write-ahead log, and so the destruction, for as long as it reads.
    let reader = rusqlite::Connection::open(site.folder.path().join("keys.sqlite")).expect("opens");
    reader.execute_batch("begin; select count(*) from keys").expect("reads");
    let destroying = {
        let keyring = keyring.clone();
        tokio::spawn(async move { keyring.destroy(TENANT, Uuid::from_u128(8)).await })
    };
    for id in 100..150 {
        sealed(&keyring, id, "Person").await;
        drop(opened(&site.open(), &event).await);
    }
    assert!(!destroying.is_finished(), "it is held back");
    reader.execute_batch("commit").expect("ends");
    destroying.await.expect("runs").expect("destroys");
}

#[tokio::test]
async fn the_file_of_keys_is_open_to_its_account_alone() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::new();
    let folder = site.folder.path().join("new");
    let open = || Keyring::open(&folder, site.root.clone().into(), LEASE).expect("opens");
    let modes = || {
        let mut paths = vec![folder.clone()];
        paths.extend(std::fs::read_dir(&folder).expect("a folder").flatten().map(|entry| entry.path()));
        let mode = |path: &std::path::PathBuf| {
            std::fs::metadata(path).expect("is there").permissions().mode() & 0o777
        };
        paths.iter().map(|path| (path.clone(), mode(path))).collect::<Vec<_>>()
    };
    let keyring = open();
    sealed(&keyring, 7, "Ada").await;
    assert_eq!(modes().len(), 4, "the folder, the file and the two beside it");
    for (path, mode) in modes() {
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
    }
    for (path, mode) in modes() {
        let open_to_all = std::fs::Permissions::from_mode(mode | 0o055);
        std::fs::set_permissions(&path, open_to_all).expect("is ours");
    }
    let _again = open();
    for (path, mode) in modes() {
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
    }
}

#[tokio::test]
async fn a_file_of_the_first_version_keeps_its_keys() {
    let site = Site::new();
    let keyring = site.open();
    let events = [sealed(&keyring, 7, "Ada").await, sealed(&keyring, 8, "Bob").await];
    keyring.destroy(TENANT, Uuid::from_u128(9)).await.expect("destroys");
    drop(keyring);
    let database = rusqlite::Connection::open(site.folder.path().join("keys.sqlite")).expect("opens");
    database
        .execute_batch(
            "create table before (
                 tenant blob not null, subject blob not null, id blob not null, epoch integer not null,
                 wrapped blob not null, created_at integer not null, primary key (tenant, subject)) without rowid;
             insert into before select tenant, subject, id, epoch, bytes, created_at
                 from keys join wrapped using (slot);
             drop table keys; drop table wrapped; drop table deployment; drop index erasures_by_key;
             alter table before rename to keys; pragma user_version = 0;",
        )
        .expect("is as before");
    let keyring = site.open();
    for event in &events {
        assert!(opened(&keyring, event).await.get("$open").is_some());
    }
    assert_eq!(keyring.erasures().await.expect("answers").len(), 1);
    assert_eq!(keyring.keys(None, 10).await.expect("answers").len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_json_comes_out_as_it_went_in(text in ".{0,40}", number: i64, deep in 0_usize..4) {
        let mut value = json!({"text": text, "number": number, "null": null});
        for _ in 0..deep {
            value = json!([{"inner": value}]);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let site = Site::new();
            let keyring = site.open();
            let event = ids::new_id();
            let payload = json!({"a": [{"$open": {"value": value}}], "b": 1});
            let sealed = keyring.seal(TENANT, &stream(1), event, payload.to_string().into()).await.expect("seals");
            let back = opened(&keyring, &recorded(event, &stream(1), sealed.payload)).await;
            assert_eq!(back["a"][0]["$open"]["value"], value);
        });
    }
}
