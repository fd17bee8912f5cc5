//! The maintenance thread of the key file: destroys keys, checks that no copies are left, and lists keys.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use schemas::engine::{StreamName, TenantId, clock};
use uuid::Uuid;

use super::{bytes, server};
use crate::key::Subject;
use crate::{Erasure, KeyringError, StoredKey};

pub(super) struct Maintenance {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
}

impl Maintenance {
    /// Overwrites the encrypted key, removes it, and checks that no copy is left in free pages or the write-ahead log.
    /// Other connections read and write meanwhile.
    pub(super) fn destroy(&mut self, (tenant, subject): Subject) -> Result<Option<Uuid>, KeyringError> {
        let at = params![tenant.0.as_bytes(), subject.as_bytes()];
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        server::fence(&transaction, (tenant, subject))?;
        let wrapped: Option<(i64, Vec<u8>)> = transaction
            .query_row(
                "select slot, bytes from keys join wrapped using (slot) where tenant = ?1 and subject = ?2",
                at,
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?;
        if let Some((slot, _)) = &wrapped {
            // The same length, so that SQLite overwrites it in place.
            transaction
                .execute("update wrapped set bytes = zeroblob(length(bytes)) where slot = ?1", [slot])?;
        }
        transaction.execute("delete from keys where tenant = ?1 and subject = ?2", at)?;
        let now = clock::now().timestamp_micros();
        transaction.execute(
            "update erasures set destroyed_at = coalesce(destroyed_at, ?3) where tenant = ?1 and subject = ?2",
            params![tenant.0.as_bytes(), subject.as_bytes(), now],
        )?;
        let key: Option<[u8; 16]> = transaction.query_row(
            "select key from erasures where tenant = ?1 and subject = ?2",
            at,
            |row| row.get(0),
        )?;
        transaction.commit()?;
        bytes::truncate_write_ahead_log(&self.connection)?;
        if let Some((_, wrapped)) = wrapped {
            let is_left = || bytes::contains(&self.path, wrapped.len(), |bytes| bytes == wrapped);
            // Only a file of an earlier version may have a copy.
            if is_left()? {
                bytes::vacuum(&self.connection)?;
                if is_left()? {
                    return Err(KeyringError::Unavailable("a copy of a destroyed key is left".to_owned()));
                }
            }
        }
        Ok(key.map(Uuid::from_bytes))
    }

    pub(super) fn streams(&self, (tenant, subject): Subject) -> Result<Vec<StreamName>, KeyringError> {
        let mut statement = self.connection.prepare_cached(
            "select stream from streams where tenant = ?1 and subject = ?2 order by stream",
        )?;
        let streams = statement
            .query_map(params![tenant.0.as_bytes(), subject.as_bytes()], |row| row.get::<_, String>(0))?;
        streams
            .map(|stream| {
                StreamName::parse(&stream?).map_err(|error| KeyringError::Unavailable(error.to_string()))
            })
            .collect()
    }

    pub(super) fn erasures(&self) -> Result<Vec<Erasure>, KeyringError> {
        let mut statement = self.connection.prepare_cached(
            "select tenant, subject, key, destroyed_at is not null from erasures order by 1, 2",
        )?;
        let erasures = statement.query_map([], |row| {
            Ok(Erasure {
                tenant: TenantId(Uuid::from_bytes(row.get(0)?)),
                subject: Uuid::from_bytes(row.get(1)?),
                key: row.get::<_, Option<[u8; 16]>>(2)?.map(Uuid::from_bytes),
                is_destroyed: row.get(3)?,
            })
        })?;
        Ok(erasures.collect::<Result<_, _>>()?)
    }

    pub(super) fn unknown(&self, tenant: TenantId, keys: Vec<Uuid>) -> Result<Vec<Uuid>, KeyringError> {
        let mut statement = self.connection.prepare_cached(
            "select exists (select 1 from keys where tenant = ?1 and id = ?2)
                 or exists (select 1 from erasures where tenant = ?1 and key = ?2)",
        )?;
        let mut unknown = Vec::new();
        for key in keys {
            let at = params![tenant.0.as_bytes(), key.as_bytes()];
            if !statement.query_row(at, |row| row.get::<_, bool>(0))? {
                unknown.push(key);
            }
        }
        Ok(unknown)
    }

    pub(super) fn keys(&self, after: Option<Subject>, limit: u32) -> Result<Vec<StoredKey>, KeyringError> {
        let (tenant, subject) = after.unwrap_or((TenantId(Uuid::nil()), Uuid::nil()));
        let mut statement = self.connection.prepare_cached(
            "select tenant, subject, id, created_at from keys where (tenant, subject) > (?1, ?2)
             order by tenant, subject limit ?3",
        )?;
        let rows = statement.query_map(params![tenant.0.as_bytes(), subject.as_bytes(), limit], |row| {
            let ids: [[u8; 16]; 3] = [row.get(0)?, row.get(1)?, row.get(2)?];
            Ok((ids.map(Uuid::from_bytes), row.get::<_, i64>(3)?))
        })?;
        let mut keys = Vec::new();
        for row in rows {
            let ([tenant, subject, key], micros) = row?;
            let tenant = TenantId(tenant);
            let created_at: DateTime<Utc> = DateTime::from_timestamp_micros(micros).unwrap_or_default();
            let streams = self.streams((tenant, subject))?;
            keys.push(StoredKey { tenant, subject, key, created_at, streams });
        }
        Ok(keys)
    }

    pub(super) fn deployment(&self) -> Result<Option<Uuid>, KeyringError> {
        let found =
            self.connection.query_row("select id from deployment", [], |row| row.get(0)).optional()?;
        Ok(found.map(Uuid::from_bytes))
    }

    pub(super) fn mark(&self, deployment: Uuid) -> Result<Uuid, KeyringError> {
        let sql = "insert into deployment (single, id) values (1, ?1) on conflict do nothing";
        self.connection.execute(sql, [deployment.as_bytes()])?;
        Ok(self.deployment()?.unwrap_or(deployment))
    }
}
