//! Seals and opens, and forgets.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use schemas::engine::sealed::{OPEN, SEALED, SealedSegment};
use schemas::engine::{RecordedEvent, StreamName, TenantId};
use serde_json::Value;
use uuid::Uuid;

use crate::crypto::DataKey;
use crate::payload;
use crate::table::{Request, Standing, Subject, Table};
use crate::{Erasure, KeyringError, RootKeys};

/// Keys kept in memory at most.
const KEPT: usize = 100_000;

/// The keys of a deployment's subjects. Cheap to clone.
#[derive(Clone)]
pub struct Keyring(Arc<Inner>);

struct Inner {
    table: Table,
    lease: Duration,
    kept: Mutex<HashMap<Subject, Kept>>,
}

/// A key in memory. Whoever loads one may use it until the lease ends, counted from when the load began: so a process that
/// has not heard of an erasure holds no key any more when one lease has passed since the fence.
struct Kept {
    key: Uuid,
    data_key: DataKey,
    until: Instant,
    /// The streams that are noted to hold something of the subject.
    streams: HashSet<StreamName>,
}

/// A payload as the log may have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedPayload {
    /// Its bytes.
    pub payload: Bytes,
    /// The keys that parts of it are sealed under, ascending.
    pub keys: Vec<Uuid>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyring(..)")
    }
}

impl Keyring {
    /// Opens the file of keys in a folder, making it where it is missing. `lease` is how long a key is kept in memory, and so
    /// how long an erasure waits before it destroys one.
    pub fn open(folder: &Path, roots: RootKeys, lease: Duration) -> Result<Self, KeyringError> {
        let table = Table::open(folder, roots)?;
        Ok(Self(Arc::new(Inner { table, lease, kept: Mutex::default() })))
    }

    /// How long a key is kept in memory, at most.
    pub fn lease(&self) -> Duration {
        self.0.lease
    }

    /// Seals what the payload holds open, each part under the key of its subject. `event` is the id that the payload's event
    /// will have.
    pub async fn seal(
        &self,
        tenant: TenantId,
        stream: &StreamName,
        event: Uuid,
        payload: Bytes,
    ) -> Result<SealedPayload, KeyringError> {
        if !payload::mentions(&payload, OPEN) {
            return Ok(SealedPayload { payload, keys: Vec::new() });
        }
        let invalid = |problem: &dyn std::fmt::Display| KeyringError::Invalid(problem.to_string());
        let mut document: Value = serde_json::from_slice(&payload).map_err(|error| invalid(&error))?;
        let mut keys = HashMap::new();
        for named in payload::subjects(&mut document) {
            let subject = named.or(stream.uuid()).ok_or_else(|| invalid(&"it names no subject"))?;
            let (key, data_key) = self.key_for((tenant, subject), stream).await?;
            keys.insert(named, (subject, key, data_key));
        }
        payload::replace(&mut document, OPEN, &mut |open| {
            let (subject, key, data_key) = &keys[&payload::subject_of(open)];
            let value = open.get("value").unwrap_or(&Value::Null);
            Some((SEALED, payload::seal(value, event, *subject, *key, data_key)))
        });
        let mut keys: Vec<Uuid> = keys.into_values().map(|(_, key, _)| key).collect();
        keys.sort_unstable();
        keys.dedup();
        let payload = serde_json::to_vec(&document).expect("JSON serialises").into();
        Ok(SealedPayload { payload, keys })
    }

    /// Events with their sealed parts opened. Parts whose key was destroyed say so; parts that were not sealed for their event,
    /// or under a key that nobody knows, stay sealed.
    pub async fn open_events(
        &self,
        tenant: TenantId,
        mut events: Vec<RecordedEvent>,
    ) -> Result<Vec<RecordedEvent>, KeyringError> {
        let mut documents: Vec<(usize, Value)> = Vec::new();
        let mut subjects = HashSet::new();
        for (index, event) in events.iter().enumerate() {
            if payload::mentions(&event.payload, SEALED)
                && let Ok(mut document) = serde_json::from_slice(&event.payload)
            {
                subjects
                    .extend(payload::segments(&mut document).iter().map(|segment| (tenant, segment.subject)));
                documents.push((index, document));
            }
        }
        let standings = self.standings(subjects).await?;
        for (index, mut document) in documents {
            let event = &mut events[index];
            payload::replace(&mut document, SEALED, &mut |sealed| {
                open_one(payload::segment_of(sealed)?, tenant, event.event_id, &standings)
            });
            event.payload = serde_json::to_vec(&document).expect("JSON serialises").into();
        }
        Ok(events)
    }

    /// As [`Self::open_events`], for a part of an event's payload that is kept elsewhere.
    pub async fn open_part(
        &self,
        tenant: TenantId,
        event: Uuid,
        mut part: Value,
    ) -> Result<Value, KeyringError> {
        let subjects = payload::segments(&mut part).iter().map(|segment| (tenant, segment.subject)).collect();
        let standings = self.standings(subjects).await?;
        payload::replace(&mut part, SEALED, &mut |sealed| {
            open_one(payload::segment_of(sealed)?, tenant, event, &standings)
        });
        Ok(part)
    }

    /// The streams that hold, or held, something of the subject.
    pub async fn streams(&self, tenant: TenantId, subject: Uuid) -> Result<Vec<StreamName>, KeyringError> {
        self.0.table.ask(|reply| Request::Streams((tenant, subject), reply)).await
    }

