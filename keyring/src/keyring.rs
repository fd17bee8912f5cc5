//! Encrypts and decrypts segments, and destroys keys.

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
use crate::key::{KeyState, Subject};
use crate::payload;
use crate::postgres::PostgresStore;
use crate::store::KeyStore;
use crate::{Erasure, KeyDatabase, KeyringError, RootKeys, StoredKey};

/// Maximum attempts to load the keys of a payload or batch, when leases end before all keys are loaded.
const LOAD_ATTEMPTS_MAX: u32 = 20;
/// Subjects whose events are decrypted together; further events follow with keys that are loaded for them.
const OPENED_SUBJECTS_MAX: usize = 200;

/// The data keys of the subjects of a deployment. Cheap to clone.
#[derive(Clone)]
pub struct Keyring(Arc<Inner>);

/// The lease of a loaded key starts when its load starts.
/// So one lease after a fence, no process has the key any more, even without knowing of the erasure.
struct Inner {
    store: KeyStore,
    lease: Duration,
    cache: Cache,
}

/// A payload without open personal data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedPayload {
    /// The payload, JSON.
    pub payload: Bytes,
    /// The ids of the keys of its sealed segments, ascending.
    pub keys: Vec<Uuid>,
}

/// A sealed segment whose key is neither stored nor destroyed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MissingKey {
    /// The subject of the key.
    pub subject: Uuid,
    /// The id of the missing key.
    pub key: Uuid,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyring(..)")
    }
}

impl Keyring {
    /// Opens the key file in a folder, and creates it if missing.
    /// `lease` limits how long a key is cached, so an erasure waits that long before it destroys a key.
    ///
    /// # Errors
    /// [`KeyringError::Config`] when the file cannot be used, or a root key of its epochs is missing.
    pub fn open(folder: &Path, roots: RootKeys, lease: Duration) -> Result<Self, KeyringError> {
        Self::with_store(KeyStore::File(FileStore::open(folder, roots)?), lease)
    }

    /// Connects to a key database, which must be migrated.
    ///
    /// # Errors
    /// [`KeyringError::Config`] when a root key of its epochs is missing, [`KeyringError::Database`] when it fails.
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

    /// The maximum time that a key is cached.
    pub fn lease(&self) -> Duration {
        self.0.lease
    }

    /// Encrypts the open personal data of a payload, each part with the key of its subject.
    /// `event` is the id of the event that will have the payload.
    ///
    /// # Errors
    /// [`KeyringError::SubjectErased`] when a subject is erased.
    /// [`KeyringError::Invalid`] when the payload is not JSON, or names no subject.
    /// Also the errors of the key store.
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

    /// Decrypts the sealed segments of events.
    /// Segments with a destroyed key are marked as erased. Segments that were sealed for another event stay sealed.
    ///
    /// # Errors
    /// [`KeyringError::KeyMissing`] when a key is neither stored nor destroyed.
    pub async fn open_events(
        &self,
        tenant: TenantId,
        mut events: Vec<RecordedEvent>,
    ) -> Result<Vec<RecordedEvent>, KeyringError> {
        let mut documents: Vec<(usize, Value)> = Vec::new();
        let mut subjects = HashSet::new();
        for index in 0..events.len() {
            let payload = &events[index].payload;
            if payload::contains_member(payload, SEALED)
                && let Ok(mut document) = serde_json::from_slice(payload)
            {
                subjects
                    .extend(payload::segments(&mut document).iter().map(|segment| (tenant, segment.subject)));
                documents.push((index, document));
            }
            // All keys of a part must be loaded within one lease, so the parts are small.
            if subjects.len() >= OPENED_SUBJECTS_MAX || index + 1 == events.len() {
                let states = self.states(std::mem::take(&mut subjects), None).await?;
                for (index, mut document) in documents.drain(..) {
                    let event = &mut events[index];
                    open_all(&mut document, tenant, event.event_id, &states)?;
                    event.payload = serde_json::to_vec(&document).expect("JSON serialises").into();
                }
            }
        }
        Ok(events)
    }

