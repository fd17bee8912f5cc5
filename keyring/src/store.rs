//! What a store of keys does, whichever it is: a file of this machine or a PostgreSQL database.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use schemas::engine::{StreamName, TenantId};
use uuid::Uuid;

use crate::KeyringError;
use crate::crypto::DataKey;
use crate::file::FileStore;
use crate::postgres::PostgresStore;

/// Whose key it is.
pub(crate) type Subject = (TenantId, Uuid);

/// What a store knows of a subject's key.
#[derive(Debug, Clone)]
pub(crate) enum KeyState {
    Live(Uuid, DataKey),
    /// Fenced or destroyed: the tombstone is there.
    Erased,
    /// Neither a key nor a tombstone.
    Missing,
}

/// A subject whose key is destroyed, or is about to be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Erasure {
    pub tenant: TenantId,
    pub subject: Uuid,
    /// Where there was one.
    pub key: Option<Uuid>,
    pub is_destroyed: bool,
}

/// A key as a store lists it, without the key itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct StoredKey {
    pub tenant: TenantId,
    pub subject: Uuid,
    pub key: Uuid,
    pub created_at: DateTime<Utc>,
    /// The streams that may hold something that is sealed under it.
    pub streams: Vec<StreamName>,
}

/// Where keys are kept.
pub(crate) enum KeyStore {
    File(FileStore),
    Postgres(Box<PostgresStore>),
}

/// Calls the same method of whichever store it is. The futures are boxed, so that those of all callers stay small.
macro_rules! either {
    ($store:expr, $inner:ident => $call:expr) => {
        match $store {
            KeyStore::File($inner) => Box::pin($call).await,
            KeyStore::Postgres($inner) => Box::pin($call).await,
        }
    };
}

impl KeyStore {
    /// The key of a subject, made where there is none, and the note that the stream holds something of it. A new key is durable
    /// when this returns.
    pub(crate) async fn get_or_create(
        &self,
        subject: Subject,
        stream: &StreamName,
    ) -> Result<KeyState, KeyringError> {
        either!(self, store => store.get_or_create(subject, stream))
    }

    pub(crate) async fn load(
        &self,
        subjects: Vec<Subject>,
    ) -> Result<HashMap<Subject, KeyState>, KeyringError> {
        either!(self, store => store.load(subjects))
    }

    /// From its return on no key of the subject is given out, and none is made.
    pub(crate) async fn fence(&self, subject: Subject) -> Result<(), KeyringError> {
        either!(self, store => store.fence(subject))
    }

    pub(crate) async fn destroy(&self, subject: Subject) -> Result<Option<Uuid>, KeyringError> {
        either!(self, store => store.destroy(subject))
    }

    pub(crate) async fn streams(&self, subject: Subject) -> Result<Vec<StreamName>, KeyringError> {
        either!(self, store => store.streams(subject))
    }

    pub(crate) async fn erasures(&self) -> Result<Vec<Erasure>, KeyringError> {
        either!(self, store => store.erasures())
    }

    /// Which of these ids belong to no key and no tombstone of the tenant.
    pub(crate) async fn unknown(&self, tenant: TenantId, keys: Vec<Uuid>) -> Result<Vec<Uuid>, KeyringError> {
        either!(self, store => store.unknown(tenant, keys))
    }

    /// Keys that are not destroyed, in the order of tenants and subjects, behind `after`.
    pub(crate) async fn keys(
        &self,
        after: Option<Subject>,
        limit: u32,
    ) -> Result<Vec<StoredKey>, KeyringError> {
        either!(self, store => store.keys(after, limit))
    }

    /// The deployment that the store belongs to, where it is marked.
    pub(crate) async fn deployment(&self) -> Result<Option<Uuid>, KeyringError> {
        either!(self, store => store.deployment())
    }

    /// Marks a store that is not marked yet; returns whose it is.
    pub(crate) async fn mark(&self, deployment: Uuid) -> Result<Uuid, KeyringError> {
        either!(self, store => store.mark(deployment))
    }
}
