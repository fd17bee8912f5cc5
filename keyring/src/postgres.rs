//! The key store in a PostgreSQL database, for processes on several machines.
//!
//! Copies of a destroyed key in the write-ahead log, replicas and backups are out of reach (`docs/adr/0026`).
//! They end with their retention, or when the root key is retired.

mod connections;
mod migrate;
mod rewrap;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use schemas::engine::{StreamName, TenantId, ids};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use self::connections::Connections;
pub use self::migrate::{KeyDatabaseOwner, migrate};
pub(crate) use self::rewrap::rewrap;
use crate::crypto::{DataKey, Fingerprint, KeyContext};
use crate::key::{KeyState, Subject};
use crate::{Epoch, Erasure, KeyDatabase, KeyringError, RootKeys, StoredKey, epochs};

/// Maximum connections that serve keys.
const SERVING_CONNECTIONS_MAX: usize = 4;
/// Maximum connections that destroy and list keys, apart so that serving keys does not wait for them.
const UPKEEP_CONNECTIONS_MAX: usize = 1;
/// Maximum attempts to create a key while other processes change the same row or start an epoch.
const CREATE_ATTEMPTS_MAX: u32 = 5;

/// The key store in a database.
pub(crate) struct PostgresStore {
    serving: Connections,
    maintenance: Connections,
    roots: RootKeys,
    /// The newest epoch, as it was read last. The statement that creates a key checks that it still is the newest.
    newest_epoch: Mutex<Option<(i64, Fingerprint)>>,
}

impl PostgresStore {
    /// Connects, and checks that this process has the root keys of all epochs.
    pub(crate) async fn connect(database: &KeyDatabase, roots: RootKeys) -> Result<Self, KeyringError> {
        let store = Self {
            serving: Connections::new(database, SERVING_CONNECTIONS_MAX)?,
            maintenance: Connections::new(database, UPKEEP_CONNECTIONS_MAX)?,
            roots,
            newest_epoch: Mutex::default(),
        };
        let found = store.maintenance.run(async |client| {
            begin_first_epoch(client, &store.roots).await?;
            roots_of(client).await
        });
        let unusable = |error: KeyringError| KeyringError::Config(format!("the keys in {database}: {error}"));
        epochs::ensure_roots_known(&store.roots, found.await?).map_err(unusable)?;
        Ok(store)
    }

    /// The subject's row is locked against fencing, so a returned key was not fenced before.
    pub(crate) async fn get_or_create(
        &self,
        (tenant, subject): Subject,
        stream: &StreamName,
    ) -> Result<KeyState, KeyringError> {
        const SQL: &str = "
            with newest as (select epoch from epochs order by epoch desc limit 1),
            held as (
                select id, epoch, wrapped, fenced_at is not null as is_fenced from keys
                where tenant = $1 and subject = $2 for share),
            made as (
                insert into keys (tenant, subject, id, epoch, wrapped)
                select $1, $2, $3, $4, $5 from newest where epoch = $4 and $5 is not null and not exists (select 1 from held)
                on conflict (tenant, subject) do nothing returning id, epoch, wrapped),
            found as (select * from held union all select *, false from made),
            noted as (
                insert into streams (tenant, subject, stream) select $1, $2, $6 from found where not is_fenced
                on conflict do nothing)
            select id, epoch, wrapped, is_fenced, root from found left join epochs using (epoch)";
        self.serving
            .run(async |client| {
                for attempt in 0..CREATE_ATTEMPTS_MAX {
                    let known = self.known_epoch().filter(|_| attempt == 0);
                    let (epoch, root) = match known {
                        Some(known) => known,
                        None => self.read_newest_epoch(client).await?,
                    };
                    // Without the newest root key, existing keys of the previous one still work.
                    let root = epochs::root_of(&self.roots, Some(&root));
                    let key = ids::random_id();
                    let candidate = KeyContext { tenant, epoch, subject, key };
                    let wrapped = root.as_ref().map(|root| root.wrap(&candidate, &DataKey::generate())).ok();
                    let types = [Type::UUID, Type::UUID, Type::UUID, Type::INT8, Type::BYTEA, Type::TEXT];
                    let values: [&(dyn ToSql + Sync); 6] =
                        [&tenant.0, &subject, &key, &epoch, &wrapped, &stream.as_str()];
                    let found = query(client, SQL, values.into_iter().zip(types)).await?;
                    if let Some(row) = found.first() {
                        return self.state(tenant, subject, row);
                    }
                    if known.is_none() {
                        root?;
                    }
                }
                Err(KeyringError::Unavailable("others keep changing the same key".to_owned()))
            })
            .await
    }

