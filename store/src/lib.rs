//! The PostgreSQL event store: one log without gaps per tenant.
//!
//! - `append` writes events: one flush for appends of many tenants.
//! - `reads` reads rows of a tenant in one round trip; `read` and `streams` read logs and streams; `feed` gives consumers contiguous batches.
//! - `tenant` is the tenant handle, `tenants` the directory, `heads` the heads of all logs.
//! - `snapshots` keeps states of folds over streams.
//! - `checkpoints`, `dead_letters` and `read_models` store the state of consumers.
//! - `invariants` lists the rules that always hold, and reports violations.
//! - `logs` replaces a log after a restore; `database_instance` detects the restore.
//! - `sealing` encrypts and decrypts personal data; `deployment` checks whose key store it is.
//!
//! The connection pools are private to this crate: tenant rows are only reached by a handle or its transactions.

mod advances;
pub mod append;
pub mod assignment;
pub mod checkpoints;
pub mod config;
pub mod consistency;
pub mod cross_tenant;
pub mod database_instance;
pub mod dead_letters;
mod deployment;
pub mod digest;
pub mod error;
mod event_ids;
pub mod export_rows;
pub mod feed;
mod generations;
pub mod heads;
pub mod invariants;
pub mod keys;
pub mod logs;
pub mod migrate;
mod pauses;
mod pools;
pub mod read;
pub mod read_models;
mod reads;
mod receipt_sweep;
pub mod receipts;
mod relay_events;
mod request_locks;
pub mod requests;
pub mod scratch;
mod sealing;
pub mod signals;
pub mod snapshots;
pub mod sql;
mod store;
mod stored_receipt;
pub mod streams;
pub mod tenant;
pub mod tenant_lock;
pub mod tenants;
mod transaction;
mod verification;
mod violations;

pub use append::{
    AppendError, ExpectedVersion, NewEvent, NewTenant, Receipt, Reservation, ReservationDigest, Secret,
    StreamAppend, TenantStatusChange,
};
pub use assignment::{TenantAssignment, Workload};
pub use checkpoints::{Checkpoint, CheckpointStep};
pub use config::StoreConfig;
pub use consistency::{ConsistencyToken, TokenError};
pub use cross_tenant::CrossTenantRole;
pub use database::{Causes, TlsConfig, TlsMode};
pub use database_instance::{DatabaseInstance, Verification, Verifier};
pub use dead_letters::{DeadLetter, DeadLetterStatus};
pub use digest::RequestDigest;
pub use error::StoreError;
pub use export_rows::ExportRow;
pub use heads::Head;
pub use invariants::{Invariant, VIOLATION_RETRY_INTERVAL};
pub use keyring::Recipient as KeyRecipient;
pub use keys::{DeploymentKey, MacKey};
pub use logs::{LogIds, PublishedEvent, ReplacedLog, Replacement};
pub use migrate::{OwnerConfig, ReadTable};
pub use pools::{connection_limits, role_password};
pub use read::{LogFilter, LogPage, PageLimit, StreamFilter};
pub use read_models::{ReadModelState, read_table_at};

pub use requests::{AnswerRetention, OpenRequest, RequestAnswer, RequestEnd, RequestGuard, RequestStart};
pub use scratch::Scratch;
pub use snapshots::{
    LoadedStream, SNAPSHOT_INTERVAL, SNAPSHOTS_PER_LOAD_MAX, Snapshot, SnapshotFold, StreamEnd,
};
pub use store::{Connections, Store};
pub use stored_receipt::{IdempotencyClaim, KeyUse, WITHOUT_EFFECT_RETENTION};
pub use streams::StreamPage;
pub use tenant::TenantStore;
pub use tenant_lock::{LockMode, TenantLock};
pub use tenants::{TenantRecord, TenantStatus};
pub use transaction::TenantTransaction;