    /// From now on no process loads a key of the subject, and none seals for it. One lease later none holds one.
    pub async fn fence(&self, tenant: TenantId, subject: Uuid) -> Result<(), KeyringError> {
        self.0.table.ask(|reply| Request::Fence((tenant, subject), reply)).await?;
        self.kept(|kept| drop(kept.remove(&(tenant, subject))));
        Ok(())
    }

    /// Destroys the key of a subject for ever. Returns its id, where there was one; a repeat returns the same.
    pub async fn destroy(&self, tenant: TenantId, subject: Uuid) -> Result<Option<Uuid>, KeyringError> {
        let key = self.0.table.ask(|reply| Request::Destroy((tenant, subject), reply)).await?;
        self.kept(|kept| drop(kept.remove(&(tenant, subject))));
        Ok(key)
    }

    /// Every subject that was fenced or erased.
    pub async fn erasures(&self) -> Result<Vec<Erasure>, KeyringError> {
        self.0.table.ask(Request::Erasures).await
    }

    pub(crate) fn table(&self) -> &Table {
        &self.0.table
    }

    async fn key_for(&self, subject: Subject, stream: &StreamName) -> Result<(Uuid, DataKey), KeyringError> {
        let begun = Instant::now();
        let known = self.kept(|kept| {
            let known = kept.get(&subject).filter(|known| known.until > begun)?;
            known.streams.contains(stream).then_some((known.key, known.data_key))
        });
        if let Some(known) = known {
            return Ok(known);
        }
        let request = |reply| Request::Seal(subject, stream.clone(), reply);
        match self.0.table.ask(request).await? {
            Standing::Live(key, data_key) => {
                self.keep(subject, key, data_key, begun, Some(stream));
                Ok((key, data_key))
            }
            Standing::Erased => Err(KeyringError::SubjectErased),
            Standing::Unknown => Err(KeyringError::Unavailable("no key was made".to_owned())),
        }
    }

    async fn standings(
        &self,
        subjects: HashSet<Subject>,
    ) -> Result<HashMap<Subject, Standing>, KeyringError> {
        let begun = Instant::now();
        let mut standings = HashMap::new();
        let mut missing = Vec::new();
        self.kept(|kept| {
            for subject in subjects {
                match kept.get(&subject).filter(|known| known.until > begun) {
                    Some(known) => drop(standings.insert(subject, Standing::Live(known.key, known.data_key))),
                    None => missing.push(subject),
                }
            }
        });
        if !missing.is_empty() {
            let loaded = self.0.table.ask(|reply| Request::Load(missing, reply)).await?;
            for (subject, standing) in &loaded {
                if let Standing::Live(key, data_key) = standing {
                    self.keep(*subject, *key, *data_key, begun, None);
                }
            }
            standings.extend(loaded);
        }
        Ok(standings)
    }

    fn keep(
        &self,
        subject: Subject,
        key: Uuid,
        data_key: DataKey,
        begun: Instant,
        stream: Option<&StreamName>,
    ) {
        let until = begun + self.0.lease;
        self.kept(|kept| {
            if kept.len() >= KEPT {
                kept.retain(|_, known| known.until > begun);
                if kept.len() >= KEPT {
                    kept.clear();
                }
            }
            let known =
                kept.entry(subject).or_insert_with(|| Kept { key, data_key, until, streams: HashSet::new() });
            known.until = known.until.max(until);
            known.streams.extend(stream.cloned());
        });
    }

    fn kept<T>(&self, with: impl FnOnce(&mut HashMap<Subject, Kept>) -> T) -> T {
        with(&mut self.0.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn open_one(
    segment: SealedSegment,
    tenant: TenantId,
    event: Uuid,
    standings: &HashMap<Subject, Standing>,
) -> Option<(&'static str, Value)> {
    match standings.get(&(tenant, segment.subject))? {
        Standing::Live(key, data_key) if *key == segment.key => {
            payload::open(&segment, event, data_key).map(|value| payload::opened(segment.subject, value))
        }
        Standing::Erased => Some(payload::erased(segment.subject)),
        Standing::Live(..) | Standing::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
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
        let expected = json!({"$open": {"subject": Uuid::from_u128(7), "value": {"name": "Ada Lovelace"}}, "roles": [1]});
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
        let elsewhere =
            keyring.open_events(TenantId(Uuid::from_u128(6)), vec![event.clone()]).await.expect("answers");
        assert_eq!(elsewhere[0].payload, event.payload);
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
                .query_row("select wrapped from keys where subject = ?1", [subject], |row| row.get(0))
                .ok()
        };
        let doomed: Vec<Vec<u8>> = (50..100).map(|id| wrapped(id).expect("a key")).collect();
        assert!(doomed.iter().all(|key| site.holds(key)));
        for id in 50..100 {
            let first = keyring.destroy(TENANT, Uuid::from_u128(id)).await.expect("destroys");
            let again = keyring.destroy(TENANT, Uuid::from_u128(id)).await.expect("destroys");
            assert!(first.is_some() && first == again);
        }
        assert!(!doomed.iter().any(|key| site.holds(key)));
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_json_comes_out_as_it_went_in(text in ".{0,40}", number: i64, deep in 0_usize..4) {
            let mut value = json!({"text": text, "number": number, "null": null});
            for _ in 0..deep {
                value = json!([{"inner": value}]);
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
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
}