    fn known_epoch(&self) -> Option<(i64, Fingerprint)> {
        *self.newest_epoch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read_newest_epoch(&self, client: &Client) -> Result<(i64, Fingerprint), KeyringError> {
        let newest = newest_epoch(client).await?;
        *self.newest_epoch.lock().unwrap_or_else(PoisonError::into_inner) = Some(newest);
        Ok(newest)
    }

    pub(crate) async fn load(
        &self,
        subjects: Vec<Subject>,
    ) -> Result<HashMap<Subject, KeyState>, KeyringError> {
        const SQL: &str = "
            select id, epoch, wrapped, fenced_at is not null as is_fenced, root, tenant, subject
            from unnest($1, $2) as wanted (tenant, subject) join keys using (tenant, subject) left join epochs using (epoch)";
        let (tenants, of): (Vec<Uuid>, Vec<Uuid>) =
            subjects.iter().map(|(tenant, subject)| (tenant.0, *subject)).unzip();
        let values: [&(dyn ToSql + Sync); 2] = [&tenants, &of];
        let types = [Type::UUID_ARRAY, Type::UUID_ARRAY];
        let rows = self
            .serving
            .run(async |client| query(client, SQL, values.into_iter().zip(types.clone())).await)
            .await?;
        let mut states: HashMap<Subject, KeyState> =
            subjects.into_iter().map(|subject| (subject, KeyState::Missing)).collect();
        for row in rows {
            let (tenant, subject) = (TenantId(row.get("tenant")), row.get("subject"));
            states.insert((tenant, subject), self.state(tenant, subject, &row)?);
        }
        Ok(states)
    }

    fn state(&self, tenant: TenantId, subject: Uuid, row: &Row) -> Result<KeyState, KeyringError> {
        if row.get("is_fenced") {
            return Ok(KeyState::Erased);
        }
        let context = KeyContext { tenant, epoch: row.get("epoch"), subject, key: row.get("id") };
        let root: Option<&[u8]> = row.get("root");
        let root = root.and_then(|root| Fingerprint::try_from(root).ok());
        let data_key = epochs::root_of(&self.roots, root.as_ref())?.unwrap(&context, row.get("wrapped"))?;
        Ok(KeyState::Live(context.key, data_key))
    }

    pub(crate) async fn fence(&self, subject: Subject) -> Result<(), KeyringError> {
        const SQL: &str = "
            insert into keys (tenant, subject, fenced_at) values ($1, $2, now())
            on conflict (tenant, subject) do update set fenced_at = coalesce(keys.fenced_at, excluded.fenced_at)";
        self.serving.run(async |client| query(client, SQL, of(&subject)).await.map(drop)).await
    }

    pub(crate) async fn destroy(&self, subject: Subject) -> Result<Option<Uuid>, KeyringError> {
        const SQL: &str = "
            insert into keys (tenant, subject, fenced_at, destroyed_at) values ($1, $2, now(), now())
            on conflict (tenant, subject) do update
            set wrapped = null, epoch = null, fenced_at = coalesce(keys.fenced_at, now()),
                destroyed_at = coalesce(keys.destroyed_at, now())
            returning id";
        let rows = self.maintenance.run(async |client| query(client, SQL, of(&subject)).await).await?;
        Ok(rows.first().and_then(|row| row.get(0)))
    }

    pub(crate) async fn streams(&self, subject: Subject) -> Result<Vec<StreamName>, KeyringError> {
        const SQL: &str = "select stream from streams where tenant = $1 and subject = $2 order by stream";
        let rows = self.maintenance.run(async |client| query(client, SQL, of(&subject)).await).await?;
        rows.iter().map(|row| parsed(row.get(0))).collect()
    }

    pub(crate) async fn erasures(&self) -> Result<Vec<Erasure>, KeyringError> {
        const SQL: &str = "
            select tenant, subject, id, destroyed_at is not null from keys where fenced_at is not null
            order by tenant, subject";
        let rows = self.maintenance.run(async |client| query(client, SQL, []).await).await?;
        let erasure = |row: &Row| Erasure {
            tenant: TenantId(row.get(0)),
            subject: row.get(1),
            key: row.get(2),
            is_destroyed: row.get(3),
        };
        Ok(rows.iter().map(erasure).collect())
    }

    pub(crate) async fn unknown(&self, tenant: TenantId, keys: Vec<Uuid>) -> Result<Vec<Uuid>, KeyringError> {
        const SQL: &str = "
            select named.id from unnest($2) as named (id)
            where not exists (select 1 from keys where keys.tenant = $1 and keys.id = named.id)";
        let values: [&(dyn ToSql + Sync); 2] = [&tenant.0, &keys];
        let types = [Type::UUID, Type::UUID_ARRAY];
        let rows = self
            .maintenance
            .run(async |client| query(client, SQL, values.into_iter().zip(types.clone())).await)
            .await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    pub(crate) async fn keys(
        &self,
        after: Option<Subject>,
        limit: u32,
    ) -> Result<Vec<StoredKey>, KeyringError> {
        const SQL: &str = "
            select tenant, subject, id, created_at, array(
                select stream from streams where streams.tenant = keys.tenant and streams.subject = keys.subject)
            from keys where (tenant, subject) > ($1, $2) and wrapped is not null
            order by tenant, subject limit $3";
        let (tenant, subject) = after.unwrap_or((TenantId(Uuid::nil()), Uuid::nil()));
        let limit = i64::from(limit);
        let values: [&(dyn ToSql + Sync); 3] = [&tenant.0, &subject, &limit];
        let types = [Type::UUID, Type::UUID, Type::INT8];
        let rows = self
            .maintenance
            .run(async |client| query(client, SQL, values.into_iter().zip(types.clone())).await)
            .await?;
        let stored = |row: &Row| {
            let streams: Vec<&str> = row.get(4);
            Ok(StoredKey {
                tenant: TenantId(row.get(0)),
                subject: row.get(1),
                key: row.get(2),
                created_at: row.get(3),
                streams: streams.into_iter().map(parsed).collect::<Result<_, _>>()?,
            })
        };
        rows.iter().map(stored).collect()
    }

    pub(crate) async fn deployment(&self) -> Result<Option<Uuid>, KeyringError> {
        let rows = self.maintenance.run(async |client| query(client, "select id from deployment", []).await);
        Ok(rows.await?.first().map(|row| row.get(0)))
    }

    pub(crate) async fn mark(&self, deployment: Uuid) -> Result<Uuid, KeyringError> {
        const SQL: &str = "insert into deployment (id) values ($1) on conflict do nothing";
        let value: [(&(dyn ToSql + Sync), Type); 1] = [(&deployment, Type::UUID)];
        self.maintenance.run(async |client| query(client, SQL, value.clone()).await.map(drop)).await?;
        Ok(self.deployment().await?.unwrap_or(deployment))
    }
}

/// The epochs of a database, oldest first.
pub(crate) async fn epochs(database: &KeyDatabase, roots: &RootKeys) -> Result<Vec<Epoch>, KeyringError> {
    const SQL: &str = "
        select epoch, root, (select count(*) from keys where keys.epoch = epochs.epoch) from epochs order by epoch";
    let connections = Connections::new(database, 1)?;
    let rows = connections.run(async |client| query(client, SQL, []).await).await?;
    let epoch = |row: &Row| {
        let count: i64 = row.get(2);
        Ok(Epoch::new(row.get(0), &fingerprint(row.get(1))?, count as u64, roots))
    };
    rows.iter().map(epoch).collect()
}

/// Executes a statement in one round trip, by sending the parameter types along.
async fn query<'a>(
    client: &Client,
    sql: &str,
    parameters: impl IntoIterator<Item = (&'a (dyn ToSql + Sync), Type)>,
) -> Result<Vec<Row>, KeyringError> {
    let parameters: Vec<_> = parameters.into_iter().collect();
    Ok(client.query_typed(sql, &parameters).await?)
}

fn of((tenant, subject): &Subject) -> [(&(dyn ToSql + Sync), Type); 2] {
    [(&tenant.0, Type::UUID), (subject, Type::UUID)]
}

fn parsed(stream: &str) -> Result<StreamName, KeyringError> {
    StreamName::parse(stream).map_err(|error| KeyringError::Unavailable(error.to_string()))
}

fn fingerprint(bytes: &[u8]) -> Result<Fingerprint, KeyringError> {
    bytes.try_into().map_err(|_| KeyringError::Unavailable("a fingerprint has not 32 bytes".to_owned()))
}

async fn roots_of(client: &Client) -> Result<Vec<Fingerprint>, KeyringError> {
    let rows = query(client, "select root from epochs", []).await?;
    rows.iter().map(|row| fingerprint(row.get(0))).collect()
}

/// Of several processes that begin it at once one has its way.
async fn begin_first_epoch(client: &Client, roots: &RootKeys) -> Result<(), KeyringError> {
    const SQL: &str = "
        insert into epochs (epoch, root) select 1, $1 where not exists (select 1 from epochs) on conflict do nothing";
    let root = roots.current();
    let root: &[u8] = &root;
    query(client, SQL, [(&root as &(dyn ToSql + Sync), Type::BYTEA)]).await.map(drop)
}

async fn newest_epoch(client: &Client) -> Result<(i64, Fingerprint), KeyringError> {
    let rows = query(client, "select epoch, root from epochs order by epoch desc limit 1", []).await?;
    let row =
        rows.first().ok_or_else(|| KeyringError::Unavailable("there is no epoch of keys".to_owned()))?;
    Ok((row.get(0), fingerprint(row.get(1))?))
}
