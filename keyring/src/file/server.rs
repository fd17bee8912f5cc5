//! The thread that serves keys. It combines queued requests, so that many new keys share one flush to disk.

use std::collections::HashMap;
use std::sync::mpsc::Receiver;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use schemas::engine::{StreamName, clock, ids};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::schema;
use crate::crypto::{DataKey, Fingerprint, KeyContext};
use crate::key::{KeyState, Subject};
use crate::{KeyringError, RootKeys, epochs};

/// The channel for the answer to a request.
pub(super) type Reply<T> = oneshot::Sender<Result<T, KeyringError>>;

/// Maximum requests per transaction.
const BATCH_SIZE_MAX: usize = 512;

pub(super) enum KeyRequest {
    /// Get the key of a subject, created if missing, and record that the stream has data of the subject.
    GetOrCreate(Subject, StreamName, Reply<KeyState>),
    Load(Vec<Subject>, Reply<HashMap<Subject, KeyState>>),
    Fence(Subject, Reply<()>),
}

pub(super) struct KeyServer {
    pub(super) connection: Connection,
    pub(super) roots: RootKeys,
}

/// Sends an answer after the transaction is on disk.
type Completion = Box<dyn FnOnce(Option<&KeyringError>)>;

impl KeyServer {
    pub(super) fn run(&mut self, requests: &Receiver<KeyRequest>) {
        while let Ok(first) = requests.recv() {
            let mut batch = vec![first];
            batch.extend(requests.try_iter().take(BATCH_SIZE_MAX - 1));
            let mut written = Vec::new();
            for request in batch {
                match request {
                    KeyRequest::GetOrCreate(..) | KeyRequest::Fence(..) => written.push(request),
                    KeyRequest::Load(subjects, reply) => drop(reply.send(self.load(&subjects))),
                }
            }
            if !written.is_empty() {
                self.write(written);
            }
        }
    }

    /// Executes all requests in one transaction, and answers them when it is on disk.
    fn write(&mut self, requests: Vec<KeyRequest>) {
        let mut answers: Vec<Completion> = Vec::new();
        let written = self.write_all(requests, &mut answers);
        for answer in answers {
            answer(written.as_ref().err());
        }
    }

    fn write_all(
        &mut self,
        requests: Vec<KeyRequest>,
        answers: &mut Vec<Completion>,
    ) -> Result<(), KeyringError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for request in requests {
            match request {
                KeyRequest::GetOrCreate(subject, stream, reply) => {
                    answers.push(answer(reply, get_or_create(&transaction, &self.roots, subject, &stream)));
                }
                KeyRequest::Fence(subject, reply) => {
                    answers.push(answer(reply, fence(&transaction, subject)));
                }
                KeyRequest::Load(..) => {}
            }
        }
        Ok(transaction.commit()?)
    }

    fn load(&self, subjects: &[Subject]) -> Result<HashMap<Subject, KeyState>, KeyringError> {
        subjects
            .iter()
            .map(|subject| Ok((*subject, state(&self.connection, &self.roots, *subject)?)))
            .collect()
    }
}

fn answer<T: 'static>(reply: Reply<T>, result: Result<T, KeyringError>) -> Completion {
    Box::new(move |failed| {
        let result = match failed {
            Some(error) => Err(KeyringError::Unavailable(error.to_string())),
            None => result,
        };
        // The caller may have stopped waiting.
        drop(reply.send(result));
    })
}

fn state(
    connection: &Connection,
    roots: &RootKeys,
    (tenant, subject): Subject,
) -> Result<KeyState, KeyringError> {
    let at = params![tenant.0.as_bytes(), subject.as_bytes()];
    let erased =
        connection.prepare_cached("select 1 from erasures where tenant = ?1 and subject = ?2")?.exists(at)?;
    if erased {
        return Ok(KeyState::Erased);
    }
    let row = connection
        .prepare_cached(
            "select id, epoch, bytes, root from keys join wrapped using (slot) left join epochs using (epoch)
             where tenant = ?1 and subject = ?2",
        )?
        .query_row(at, |row| {
            let context =
                KeyContext { tenant, epoch: row.get(1)?, subject, key: Uuid::from_bytes(row.get(0)?) };
            Ok((context, row.get::<_, Vec<u8>>(2)?, row.get::<_, Option<Fingerprint>>(3)?))
        })
        .optional()?;
    let Some((context, wrapped, root)) = row else { return Ok(KeyState::Missing) };
    let data_key = epochs::root_of(roots, root.as_ref())?.unwrap(&context, &wrapped)?;
    Ok(KeyState::Live(context.key, data_key))
}

fn get_or_create(
    connection: &Connection,
    roots: &RootKeys,
    (tenant, subject): Subject,
    stream: &StreamName,
) -> Result<KeyState, KeyringError> {
    let mut known = state(connection, roots, (tenant, subject))?;
    if matches!(known, KeyState::Erased) {
        return Ok(known);
    }
    if matches!(known, KeyState::Missing) {
        let (epoch, root) = schema::newest_epoch(connection)?;
        let root = epochs::root_of(roots, Some(&root))?;
        let context = KeyContext { tenant, epoch, subject, key: ids::random_id() };
        let data_key = DataKey::generate();
        connection
            .prepare_cached("insert into wrapped (bytes) values (?1)")?
            .execute([root.wrap(&context, &data_key)])?;
        connection.prepare_cached("insert into keys values (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(params![
            tenant.0.as_bytes(),
            subject.as_bytes(),
            context.key.as_bytes(),
            context.epoch,
            connection.last_insert_rowid(),
            clock::now().timestamp_micros(),
        ])?;
        known = KeyState::Live(context.key, data_key);
    }
    connection.prepare_cached("insert or ignore into streams values (?1, ?2, ?3)")?.execute(params![
        tenant.0.as_bytes(),
        subject.as_bytes(),
        stream.as_str(),
    ])?;
    Ok(known)
}

/// Fences the subject: after the commit, no key of it is given out or created.
pub(super) fn fence(connection: &Connection, (tenant, subject): Subject) -> Result<(), KeyringError> {
    connection.execute(
        "insert or ignore into erasures (tenant, subject, key, fenced_at)
         values (?1, ?2, (select id from keys where tenant = ?1 and subject = ?2), ?3)",
        params![tenant.0.as_bytes(), subject.as_bytes(), clock::now().timestamp_micros()],
    )?;
    Ok(())
}
