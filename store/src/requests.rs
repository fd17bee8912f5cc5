//! Requests that append no event (webhooks, credentials, tickets) under a key from outside: the first one is carried out,
//! those that come meanwhile wait for it, and a repeat gets the first answer (`docs/adr/0027`).
//!
//! ```text
//! guard = tenant.lock_request(key, wait)     one request of a key at a time in this process
//! guard.begin(claim)                         and among processes; finds what was answered before
//! open.transaction()                        the request's own writes
//! open.complete(answer)                     receipt, answer and writes commit together
//! ```
//!
//! A request that fails, panics or loses its process leaves nothing: its transaction ends, and with it the lock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use schemas::engine::{TenantId, clock};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;
use uuid::Uuid;

use crate::receipts::{self, IdempotencyClaim, WITHOUT_EFFECT_RETENTION};
use crate::{StoreError, TenantStore, TenantTransaction};

/// How long an answer that holds a secret is kept.
pub const SECRET_ANSWER_RETENTION: Duration = Duration::from_hours(24);
/// Maximum requests that wait for one key in one process. Beyond, a request is refused as overloaded.
const WAITERS_PER_KEY_MAX: usize = 64;
/// Pause between two looks at a key that another process works on.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(25);

/// An answer as a client gets it.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestAnswer {
    /// The HTTP status.
    pub http_status: u16,
    /// The body; empty where there is none. It must hold no personal data: it is kept apart from the keys of people.
    pub body: Bytes,
}

impl std::fmt::Debug for RequestAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RequestAnswer({}, {} bytes)", self.http_status, self.body.len())
    }
}

/// How long receipt and answer of a request are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerRetention {
    /// Both for ever.
    Permanent,
    /// Both for ever, but the answer holds a secret and is given for [`SECRET_ANSWER_RETENTION`] only.
    Secret,
    /// Both for as long as a receipt of a command without effect: for requests that change nothing that lasts.
    Temporary,
    /// As [`Temporary`](Self::Temporary), with an answer as under [`Secret`](Self::Secret).
    TemporarySecret,
}

impl AnswerRetention {
    /// When the receipt ends, and when the answer does.
    fn ends(self, now: DateTime<Utc>) -> (Option<DateTime<Utc>>, Option<DateTime<Utc>>) {
        let (passing, secret) = (now + WITHOUT_EFFECT_RETENTION, now + SECRET_ANSWER_RETENTION);
        match self {
            Self::Permanent => (None, None),
            Self::Secret => (None, Some(secret)),
            Self::Temporary => (Some(passing), Some(passing)),
            Self::TemporarySecret => (Some(passing), Some(secret)),
        }
    }
}

/// What a request finds under its key.
pub enum RequestStart {
    /// Nothing: it is to be carried out.
    New(Box<OpenRequest>),
    /// The same request: this was the answer.
    Repeat(RequestAnswer),
    /// The same request, but its answer is not kept any more.
    AnswerExpired,
    /// Another request or command.
    KeyReused,
}

/// How a request ended that was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestEnd {
    /// Its writes, its receipt and its answer are committed.
    Completed,
    /// A command took the key meanwhile. Nothing was written.
    KeyReused,
}

/// One request at a time of one key, in this process. It ends with the value.
pub struct RequestGuard {
    tenant: TenantStore,
    key: Uuid,
    deadline: Instant,
    locks: Arc<RequestLocks>,
    lock: Option<KeyLock>,
    guard: Option<OwnedMutexGuard<()>>,
}

/// A request that is being carried out.
pub struct OpenRequest {
    transaction: TenantTransaction,
    tenant: TenantStore,
    claim: IdempotencyClaim,
}

type KeyLock = Arc<tokio::sync::Mutex<()>>;

/// The keys at work in this process.
#[derive(Default)]
pub(crate) struct RequestLocks(Mutex<HashMap<(TenantId, Uuid), KeyLock>>);

impl RequestLocks {
    fn keys(&self) -> MutexGuard<'_, HashMap<(TenantId, Uuid), KeyLock>> {
        // Nothing panics while holding it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock of a key, or `None` where too many wait for it.
    fn of(&self, key: (TenantId, Uuid)) -> Option<KeyLock> {
        let mut keys = self.keys();
        let lock = keys.entry(key).or_default();
        // One of the counts is the map's, one is the holder's.
        (Arc::strong_count(lock) < WAITERS_PER_KEY_MAX + 2).then(|| Arc::clone(lock))
    }

    fn release(&self, key: (TenantId, Uuid), lock: KeyLock) {
        let mut keys = self.keys();
        drop(lock);
        if keys.get(&key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            keys.remove(&key);
        }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        drop(self.guard.take());
        if let Some(lock) = self.lock.take() {
            self.locks.release((self.tenant.id(), self.key), lock);
        }
    }
}

impl TenantStore {
    /// Waits until no other request of this process works under the receipt key. All waiting of the request, here and in
    /// [`RequestGuard::begin`], ends after `wait`.
    ///
    /// # Errors
    /// [`StoreError::Overloaded`] where too many wait already, [`StoreError::Unavailable`] when the time is over.
    pub async fn lock_request(&self, key: Uuid, wait: Duration) -> Result<RequestGuard, StoreError> {
        let deadline = Instant::now() + wait;
        let locks = Arc::clone(&self.store().0.request_locks);
        let lock = locks.of((self.id(), key)).ok_or(StoreError::Overloaded)?;
        // From here on a drop, even in the middle of waiting, gives the lock back.
        let mut request_guard = RequestGuard {
            tenant: self.clone(),
            key,
            deadline,
            locks,
            lock: Some(Arc::clone(&lock)),
            guard: None,
        };
        let guard = tokio::time::timeout_at(deadline, lock.lock_owned()).await;
        request_guard.guard = Some(guard.map_err(|_| still_in_progress())?);
        Ok(request_guard)
    }
}

