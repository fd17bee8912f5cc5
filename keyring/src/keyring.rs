//! Seals and opens, and forgets.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use schemas::engine::sealed::{OPEN, SEALED, SealedSegment};
use schemas::engine::{RecordedEvent, StreamName, TenantId};
use serde_json::Value;
use uuid::Uuid;

use crate::cache::Cache;
use crate::file::FileStore;
use crate::payload;
use crate::postgres::PostgresStore;
use crate::store::{KeyState, KeyStore, Subject};
use crate::{Erasure, KeyDatabase, KeyringError, RootKeys, StoredKey};

/// How often keys are loaded for one payload or batch, where the lease ends before all are there.
const LOAD_ATTEMPTS_MAX: u32 = 20;

/// The keys of a deployment's subjects. Cheap to clone.
#[derive(Clone)]
pub struct Keyring(Arc<Inner>);

/// A key that is loaded may be used until its lease ends, counted from when the load began. So a process that does not know
/// of an erasure holds no copy of the key any more when one lease has passed since the fence.
struct Inner {
    store: KeyStore,
    lease: Duration,
    cache: Cache,
}

/// A payload as the log may have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedPayload {
    /// Its bytes.
    pub payload: Bytes,
    /// The keys that parts of it are sealed under, ascending.
    pub keys: Vec<Uuid>,
}

