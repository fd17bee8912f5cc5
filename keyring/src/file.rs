//! The key file. SQLite overwrites deleted data, and several processes can share the file.
//!
//! Two threads with separate connections work on it: one serves keys.
//! The other destroys keys and searches the file for copies, which takes as long as reading the whole file.

mod bytes;
mod maintenance;
mod rewrap;
mod schema;
mod server;

use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use schemas::engine::{StreamName, TenantId};
use tokio::sync::oneshot;
use uuid::Uuid;

use self::maintenance::Maintenance;
pub(crate) use self::rewrap::rewrap;
use self::server::{KeyRequest, KeyServer, Reply};
use crate::key::{KeyState, Subject};
use crate::{Epoch, Erasure, KeyringError, RootKeys, StoredKey};

/// Maximum queued requests per thread; more are refused.
const QUEUE_CAPACITY: usize = 4_096;

type Job = Box<dyn FnOnce(&mut Maintenance) + Send>;

/// Sends requests to the threads of the key file.
pub(crate) struct FileStore {
    server: SyncSender<KeyRequest>,
    maintenance: SyncSender<Job>,
}

impl FileStore {
    /// Opens the file in the folder, creates both if missing, and starts the threads. They end with this value.
    pub(crate) fn open(folder: &Path, roots: RootKeys) -> Result<Self, KeyringError> {
        let config = |error: &dyn std::fmt::Display| schema::unusable(folder, error);
        let path = schema::prepare(folder)?;
        let connection = schema::connect(&path, &roots).map_err(|error| config(&error))?;
        schema::ensure_roots_known(&connection, &roots).map_err(|error| config(&error))?;
        let second = schema::connect(&path, &roots).map_err(|error| config(&error))?;
        let (server, requests) = sync_channel(QUEUE_CAPACITY);
        let mut key_server = KeyServer { connection, roots };
        start("keys", move || key_server.run(&requests)).map_err(|error| config(&error))?;
        let (maintenance, jobs) = sync_channel::<Job>(QUEUE_CAPACITY);
        let mut maintainer = Maintenance { connection: second, path };
        start("keys-upkeep", move || jobs.iter().for_each(|job| job(&mut maintainer)))
            .map_err(|error| config(&error))?;
        Ok(Self { server, maintenance })
    }

    async fn request_key<T>(&self, request: impl FnOnce(Reply<T>) -> KeyRequest) -> Result<T, KeyringError> {
        let (reply, answer) = oneshot::channel();
        send(&self.server, request(reply))?;
        answer.await.map_err(|_| ended())?
    }

    /// Runs a job on the maintenance thread. It continues when the caller stops waiting.
    async fn run_maintenance<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Maintenance) -> Result<T, KeyringError> + Send + 'static,
    ) -> Result<T, KeyringError> {
        let (reply, answer) = oneshot::channel();
        send(
            &self.maintenance,
            Box::new(move |maintenance: &mut Maintenance| drop(reply.send(job(maintenance)))),
        )?;
        answer.await.map_err(|_| ended())?
    }

    pub(crate) async fn get_or_create(
        &self,
        subject: Subject,
        stream: &StreamName,
    ) -> Result<KeyState, KeyringError> {
        self.request_key(|reply| KeyRequest::GetOrCreate(subject, stream.clone(), reply)).await
    }

    pub(crate) async fn load(
        &self,
        subjects: Vec<Subject>,
    ) -> Result<HashMap<Subject, KeyState>, KeyringError> {
        self.request_key(|reply| KeyRequest::Load(subjects, reply)).await
    }

    pub(crate) async fn fence(&self, subject: Subject) -> Result<(), KeyringError> {
        self.request_key(|reply| KeyRequest::Fence(subject, reply)).await
    }

    pub(crate) async fn destroy(&self, subject: Subject) -> Result<Option<Uuid>, KeyringError> {
        self.run_maintenance(move |maintenance| maintenance.destroy(subject)).await
    }

    pub(crate) async fn streams(&self, subject: Subject) -> Result<Vec<StreamName>, KeyringError> {
        self.run_maintenance(move |maintenance| maintenance.streams(subject)).await
    }

    pub(crate) async fn erasures(&self) -> Result<Vec<Erasure>, KeyringError> {
        self.run_maintenance(|maintenance| maintenance.erasures()).await
    }

    pub(crate) async fn unknown(&self, tenant: TenantId, keys: Vec<Uuid>) -> Result<Vec<Uuid>, KeyringError> {
        self.run_maintenance(move |maintenance| maintenance.unknown(tenant, keys)).await
    }

    pub(crate) async fn keys(
        &self,
        after: Option<Subject>,
        limit: u32,
    ) -> Result<Vec<StoredKey>, KeyringError> {
        self.run_maintenance(move |maintenance| maintenance.keys(after, limit)).await
    }

    pub(crate) async fn deployment(&self) -> Result<Option<Uuid>, KeyringError> {
        self.run_maintenance(|maintenance| maintenance.deployment()).await
    }

    pub(crate) async fn mark(&self, deployment: Uuid) -> Result<Uuid, KeyringError> {
        self.run_maintenance(move |maintenance| maintenance.mark(deployment)).await
    }
}

fn start(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

fn send<T>(to: &SyncSender<T>, what: T) -> Result<(), KeyringError> {
    to.try_send(what).map_err(|error| match error {
        TrySendError::Full(_) => KeyringError::Overloaded,
        TrySendError::Disconnected(_) => ended(),
    })
}

fn ended() -> KeyringError {
    KeyringError::Unavailable("the thread of keys has ended".to_owned())
}

/// The epochs of the file in a folder, oldest first; `None` when there is no file yet.
pub(crate) fn epochs(folder: &Path, roots: &RootKeys) -> Result<Option<Vec<Epoch>>, KeyringError> {
    if !schema::path_in(folder).exists() {
        return Ok(None);
    }
    let path = schema::prepare(folder)?;
    let connection = schema::connect(&path, roots).map_err(|error| schema::unusable(folder, &error))?;
    let mut statement = connection.prepare(
        "select epoch, root, (select count(*) from keys where keys.epoch = epochs.epoch) from epochs order by epoch",
    )?;
    let rows = statement.query_map([], |row| {
        let keys: u32 = row.get(2)?;
        Ok(Epoch::new(row.get(0)?, &row.get(1)?, keys.into(), roots))
    })?;
    Ok(Some(rows.collect::<Result<_, _>>()?))
}