    /// As [`Self::open_events`], for a part of an event's payload that is stored elsewhere.
    ///
    /// # Errors
    /// [`KeyringError::KeyMissing`] when a key is neither stored nor destroyed.
    /// Also the errors of the key store.
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

    /// The streams that have, or had, personal data of the subject.
    ///
    /// # Errors
    /// [`KeyringError`] when the key store does not answer.
    pub async fn streams(&self, tenant: TenantId, subject: Uuid) -> Result<Vec<StreamName>, KeyringError> {
        self.0.store.streams((tenant, subject)).await
    }

    /// Fences the subject: no process loads its key or encrypts for it any more.
    /// One lease later, no process has the key in its cache.
    ///
    /// # Errors
    /// [`KeyringError`] when the key store does not answer.
    pub async fn fence(&self, tenant: TenantId, subject: Uuid) -> Result<(), KeyringError> {
        self.0.store.fence((tenant, subject)).await?;
        self.0.cache.remove((tenant, subject));
        Ok(())
    }

    /// Destroys the key of a subject permanently. Returns its id if there was one; a repeat returns the same.
    ///
    /// # Errors
    /// [`KeyringError`] when the key store does not answer.
    /// [`KeyringError::Unavailable`] when the key is destroyed, but a copy of it is left in the key file.
    pub async fn destroy(&self, tenant: TenantId, subject: Uuid) -> Result<Option<Uuid>, KeyringError> {
        let key = self.0.store.destroy((tenant, subject)).await?;
        self.0.cache.remove((tenant, subject));
        Ok(key)
    }

    /// All fenced and erased subjects.
    ///
    /// # Errors
    /// [`KeyringError`] when the key store does not answer.
    pub async fn erasures(&self) -> Result<Vec<Erasure>, KeyringError> {
        self.0.store.erasures().await
    }

    /// The ids among these that belong to no key and no tombstone of the tenant.
    ///
    /// # Errors
    /// [`KeyringError`] when the key store does not answer.
    pub async fn unknown(&self, tenant: TenantId, keys: Vec<Uuid>) -> Result<Vec<Uuid>, KeyringError> {
        self.0.store.unknown(tenant, keys).await
    }

    /// The sealed segments of this payload whose key is neither stored nor destroyed. It does not use the cache.
    ///
    /// # Errors
    /// [`KeyringError`] when the key store does not answer, or when this process lacks the root key of a data key.
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

    /// A page of the stored keys, ordered by tenant and subject, after `after`.
    ///
    /// # Errors
    /// [`KeyringError`] when the key store does not answer.
    pub async fn keys(
        &self,
        after: Option<(TenantId, Uuid)>,
        limit: u32,
    ) -> Result<Vec<StoredKey>, KeyringError> {
        self.0.store.keys(after, limit).await
    }

    /// The deployment that the key store is marked with, if any.
    ///
    /// # Errors
    /// [`KeyringError`] when the key store does not answer.
    pub async fn deployment(&self) -> Result<Option<Uuid>, KeyringError> {
        self.0.store.deployment().await
    }

    /// Marks an unmarked key store with this deployment. Returns the deployment that it is marked with.
    ///
    /// # Errors
    /// [`KeyringError`] when the key store does not answer.
    pub async fn mark(&self, deployment: Uuid) -> Result<Uuid, KeyringError> {
        self.0.store.mark(deployment).await
    }

    /// Loads the keys of these subjects from the store, without the cache.
    pub(crate) async fn load(
        &self,
        subjects: HashSet<Subject>,
    ) -> Result<HashMap<Subject, KeyState>, KeyringError> {
        self.0.store.load(subjects.into_iter().collect()).await
    }

    /// The keys of these subjects; with `stream`, for encrypting what is written to it.
    /// No key is kept during a wait for another one, and none with an ended lease is returned: it is loaded again.
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
            // A payload usually has one subject, so keys for encryption are loaded one after another.
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
