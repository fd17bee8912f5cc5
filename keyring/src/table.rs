//! The file of keys: an SQLite database that several processes of one machine may share. One thread a process works on it;
//! what waits is done together, so that many new keys share a flush to disk.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};
use schemas::engine::{StreamName, TenantId, clock, ids};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::crypto::{self, DataKey, Fingerprint, Place};
use crate::{KeyringError, RootKeys, epochs, file};

/// Requests that wait; more are refused.
const QUEUE: usize = 4_096;
/// Requests done in one transaction.
const TOGETHER: usize = 512;
/// How long another process is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts where SQLite does not wait by itself.
const PAUSE: Duration = Duration::from_millis(5);
pub(crate) const FILE: &str = "keys.sqlite";

const TABLES: &str = "
    create table if not exists epochs (epoch integer primary key, root blob not null);
    create table if not exists keys (
        tenant blob not null, subject blob not null, id blob not null, epoch integer not null, wrapped blob not null,
        created_at integer not null, primary key (tenant, subject)) without rowid;
    create table if not exists streams (
        tenant blob not null, subject blob not null, stream text not null,
        primary key (tenant, subject, stream)) without rowid;
    create table if not exists erasures (
        tenant blob not null, subject blob not null, key blob, fenced_at integer not null, destroyed_at integer,
        primary key (tenant, subject)) without rowid;";

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

/// What is known of a subject.
#[derive(Debug, Clone)]
pub(crate) enum Standing {
    Live(Uuid, DataKey),
    /// Fenced or destroyed.
    Erased,
    Unknown,
}

pub(crate) type Subject = (TenantId, Uuid);
type Reply<T> = oneshot::Sender<Result<T, KeyringError>>;

pub(crate) enum Request {
    /// The key of a subject, made where there is none, and the note that a stream holds something of it.
    Seal(Subject, StreamName, Reply<Standing>),
    Load(Vec<Subject>, Reply<HashMap<Subject, Standing>>),
    Streams(Subject, Reply<Vec<StreamName>>),
    Fence(Subject, Reply<()>),
    Destroy(Subject, Reply<Option<Uuid>>),
    Erasures(Reply<Vec<Erasure>>),
}

/// The way to the thread that works on the file.
#[derive(Clone)]
pub(crate) struct Table(SyncSender<Request>);

impl Table {
    /// Opens the file in the folder, making both where they are missing, and starts the thread. It ends with the last
    /// handle.
    pub(crate) fn open(folder: &Path, roots: RootKeys) -> Result<Self, KeyringError> {
        let config = |error: &dyn std::fmt::Display| unusable(folder, error);
        make_folder(folder).map_err(|error| config(&error))?;
        let path = folder.join(FILE);
        let connection = connect(&path, &roots).map_err(|error| config(&error))?;
        epochs::all_known(&connection, &roots).map_err(|error| config(&error))?;
        let (sender, receiver) = sync_channel(QUEUE);
        let mut worker = Worker { connection, roots, path };
        std::thread::Builder::new()
            .name("keys".to_owned())
            .spawn(move || worker.run(&receiver))
            .map_err(|error| config(&error))?;
        Ok(Self(sender))
    }

    pub(crate) async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, KeyringError> {
        let (reply, answer) = oneshot::channel();
        self.0.try_send(request(reply)).map_err(|error| match error {
            TrySendError::Full(_) => KeyringError::Overloaded,
            TrySendError::Disconnected(_) => {
                KeyringError::Unavailable("the thread of keys has ended".to_owned())
            }
        })?;
        answer.await.map_err(|_| KeyringError::Unavailable("the thread of keys has ended".to_owned()))?
    }
}