/// Something in a payload that is sealed under a key which is neither in the store nor destroyed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub struct MissingKey {
    pub subject: Uuid,
    pub key: Uuid,
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
        Self::with_store(KeyStore::File(FileStore::open(folder, roots)?), lease)
    }

    /// Connects to a database of keys. It has to be migrated.
    pub async fn connect(
        database: &KeyDatabase,
        roots: RootKeys,
        lease: Duration,
    ) -> Result<Self, KeyringError> {
        Self::with_store(KeyStore::Postgres(Box::new(PostgresStore::connect(database, roots).await?)), lease)
    }

    fn with_store(store: KeyStore, lease: Duration) -> Result<Self, KeyringError> {
        Ok(Self(Arc::new(Inner { store, lease, cache: Cache::start()? })))
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
        if !payload::contains_member(&payload, OPEN) {
            return Ok(SealedPayload { payload, keys: Vec::new() });
        }
        let invalid = |problem: &dyn std::fmt::Display| KeyringError::Invalid(problem.to_string());
        let mut document: Value = serde_json::from_slice(&payload).map_err(|error| invalid(&error))?;
        let mut subjects = HashMap::new();
        for named in payload::subjects(&mut document) {
            let subject = named.or(stream.uuid()).ok_or_else(|| invalid(&"it names no subject"))?;
            subjects.insert(named, subject);
        }
        let wanted = subjects.values().map(|subject| (tenant, *subject)).collect();
        let states = self.states(wanted, Some(stream)).await?;
        let mut keys = HashMap::new();
        for (named, subject) in subjects {
            match &states[&(tenant, subject)] {
                KeyState::Live(key, data_key) => drop(keys.insert(named, (subject, *key, data_key))),
                KeyState::Erased => return Err(KeyringError::SubjectErased),
                KeyState::Missing => {
                    return Err(KeyringError::Unavailable("no key was made".to_owned()));
                }
            }
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

    /// Events with their sealed parts opened. Parts whose key was destroyed say so; parts that were not sealed for their event
    /// stay sealed.
    ///
    /// # Errors
    /// [`KeyringError::KeyMissing`] where something is sealed under a key that is not there and was not destroyed.
    pub async fn open_events(
        &self,
        tenant: TenantId,
        mut events: Vec<RecordedEvent>,
    ) -> Result<Vec<RecordedEvent>, KeyringError> {
        let mut documents: Vec<(usize, Value)> = Vec::new();
        let mut subjects = HashSet::new();
        for (index, event) in events.iter().enumerate() {
            if payload::contains_member(&event.payload, SEALED)
                && let Ok(mut document) = serde_json::from_slice(&event.payload)
            {
                subjects
                    .extend(payload::segments(&mut document).iter().map(|segment| (tenant, segment.subject)));
                documents.push((index, document));
            }
        }
        let states = self.states(subjects, None).await?;
        for (index, mut document) in documents {
            let event = &mut events[index];
            open_all(&mut document, tenant, event.event_id, &states)?;
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
        let states = self.states(subjects, None).await?;
        open_all(&mut part, tenant, event, &states)?;
        Ok(part)
    }

    /// The streams that hold, or held, something of the subject.
    pub async fn streams(&self, tenant: TenantId, subject: Uuid) -> Result<Vec<StreamName>, KeyringError> {
        self.0.store.streams((tenant, subject)).await
    }

    /// From now on no process loads a key of the subject, and none seals for it. One lease later none holds one.
    pub async fn fence(&self, tenant: TenantId, subject: Uuid) -> Result<(), KeyringError> {
        self.0.store.fence((tenant, subject)).await?;
        self.0.cache.remove((tenant, subject));
        Ok(())
    }

    /// Destroys the key of a subject for ever. Returns its id, where there was one; a repeat returns the same.
    pub async fn destroy(&self, tenant: TenantId, subject: Uuid) -> Result<Option<Uuid>, KeyringError> {
        let key = self.0.store.destroy((tenant, subject)).await?;
        self.0.cache.remove((tenant, subject));
        Ok(key)
    }

    /// Every subject that was fenced or erased.
    pub async fn erasures(&self) -> Result<Vec<Erasure>, KeyringError> {
        self.0.store.erasures().await
    }

    /// Which of these ids belong to no key of the tenant and to none that was destroyed.
    pub async fn unknown(&self, tenant: TenantId, keys: Vec<Uuid>) -> Result<Vec<Uuid>, KeyringError> {
        self.0.store.unknown(tenant, keys).await
    }

    /// Whatever in this payload is sealed under a key that is not there and was not destroyed. Keys in memory do not count.
    pub async fn missing_keys(
        &self,
        tenant: TenantId,
        payload: &[u8],
    ) -> Result<Vec<MissingKey>, KeyringError> {
        let Ok(mut document) = serde_json::from_slice(payload) else { return Ok(Vec::new()) };
        let segments = payload::segments(&mut document);
        let subjects = segments.iter().map(|segment| (tenant, segment.subject)).collect();
        let states = self.0.store.load(subjects).await?;
        let is_missing = |segment: &SealedSegment| match &states[&(tenant, segment.subject)] {
            KeyState::Live(key, _) => *key != segment.key,
            KeyState::Erased => false,
            KeyState::Missing => true,
        };
        let missing = segments.into_iter().filter(is_missing);
        Ok(missing.map(|segment| MissingKey { subject: segment.subject, key: segment.key }).collect())
    }

    /// Keys that are not destroyed, in the order of tenants and subjects, behind `after`.
    pub async fn keys(
        &self,
        after: Option<(TenantId, Uuid)>,
        limit: u32,
    ) -> Result<Vec<StoredKey>, KeyringError> {
        self.0.store.keys(after, limit).await
    }

    /// The deployment that the store of keys belongs to, where it is marked.
    pub async fn deployment(&self) -> Result<Option<Uuid>, KeyringError> {
        self.0.store.deployment().await
    }

    /// Marks a store of keys as this deployment's where it is not marked yet; returns whose it is.
    pub async fn mark(&self, deployment: Uuid) -> Result<Uuid, KeyringError> {
        self.0.store.mark(deployment).await
    }

    /// What the store knows of these subjects by now, whatever is in memory.
    pub(crate) async fn load(
        &self,
        subjects: HashSet<Subject>,
    ) -> Result<HashMap<Subject, KeyState>, KeyringError> {
        self.0.store.load(subjects.into_iter().collect()).await
    }

    /// The keys of these subjects; with a stream, those to seal what is written to it. No key is held while another one is
    /// waited for, and none is returned whose lease has ended: what is slow is loaded again.
    async fn states(
        &self,
        wanted: HashSet<Subject>,
        stream: Option<&StreamName>,
    ) -> Result<HashMap<Subject, KeyState>, KeyringError> {
        let mut without_key = HashMap::new();
        for _ in 0..LOAD_ATTEMPTS_MAX {
            let (mut states, mut absent) = (HashMap::new(), Vec::new());
            for subject in &wanted {
                if let Some(state) = without_key.get(subject) {
                    states.insert(*subject, KeyState::clone(state));
                } else if let Some((key, data_key)) = self.0.cache.get(*subject, stream) {
                    states.insert(*subject, KeyState::Live(key, data_key));
                } else {
                    absent.push(*subject);
                }
            }
            if absent.is_empty() {
                return Ok(states);
            }
            drop(states);
            // A payload is about one subject, seldom two, so the keys to seal it come one after the other.
            let batches = if stream.is_some() { absent.chunks(1) } else { absent.chunks(absent.len()) };
            for batch in batches {
                let begun = Instant::now();
                let loaded = match stream {
                    Some(stream) => {
                        HashMap::from([(batch[0], self.0.store.get_or_create(batch[0], stream).await?)])
                    }
                    None => self.0.store.load(batch.to_vec()).await?,
                };
                for (subject, state) in loaded {
                    match state {
                        KeyState::Live(key, data_key) => {
                            self.0.cache.insert(subject, key, data_key, begun + self.0.lease, stream);
                        }
                        state => drop(without_key.insert(subject, state)),
                    }
                }
            }
        }
        Err(KeyringError::Unavailable("keys take longer to load than their lease lasts".to_owned()))
    }
}

fn open_all(
    document: &mut Value,
    tenant: TenantId,
    event: Uuid,
    states: &HashMap<Subject, KeyState>,
) -> Result<(), KeyringError> {
    let mut missing = None;
    payload::replace(document, SEALED, &mut |sealed| {
        let segment = payload::segment_of(sealed)?;
        match states.get(&(tenant, segment.subject))? {
            KeyState::Live(key, data_key) if *key == segment.key => {
                payload::open(&segment, event, data_key).map(|value| payload::opened(segment.subject, value))
            }
            KeyState::Erased => Some(payload::erased(segment.subject)),
            KeyState::Live(..) | KeyState::Missing => {
                missing = Some((segment.subject, segment.key));
                None
            }
        }
    });
    match missing {
        Some((subject, key)) => Err(KeyringError::key_missing(subject, key)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
