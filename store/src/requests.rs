//! Idempotent requests that append no event, such as requests for webhooks, credentials and tickets (`docs/adr/0027`).
//!
//! The first request with an idempotency key is executed. Concurrent ones wait for it. A repeat gets the same answer.
//! ```text
//! guard = tenant.lock_request(key, wait)     one request per key at a time in this process
//! guard.begin(claim)                         and in all processes; finds an earlier answer
//! open.transaction()                         the writes of the request
//! open.complete(answer)                      commits receipt, answer and writes together
//! ```
//!
//! A request that fails, panics or loses its process leaves nothing: its transaction ends, and its lock too.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use schemas::engine::{TenantId, clock};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;
use uuid::Uuid;

use crate::receipts;
use crate::request_locks::{KeyLock, RequestLocks};
use crate::stored_receipt::{IdempotencyClaim, WITHOUT_EFFECT_RETENTION};
use crate::{StoreError, TenantStore, TenantTransaction};

/// How long an answer with a secret is kept.
pub const SECRET_ANSWER_RETENTION: Duration = Duration::from_hours(24);
/// Interval between attempts to lock a key that another process holds.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(25);

/// The answer to a request.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestAnswer {
    /// The HTTP status.
    pub http_status: u16,
    /// The body; may be empty. It must not contain personal data, because an erasure does not reach it.
    pub body: Bytes,
}

impl std::fmt::Debug for RequestAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RequestAnswer({}, {} bytes)", self.http_status, self.body.len())
    }
}

/// How long the receipt and the answer of a request are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerRetention {
    /// Both permanently.
    Permanent,
    /// The receipt permanently; the answer contains a secret and is kept for [`SECRET_ANSWER_RETENTION`].
    Secret,
    /// Both as long as the receipt of a command without effect. For requests without a lasting effect.
    Temporary,
    /// The receipt as [`Temporary`](Self::Temporary), the answer as [`Secret`](Self::Secret).
    TemporarySecret,
}

impl AnswerRetention {
    /// The expiry of the receipt and of the answer; `None` for never.
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

/// What exists under the key of a request.
pub enum RequestStart {
    /// Nothing: execute the request.
    New(Box<OpenRequest>),
    /// The same request, with its answer.
    Repeat(RequestAnswer),
    /// The same request, but its answer has expired.
    AnswerExpired,
    /// Another request or command.
    KeyReused,
}

/// The outcome of an executed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestEnd {
    /// Its writes, its receipt and its answer are committed.
    Completed,
    /// A command used the key meanwhile. Nothing was written.
    KeyReused,
}

/// Allows one request per key in this process, until it is dropped.
pub struct RequestGuard {
    tenant: TenantStore,
    key: Uuid,
    deadline: Instant,
    locks: Arc<RequestLocks>,
    lock: Option<KeyLock>,
    guard: Option<OwnedMutexGuard<()>>,
}

/// A request that is being executed.
pub struct OpenRequest {
    transaction: TenantTransaction,
    tenant: TenantStore,
    claim: IdempotencyClaim,
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
    /// Waits until no other request of this process uses the receipt key.
    /// `wait` limits all waits of the request, here and in [`RequestGuard::begin`].
    ///
    /// # Errors
    /// [`StoreError::Overloaded`] when too many requests wait, [`StoreError::Unavailable`] after `wait`.
    pub async fn lock_request(&self, key: Uuid, wait: Duration) -> Result<RequestGuard, StoreError> {
        let deadline = Instant::now() + wait;
        let locks = Arc::clone(&self.store().0.request_locks);
        let lock = locks.of((self.id(), key)).ok_or(StoreError::Overloaded)?;
        // From here on, dropping the guard releases the lock, even during the wait.
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
    /// Locks the key over all processes, and looks for an earlier use of it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when another process still holds the key after the wait.
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
            // Return the connection to the pool during the pause.
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
    /// The transaction for the writes of the request; it commits with the receipt.
    pub fn transaction(&self) -> &TenantTransaction {
        &self.transaction
    }

    /// Commits the writes of the request with its receipt and its answer.
    ///
    /// # Errors
    /// When the database does not answer. The request may have taken effect; a repeat is safe.
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

/// Binds an encrypted answer to its request.
fn seal_context(tenant: TenantId, claim: &IdempotencyClaim) -> [Vec<u8>; 3] {
    [tenant.0.as_bytes().to_vec(), claim.key.as_bytes().to_vec(), claim.digest.to_vec()]
}

fn still_in_progress() -> StoreError {
    StoreError::Unavailable("the first request under this key is still at work".to_owned())
}