impl RequestGuard {
    /// Takes the key among all processes, and finds what was done under it before.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where another process still works on the key when the time is over.
    pub async fn begin(&self, claim: IdempotencyClaim) -> Result<RequestStart, StoreError> {
        loop {
            let transaction = self.tenant.begin_worker_transaction().await?;
            let name = format!("request/{}/{}", self.tenant.id(), self.key);
            let locked = transaction
                .query_opt("select pg_try_advisory_xact_lock(hashtextextended($1, 0))", &[&name])
                .await?;
            if locked.is_some_and(|row| row.get(0)) {
                return self.look_up(transaction, claim).await;
            }
            // The connection is given back, so that waiting takes none from others.
            transaction.commit().await?;
            if Instant::now() + LOCK_POLL_INTERVAL > self.deadline {
                return Err(still_in_progress());
            }
            tokio::time::sleep(LOCK_POLL_INTERVAL).await;
        }
    }

    async fn look_up(
        &self,
        transaction: TenantTransaction,
        claim: IdempotencyClaim,
    ) -> Result<RequestStart, StoreError> {
        let tenant = self.tenant.clone();
        let Some(stored) = receipts::find(&transaction, &claim).await? else {
            return Ok(RequestStart::New(Box::new(OpenRequest { transaction, tenant, claim })));
        };
        let same = stored.receipt.is_none() && stored.digest == claim.digest;
        let answer = if same { tenant.answer(&transaction, &claim).await? } else { None };
        transaction.commit().await?;
        Ok(match (same, answer) {
            (true, Some(answer)) => RequestStart::Repeat(answer),
            (true, None) => RequestStart::AnswerExpired,
            (false, _) => RequestStart::KeyReused,
        })
    }
}

impl TenantStore {
    async fn answer(
        &self,
        transaction: &TenantTransaction,
        claim: &IdempotencyClaim,
    ) -> Result<Option<RequestAnswer>, StoreError> {
        let row = transaction
            .query_opt(
                "select http_status, body from request_answers
                 where tenant_id = $1 and receipt_key = $2 and (expires_at is null or expires_at > $3)",
                &[&self.id().0, &claim.key, &clock::now()],
            )
            .await?;
        let Some(row) = row else { return Ok(None) };
        let context = seal_context(self.id(), claim);
        let body = self
            .store()
            .key()
            .open(SEAL_LABEL, &context.each_ref().map(Vec::as_slice), row.get(1))
            .map_err(|error| StoreError::corrupt("a request's answer", error))?;
        Ok(Some(RequestAnswer { http_status: row.get::<_, i32>(0) as u16, body: body.into() }))
    }
}

impl OpenRequest {
    /// For what the request writes: it commits with the receipt.
    pub fn transaction(&self) -> &TenantTransaction {
        &self.transaction
    }

    /// Commits the request's writes with its receipt and its answer.
    ///
    /// # Errors
    /// Where the database does not answer. Whether the request took effect may be unknown then; a repeat is safe.
    pub async fn complete(
        self: Box<Self>,
        answer: &RequestAnswer,
        retention: AnswerRetention,
    ) -> Result<RequestEnd, StoreError> {
        let Self { transaction, tenant, claim } = *self;
        let now = clock::now();
        let (receipt_ends, answer_ends) = retention.ends(now);
        let written = transaction
            .execute(
                "insert into receipts (tenant_id, command_id, digest, stream, version, first_position, count,
                                       recorded_at, expires_at, format)
                 values ($1, $2, $3, '', 0, 0, 0, $4, $5, 2) on conflict do nothing",
                &[&tenant.id().0, &claim.key, &claim.digest.as_slice(), &now, &receipt_ends],
            )
            .await?;
        if written == 0 {
            return Ok(RequestEnd::KeyReused);
        }
        let context = seal_context(tenant.id(), &claim);
        let key = tenant.store().key();
        let sealed = key.seal(SEAL_LABEL, &context.each_ref().map(Vec::as_slice), &answer.body);
        transaction
            .execute(
                "insert into request_answers (tenant_id, receipt_key, http_status, body, expires_at)
                 values ($1, $2, $3, $4, $5)",
                &[&tenant.id().0, &claim.key, &i32::from(answer.http_status), &sealed, &answer_ends],
            )
            .await?;
        transaction.commit().await?;
        Ok(RequestEnd::Completed)
    }
}

const SEAL_LABEL: &str = "request-answer";

/// An answer opens for its own request alone.
fn seal_context(tenant: TenantId, claim: &IdempotencyClaim) -> [Vec<u8>; 3] {
    [tenant.0.as_bytes().to_vec(), claim.key.as_bytes().to_vec(), claim.digest.to_vec()]
}

fn still_in_progress() -> StoreError {
    StoreError::Unavailable("the first request under this key is still at work".to_owned())
}
