//! Results of executing a command.

use std::sync::Arc;

use access::{ErrorCode, Rejection};
use chrono::{DateTime, Utc};
use schemas::engine::{DecodeError, LogId, StreamName};
use store::{AppendError, NewEvent, StoreError};
use uuid::Uuid;

use super::decider::ReservedKind;

/// Whether the command was executed now or earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutionOutcome {
    /// It was executed now, possibly without effect.
    Applied,
    /// It was executed earlier under the same command id; nothing happened now.
    Duplicate,
}

/// A command that was accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandResult<A> {
    /// Applied or duplicate.
    pub outcome: ExecutionOutcome,
    /// The caller's command id, or the generated one.
    pub command_id: Uuid,
    /// The id of the aggregate.
    pub id: Uuid,
    /// The version after the command; unchanged if it had no effect.
    pub version: u64,
    /// The position of the command's last event; the log's head if it had no effect.
    pub position: u64,
    /// The log of the position.
    pub log_id: LogId,
    /// The number of events that the command recorded, now or the first time; 0 if it had no effect.
    pub count: u32,
    /// A read with this token sees the command's effect.
    pub consistency_token: String,
    /// The aggregate at `version`.
    pub state: A,
}

/// The events that a command recorded, in order. Their versions end with that of the aggregate after the command.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedNow {
    /// The time of recording.
    pub at: DateTime<Utc>,
    /// The events.
    pub events: Arc<[NewEvent]>,
}

/// Why a command was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError<R> {
    /// The rules of the aggregate rejected it.
    #[error("{0}")]
    Rejected(R),
    /// The aggregate is not at the version that the caller expects.
    #[error("the aggregate is at version {actual}")]
    VersionConflict {
        /// The current version.
        actual: u64,
    },
    /// The command id was used before for another command.
    #[error("the command id was used for another command")]
    CommandIdReused,
    /// Another aggregate of the tenant holds a value that must be unique.
    #[error("the {} is taken", kind.name)]
    Reserved {
        /// The kind of value.
        kind: ReservedKind,
        /// The stream that holds it. It must not be shown to the caller.
        holder: StreamName,
    },
    /// There is no such aggregate.
    #[error("there is nothing under this id")]
    NotFound,
    /// The command creates an aggregate that exists.
    #[error("there is something under this id already")]
    Exists {
        /// The error code of the aggregate.
        code: ErrorCode,
    },
    /// The caller lacks the permission for this command.
    #[error("the caller may not do this")]
    Forbidden,
    /// An event of the command is larger than the limit.
    #[error("an event of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its size with headers, in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The events of the command cannot be stored; a retry would fail too.
    #[error("{0}")]
    Invalid(String),
    /// The command would record personal data of an erased subject.
    #[error("the person was erased")]
    SubjectErased,
    /// The tenant does not exist.
    #[error("the tenant is unknown")]
    TenantUnknown,
    /// The queue is full; nothing was written.
    #[error("too many commands are waiting")]
    Overloaded,
    /// The database is not available. The command may have taken effect; a repeat with the same command id is safe.
    #[error("the store is unavailable")]
    Unavailable(#[source] StoreError),
    /// An internal error: stored data that cannot be parsed, or an event that cannot be encoded.
    #[error("internal error: {context}")]
    Internal {
        /// The operation that failed.
        context: &'static str,
        /// The cause.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl<R: Rejection> ExecuteError<R> {
    /// The error code, for REST, GraphQL, dead letters and the command line.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Rejected(rejection) => rejection.code(),
            Self::VersionConflict { .. } => ErrorCode::VersionConflict,
            Self::CommandIdReused => ErrorCode::CommandIdReused,
            Self::Reserved { kind, .. } => kind.taken,
            Self::NotFound => ErrorCode::NotFound,
            Self::Exists { code } => *code,
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

/// A rejection of any aggregate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct AnyRejection {
    code: ErrorCode,
    message: String,
    path: Option<String>,
}

impl Rejection for AnyRejection {
    fn code(&self) -> ErrorCode {
        self.code
    }

    fn path(&self) -> Option<String> {
        self.path.clone()
    }
}

impl<R: Rejection> ExecuteError<R> {
    /// The same error without the type of the aggregate.
    pub fn erase_type(self) -> ExecuteError<AnyRejection> {
        match self {
            Self::Rejected(rejection) => ExecuteError::Rejected(AnyRejection {
                code: rejection.code(),
                message: rejection.to_string(),
                path: rejection.path(),
            }),
            Self::VersionConflict { actual } => ExecuteError::VersionConflict { actual },
            Self::CommandIdReused => ExecuteError::CommandIdReused,
            Self::Reserved { kind, holder } => ExecuteError::Reserved { kind, holder },
            Self::NotFound => ExecuteError::NotFound,
            Self::Exists { code } => ExecuteError::Exists { code },
            Self::Forbidden => ExecuteError::Forbidden,
            Self::TooLarge { bytes, limit } => ExecuteError::TooLarge { bytes, limit },
            Self::Invalid(reason) => ExecuteError::Invalid(reason),
            Self::SubjectErased => ExecuteError::SubjectErased,
            Self::TenantUnknown => ExecuteError::TenantUnknown,
            Self::Overloaded => ExecuteError::Overloaded,
            Self::Unavailable(error) => ExecuteError::Unavailable(error),
            Self::Internal { context, cause } => ExecuteError::Internal { context, cause },
        }
    }

    /// The path to the field of the input at fault, if one field is.
    pub fn path(&self) -> Option<String> {
        match self {
            Self::Rejected(rejection) => rejection.path(),
            Self::Reserved { kind, .. } => Some(kind.field.to_owned()),
            _ => None,
        }
    }
}

impl<R> ExecuteError<R> {
    /// Whether a retry of the same command may succeed.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::VersionConflict { .. } | Self::Overloaded | Self::Unavailable(_))
    }

    pub(crate) fn internal(
        context: &'static str,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Internal { context, cause: cause.into() }
    }

    /// The value of the outcome's metric label.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Rejected(_) => "rejected",
            Self::VersionConflict { .. } => "version_conflict",
            Self::CommandIdReused => "command_id_reused",
            Self::Reserved { .. } => "reserved",
            Self::NotFound => "not_found",
            Self::Exists { .. } => "exists",
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
            // After a replaced log, a retry reads the current log.
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
            // The store generates the ids of commands' events, so they are never taken.
            error @ AppendError::EventIdTaken(_) => Self::internal("appending", error),
            AppendError::Reserved { holder, .. } => Self::Reserved { kind: ReservedKind::OTHER, holder },
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
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored event cannot be parsed.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The state of a snapshot does not parse.
    #[error("a snapshot does not parse")]
    Snapshot(#[source] serde_json::Error),
    /// This version of the program does not know the type of a stored event.
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
            // A process of a newer version knows the type. A repeat may reach it.
            LoadError::UnknownType(_) => Self::Unavailable(StoreError::Unavailable(error.to_string())),
            LoadError::Decode(_) | LoadError::Snapshot(_) => Self::internal("loading the aggregate", error),
        }
    }
}