#[cfg(unix)]
fn make_folder(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The error of a file that cannot be used as it is.
pub(crate) fn unusable(folder: &Path, error: &dyn std::fmt::Display) -> KeyringError {
    KeyringError::Config(format!("the file of keys in {} cannot be used: {error}", folder.display()))
}

/// Opens the file, with its tables and its first epoch where it has none.
pub(crate) fn connect(path: &Path, roots: &RootKeys) -> Result<Connection, KeyringError> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(PATIENCE)?;
    turn_to_write_ahead_log(&connection)?;
    // What is written anew passes through memory: nobody overwrites temporary files.
    connection
        .execute_batch("pragma synchronous = full; pragma secure_delete = on; pragma temp_store = memory;")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(TABLES)?;
    epochs::begin_first(&transaction, roots)?;
    transaction.commit()?;
    Ok(connection)
}

/// Of several processes that make the file at once one has its way and the others are told at once that the file is locked:
/// SQLite does not wait where both hold what the other one needs.
fn turn_to_write_ahead_log(connection: &Connection) -> rusqlite::Result<()> {
    let begun = Instant::now();
    loop {
        match connection.execute_batch("pragma journal_mode = wal;") {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && begun.elapsed() < PATIENCE =>
            {
                std::thread::sleep(PAUSE);
            }
            turned => return turned,
        }
    }
}

struct Worker {
    connection: Connection,
    roots: RootKeys,
    path: PathBuf,
}

/// Answers that go out once what they say is on disk.
type Answer = Box<dyn FnOnce(Option<&KeyringError>)>;

impl Worker {
    fn run(&mut self, requests: &Receiver<Request>) {
        while let Ok(first) = requests.recv() {
            let mut together = vec![first];
            together.extend(requests.try_iter().take(TOGETHER - 1));
            let mut written = Vec::new();
            for request in together {
                match request {
                    Request::Seal(..) | Request::Fence(..) => written.push(request),
                    Request::Load(subjects, reply) => drop(reply.send(self.load(&subjects))),
                    Request::Streams(subject, reply) => drop(reply.send(self.streams(subject))),
                    Request::Destroy(subject, reply) => drop(reply.send(self.destroy(subject))),
                    Request::Erasures(reply) => drop(reply.send(self.erasures())),
                }
            }
            if !written.is_empty() {
                self.write(written);
            }
        }
    }

    /// One transaction for all of them; they are answered when it has reached the disk.
    fn write(&mut self, requests: Vec<Request>) {
        let mut answers: Vec<Answer> = Vec::new();
        let written = self.write_all(requests, &mut answers);
        for answer in answers {
            answer(written.as_ref().err());
        }
    }

    fn write_all(&mut self, requests: Vec<Request>, answers: &mut Vec<Answer>) -> Result<(), KeyringError> {
        let roots = self.roots.clone();
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for request in requests {
            match request {
                Request::Seal(subject, stream, reply) => {
                    let standing = seal(&transaction, &roots, subject, &stream);
                    answers.push(answer(reply, standing));
                }
                Request::Fence(subject, reply) => answers.push(answer(reply, fence(&transaction, subject))),
                _ => {}
            }
        }
        Ok(transaction.commit()?)
    }

    fn load(&self, subjects: &[Subject]) -> Result<HashMap<Subject, Standing>, KeyringError> {
        subjects
            .iter()
            .map(|subject| Ok((*subject, standing(&self.connection, &self.roots, *subject)?)))
            .collect()
    }

