//! The PostgreSQL event store: one dense log per tenant.
//!
//! Layout: `append` writes (group commit, one flush for many tenants); `read` and `tail` stream a tenant's log;
//! `tenants` is the directory; `checkpoints` and `dead_letters` serve the followers of the log; `feed` brings the log to
//! such a follower in contiguous batches; `heads` tells who has moved; `logs` replaces a log whose database went back,
//! which `database_instance` makes sure is noticed; `streams` reads
//! single streams; `sealing` seals and opens personal data, `deployment` makes sure
//! that its keys are this database's and `key_comparison` compares them with the logs; `tenant` is the handle through which everything of
//! one tenant is reached. The raw connection pools stay private to this crate: the only way to a tenant's rows is a
//! handle or a transaction made from one.

pub mod activities;
pub mod append;
pub mod assignment;
pub mod checkpoints;
pub mod config;
pub mod consistency;
pub mod database_instance;
pub mod dead_letters;
mod deployment;
pub mod digest;
pub mod error;
mod event_ids;
pub mod export_rows;
pub mod feed;
pub mod heads;
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
    AppendError, ExpectedVersion, NewEvent, NewTenant, Receipt, Reservation, ReservationDigest, Secret,
    StreamAppend, TenantStatusChange,
};
pub use assignment::{TenantAssignment, Workload};
pub use checkpoints::Checkpoint;
pub use config::StoreConfig;
pub use consistency::{ConsistencyToken, TokenError};
pub use database::{Causes, TlsConfig, TlsMode};
pub use database_instance::{DatabaseInstance, Verification, Verifier};
pub use dead_letters::{DeadLetter, DeadLetterStatus};
pub use digest::RequestDigest;
pub use error::StoreError;
pub use export_rows::ExportRow;
pub use heads::Head;
pub use integrators::{
    AckedPosition, IntegratorChange, IntegratorCommand, IntegratorCredential, IntegratorOutcome,
    NewCredential, NewKey, ObservedPosition, RevokedKey,
};
pub use key_comparison::EventWithoutKey;
pub use keyring::Recipient as KeyRecipient;
pub use keys::{DeploymentKey, MacKey};
pub use logs::{LogIds, PublishedEvent, ReplacedLog, Replacement};
pub use merkle::{Seal, SealedLog, UnsealedLog};
pub use migrate::{OwnerConfig, ReadTable};
pub use pools::{connection_limits, role_password};
pub use read::{LogFilter, LogPage, PageLimit, StreamFilter};
pub use read_models::ReadModelState;
pub use receipts::{IdempotencyClaim, KeyUse};
pub use relay::{AckedMessage, RelayMove, RelayProgress};
pub use requests::{AnswerRetention, OpenRequest, RequestAnswer, RequestEnd, RequestGuard, RequestStart};
pub use scratch::Scratch;
pub use store::{Connections, Store};
pub use streams::StreamPage;
pub use tenant::{TenantStore, TenantTransaction};
pub use tenant_lock::{LockMode, TenantLock};
pub use tenants::{TenantRecord, TenantStatus};
