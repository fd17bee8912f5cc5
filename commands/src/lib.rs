//! The rules of every aggregate, and the executor that runs them.
//!
//! - One folder for each bounded context, one file for each aggregate: state, `apply`, `decide`, rejections and tests.
//! - `engine` is shared: load, decide, append, retry, idempotency, the adapter to cqrs-es.
//! - `any_command` is a command of any aggregate as data, to be sent later.
//!
//! `access::policy` says which caller may send which command.

pub mod any_command;
pub mod crm;
pub mod engine;
pub mod identity;
pub mod integration;
pub mod privacy;
mod registry;

pub use access::Rejection;
pub use any_command::{AnyCommand, DispatchError, Dispatched};
pub use crm::customer::{Customer, CustomerRejection};
pub use engine::any_aggregate::AnyAggregate;
pub use engine::context::{CommandContext, CommandSideEffects};
pub use engine::cqrs_store::{CqrsAggregate, TenantEventStore};
pub use engine::decider::{DecideError, Decider, Facts, ReservedKind, decide};
pub use engine::executor::Executor;
pub use engine::idempotency::{claim, new_aggregate_id, receipt_key};
pub use engine::outcome::{AnyRejection, CommandResult, ExecuteError, ExecutionOutcome, RecordedNow};
pub use identity::administration::{add_user, change_roles, deactivate, resume_tenant, suspend_tenant};
pub use identity::registration::{
    RegisterTenantError, RegisteredTenant, TenantAdmin, TenantRegistration, register_tenant, register_user,
};
pub use identity::tenant::{Tenant, TenantRejection};
pub use identity::user::{User, UserRejection};
pub use integration::event_type::{EventFamily, EventTypeRejection};
pub use integration::external_append::{ExternalAppend, ExternalAppendError, ExternalEvent, ExternalEvents};
pub use integration::service_token::{ServiceToken, ServiceTokenRejection};
pub use privacy::subject::{Subject, SubjectRejection};
pub use registry::{AGGREGATES, dispatch, of_category, of_command, reserved_value_code};
