//! The interface of the key stores: a file of one machine, or a PostgreSQL database.

use std::collections::HashMap;

use schemas::engine::{StreamName, TenantId};
use uuid::Uuid;

use crate::KeyringError;
use crate::file::FileStore;
use crate::key::{Erasure, KeyState, StoredKey, Subject};
use crate::postgres::PostgresStore;

/// The key store.
pub(crate) enum KeyStore {
    File(FileStore),
    Postgres(Box<PostgresStore>),
}

/// Calls the same method of either key store. The futures are boxed to keep those of callers small.
macro_rules! either {
    ($store:expr, $inner:ident => $call:expr) => {
        match $store {
            KeyStore::File($inner) => Box::pin($call).await,
            KeyStore::Postgres($inner) => Box::pin($call).await,
        }
    };
}

impl KeyStore {
    /// The key of a subject, created if missing. Records that the stream has data of the subject.
    /// A new key is durable when this returns.
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

    /// Fences the subject: after the return, no key of it is given out or created.
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

    /// The ids among these that belong to no key and no tombstone of the tenant.
    pub(crate) async fn unknown(&self, tenant: TenantId, keys: Vec<Uuid>) -> Result<Vec<Uuid>, KeyringError> {
        either!(self, store => store.unknown(tenant, keys))
    }

    /// A page of the stored keys, ordered by tenant and subject, after `after`.
    pub(crate) async fn keys(
        &self,
        after: Option<Subject>,
        limit: u32,
    ) -> Result<Vec<StoredKey>, KeyringError> {
        either!(self, store => store.keys(after, limit))
    }

    /// The deployment that the store is marked with, if any.
    pub(crate) async fn deployment(&self) -> Result<Option<Uuid>, KeyringError> {
        either!(self, store => store.deployment())
    }

    /// Marks an unmarked store. Returns the deployment that it is marked with.
    pub(crate) async fn mark(&self, deployment: Uuid) -> Result<Uuid, KeyringError> {
        either!(self, store => store.mark(deployment))
    }
}
