//! The PostgreSQL event store: one dense log per tenant.
//!
//! Layout: `append` writes (group commit, one flush for many tenants); `read` and `tail` stream a tenant's log;
//! `tenants` is the directory; `checkpoints` and `dead_letters` serve the followers of the log; `feed` brings the log to
//! such a follower in contiguous batches; `heads` tells who has moved; `logs` replaces a log whose database went back,
//! which `incarnation` makes sure is noticed; `streams` reads
//! single streams; `sealing` seals and opens personal data, `deployment` makes sure
//! that its keys are this database's and `key_comparison` compares them with the logs; `tenant` is the handle through which everything of
//! one tenant is reached. The raw connection pools stay private to this crate: the only way to a tenant's rows is a
//! handle or a transaction made from one.

pub mod activities;
pub mod append;
pub mod checkpoints;
pub mod config;
pub mod consistency;
pub mod dead_letters;
mod deployment;
pub mod digest;
pub mod error;
mod event_ids;
pub mod evidence;
pub mod feed;
pub mod heads;
pub mod incarnation;
pub mod integrators;
mod key_comparison;
pub mod keys;
pub mod logs;
pub mod merkle;
pub mod migrate;
mod pools;
pub mod read;
pub mod read_models;
pub mod receipts;
pub mod relay;
pub mod requests;
pub mod saga_steps;
pub mod scratch;
mod sealing;
pub mod sharing;
pub mod signals;
pub mod sql;
mod store;
pub mod stream_tickets;
pub mod streams;
pub mod tenant;
pub mod tenant_lock;
pub mod tenants;
pub mod webhooks;

pub use activities::{Activity, ActivityKind};
pub use append::{
    AppendError, ExpectedVersion, HeldValue, NewEvent, NewStanding, NewTenant, Receipt, Reservation, Secret,
    StreamAppend,
};
pub use checkpoints::Checkpoint;
pub use config::StoreConfig;
pub use consistency::{ConsistencyToken, TokenError};
pub use database::{Causes, TlsConfig, TlsMode};
pub use dead_letters::{DeadLetter, DeadLetterStatus};
pub use digest::RequestDigest;
pub use error::StoreError;
pub use evidence::EvidenceRow;
pub use heads::Head;
pub use incarnation::{Examination, Examiner, Incarnation};
pub use integrators::{
    AckedPlace, CutKey, FoundPlace, IntegratorChange, IntegratorCommand, IntegratorCredential,
    IntegratorOutcome, NewCredential, NewKey,
};
pub use key_comparison::EventWithoutKey;
pub use keyring::Recipient as KeyRecipient;
pub use keys::{DeploymentKey, MacKey};
pub use logs::{LogIds, Published, ReplacedLog, Replacement};
pub use merkle::{Seal, SealedLog, UnsealedLog};
pub use migrate::{OwnerConfig, ReadTable};
pub use pools::{connection_limits, role_password};
pub use read::{LogFilter, LogPage, PieceLimit, StreamFilter};
pub use read_models::ReadModelState;
pub use receipts::{Claim, KeyUse};
pub use relay::{RelayMark, RelayMove, RelayProgress};
pub use requests::{AnswerRetention, OpenRequest, RequestAnswer, RequestEnd, RequestStart, RequestTurn};
pub use scratch::Scratch;
pub use sharing::{Share, SharedWork};
pub use store::{Connections, Store};
pub use streams::StreamPage;
pub use tenant::{TenantStore, TenantTransaction};
pub use tenant_lock::{LockMode, TenantLock};
pub use tenants::{Standing, TenantRecord};