    fn streams(&self, (tenant, subject): Subject) -> Result<Vec<StreamName>, KeyringError> {
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

    fn erasures(&self) -> Result<Vec<Erasure>, KeyringError> {
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

    /// Takes the wrapped key out of the file and makes sure that no copy of it is left: neither in a page's free space nor in
    /// the write-ahead log.
    fn destroy(&mut self, (tenant, subject): Subject) -> Result<Option<Uuid>, KeyringError> {
        let at = params![tenant.0.as_bytes(), subject.as_bytes()];
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        fence(&transaction, (tenant, subject))?;
        let wrapped: Option<Vec<u8>> = transaction
            .query_row("select wrapped from keys where tenant = ?1 and subject = ?2", at, |row| row.get(0))
            .optional()?;
        // In place, before the row goes: what is freed later holds nothing.
        transaction.execute(
            "update keys set wrapped = zeroblob(length(wrapped)) where tenant = ?1 and subject = ?2",
            at,
        )?;
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
        file::empty_write_ahead_log(&self.connection)?;
        if let Some(wrapped) = wrapped {
            let is_left = || file::holds(&self.path, wrapped.len(), |bytes| bytes == wrapped);
            // While keys are wrapped anew, this one's earlier form may be left somewhere as well.
            if epochs::are_several(&self.connection)? || is_left()? {
                file::write_anew(&self.connection)?;
                if is_left()? {
                    return Err(KeyringError::Unavailable("a copy of a destroyed key is left".to_owned()));
                }
            }
        }
        Ok(key.map(Uuid::from_bytes))
    }
}

fn answer<T: 'static>(reply: Reply<T>, result: Result<T, KeyringError>) -> Answer {
    Box::new(move |failed| {
        let result = match failed {
            Some(error) => Err(KeyringError::Unavailable(error.to_string())),
            None => result,
        };
        // Who asked may have gone.
        drop(reply.send(result));
    })
}

fn standing(
    connection: &Connection,
    roots: &RootKeys,
    (tenant, subject): Subject,
) -> Result<Standing, KeyringError> {
    let at = params![tenant.0.as_bytes(), subject.as_bytes()];
    let erased =
        connection.prepare_cached("select 1 from erasures where tenant = ?1 and subject = ?2")?.exists(at)?;
    if erased {
        return Ok(Standing::Erased);
    }
    let row = connection
        .prepare_cached(
            "select id, epoch, wrapped, root from keys left join epochs using (epoch)
             where tenant = ?1 and subject = ?2",
        )?
        .query_row(at, |row| {
            let place = Place { tenant, epoch: row.get(1)?, subject, key: Uuid::from_bytes(row.get(0)?) };
            Ok((place, row.get::<_, Vec<u8>>(2)?, row.get::<_, Option<Fingerprint>>(3)?))
        })
        .optional()?;
    let Some((place, wrapped, root)) = row else { return Ok(Standing::Unknown) };
    let data_key = epochs::root_of(roots, root.as_ref())?.unwrap(&place, &wrapped)?;
    Ok(Standing::Live(place.key, data_key))
}

fn seal(
    connection: &Connection,
    roots: &RootKeys,
    (tenant, subject): Subject,
    stream: &StreamName,
) -> Result<Standing, KeyringError> {
    let mut known = standing(connection, roots, (tenant, subject))?;
    if matches!(known, Standing::Erased) {
        return Ok(known);
    }
    if matches!(known, Standing::Unknown) {
        let (epoch, root) = epochs::newest(connection)?;
        let root = epochs::root_of(roots, Some(&root))?;
        let place = Place { tenant, epoch, subject, key: ids::random_id() };
        let data_key: DataKey = crypto::random();
        let now = clock::now().timestamp_micros();
        connection.prepare_cached("insert into keys values (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(params![
            tenant.0.as_bytes(),
            subject.as_bytes(),
            place.key.as_bytes(),
            place.epoch,
            root.wrap(&place, &data_key),
            now,
        ])?;
        known = Standing::Live(place.key, data_key);
    }
    connection.prepare_cached("insert or ignore into streams values (?1, ?2, ?3)")?.execute(params![
        tenant.0.as_bytes(),
        subject.as_bytes(),
        stream.as_str(),
    ])?;
    Ok(known)
}

/// From its commit on no key of the subject is given out, and none is made.
fn fence(connection: &Connection, (tenant, subject): Subject) -> Result<(), KeyringError> {
    connection.execute(
        "insert or ignore into erasures (tenant, subject, key, fenced_at)
         values (?1, ?2, (select id from keys where tenant = ?1 and subject = ?2), ?3)",
        params![tenant.0.as_bytes(), subject.as_bytes(), clock::now().timestamp_micros()],
    )?;
    Ok(())
}
