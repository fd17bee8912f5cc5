//! What executing a command answers.

use access::ErrorCode;
use schemas::engine::{DecodeError, LogId, StreamName};
use store::{AppendError, StoreError};
use uuid::Uuid;

use super::decider::Rejection;

/// Whether the command did its work now or had done it before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutionOutcome {
    /// It took effect now, or had no effect to take.
    Applied,
    /// The same command id did this before; nothing happened now.
    Duplicate,
}

/// A command that was accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandResult<A> {
    /// Applied or duplicate.
    pub outcome: ExecutionOutcome,
    /// The caller's command id, or the one that was made.
    pub command_id: Uuid,
    /// The aggregate.
    pub id: Uuid,
    /// The version behind the command; unchanged where it had no effect.
    pub version: u64,
    /// The position of the command's last event; the log's head where it had no effect.
    pub position: u64,
    /// The log that the position belongs to.
    pub log_id: LogId,
    /// How many events the command recorded, now or the first time; 0 where it had no effect.
    pub count: u32,
    /// Hand it to a read that is to see this command's effect.
    pub consistency_token: String,
    /// The aggregate at `version`.
    pub state: A,
}

/// Why a command was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError<R> {
    /// The rule said no.
    #[error("{0}")]
    Rejected(R),
    /// The aggregate is not at the version that the caller expects.
    #[error("the aggregate is at version {actual}")]
    VersionConflict {
        /// Where it is.
        actual: u64,
    },
    /// The command id was used before for another command.
    #[error("the command id was used for another command")]
    CommandIdReused,
    /// Another aggregate of the tenant holds a value that must be unique.
    #[error("the {kind} is taken")]
    Reserved {
        /// What sort of value, such as `email`.
        kind: String,
        /// Who holds it. Not for the caller's eyes.
        holder: StreamName,
    },
    /// There is no such aggregate.
    #[error("there is nothing under this id")]
    NotFound,
    /// The caller may not send this command.
    #[error("the caller may not do this")]
    Forbidden,
    /// The event that the command leads to is over the limit.
    #[error("an event of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its size with headers.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// What the command leads to can never be stored.
    #[error("{0}")]
    Invalid(String),
    /// It would record personal data of somebody who was erased.
    #[error("the person was erased")]
    SubjectErased,
    /// No such tenant.
    #[error("the tenant is unknown")]
    TenantUnknown,
    /// Too much is waiting; nothing was written.
    #[error("too many commands are waiting")]
    Overloaded,
    /// The database is away. Whether the command took effect may be unknown; a repeat with the same command id is safe.
    #[error("the store is unavailable")]
    Unavailable(#[source] StoreError),
    /// A fault of ours: stored data that does not read, an event that does not encode.
    #[error("internal error: {context}")]
    Internal {
        /// What was being done.
        context: &'static str,
        /// The cause.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The code for a value of this kind that another stream of the tenant holds.
pub fn reserved_value_code(kind: &str) -> ErrorCode {
    match kind {
        crate::identity::tenant::SLUG => ErrorCode::SlugTaken,
        crate::identity::user::EMAIL => ErrorCode::EmailTaken,
        _ => ErrorCode::ValueTaken,
    }
}

impl<R: Rejection> ExecuteError<R> {
    /// The code of the catalogue, for every outside: REST, GraphQL, dead letters, the command line.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Rejected(rejection) => rejection.code(),
            Self::VersionConflict { .. } => ErrorCode::VersionConflict,
            Self::CommandIdReused => ErrorCode::CommandIdReused,
            Self::Reserved { kind, .. } => reserved_value_code(kind),
            Self::NotFound => ErrorCode::NotFound,
            Self::Forbidden => ErrorCode::Forbidden,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::Invalid(_) => ErrorCode::Invalid,
            Self::SubjectErased => ErrorCode::SubjectErased,
            Self::TenantUnknown => ErrorCode::TenantUnknown,
            Self::Unavailable(StoreError::KeyMissing { .. }) => ErrorCode::KeyMissing,
            Self::Overloaded | Self::Unavailable(_) => ErrorCode::Unavailable,
            Self::Internal { .. } => ErrorCode::Internal,
        }
    }
}

impl<R> ExecuteError<R> {
    /// Whether sending the same command again later may help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::VersionConflict { .. } | Self::Overloaded | Self::Unavailable(_))
    }

    pub(crate) fn internal(
        context: &'static str,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Internal { context, cause: cause.into() }
    }

    /// The outcome's name in metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Rejected(_) => "rejected",
            Self::VersionConflict { .. } => "version_conflict",
            Self::CommandIdReused => "command_id_reused",
            Self::Reserved { .. } => "reserved",
            Self::NotFound => "not_found",
            Self::Forbidden => "forbidden",
            Self::TooLarge { .. } => "too_large",
            Self::Invalid(_) => "invalid",
            Self::SubjectErased => "subject_erased",
            Self::TenantUnknown => "tenant_unknown",
            Self::Overloaded => "overloaded",
            Self::Unavailable(_) => "unavailable",
            Self::Internal { .. } => "internal",
        }
    }
}

impl<R> From<StoreError> for ExecuteError<R> {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::TenantUnknown => Self::TenantUnknown,
            StoreError::Overloaded => Self::Overloaded,
            // Whoever comes again finds the log as it is.
            error if error.is_unavailable() || matches!(error, StoreError::LogReplaced { .. }) => {
                Self::Unavailable(error)
            }
            error => Self::internal("talking to the store", error),
        }
    }
}

impl<R> From<AppendError> for ExecuteError<R> {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::VersionConflict { actual } => Self::VersionConflict { actual },
            AppendError::CommandIdReused => Self::CommandIdReused,
            // Commands leave the ids of their events to the store.
            error @ AppendError::EventIdTaken(_) => Self::internal("appending", error),
            AppendError::Reserved { kind, holder } => Self::Reserved { kind, holder },
            AppendError::TooLarge { bytes, limit } => Self::TooLarge { bytes, limit },
            AppendError::Invalid(reason) => Self::Invalid(reason),
            AppendError::SubjectErased => Self::SubjectErased,
            AppendError::TenantUnknown => Self::TenantUnknown,
            AppendError::Overloaded => Self::Overloaded,
            AppendError::Unavailable(error) => error.into(),
        }
    }
}

/// Why an aggregate could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored event does not read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A stored event is of a type that this program does not know.
    #[error("the type {0} is unknown to this version of the program")]
    UnknownType(String),
}

impl From<LoadError> for StoreError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Store(error) => error,
            error => Self::Corrupt(error.to_string()),
        }
    }
}

impl<R> From<LoadError> for ExecuteError<R> {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Store(error) => error.into(),
            error => Self::internal("loading the aggregate", error),
        }
    }
}
