//! Requests of erasures: by an administrator, and by the product itself.

use access::Principal;
use commands::identity::administration::{is_active_admin, lock_authority};
use commands::{
    CommandContext, CommandResult, CommandSideEffects, ExecuteError, Executor, Subject, SubjectRejection,
    User,
};
use schemas::engine::{Reason, TenantId};
use schemas::privacy::subject::SubjectCommand;
use store::StoreError;
use uuid::Uuid;

/// The name of the erasure: of its checkpoint, and of the principal of its commands.
pub(crate) const CONSUMER_NAME: &str = "erasure";

type SubjectResult = Result<CommandResult<Subject>, ExecuteError<SubjectRejection>>;

/// Requests the erasure of a subject. An administrator is rejected until another administrator has removed its role.
/// After the request the subject cannot become an administrator.
///
/// # Errors
/// [`ExecuteError::Rejected`] with [`SubjectRejection::SubjectIsAdmin`] if the subject is an administrator.
pub async fn request_erasure(
    executor: &Executor,
    context: &CommandContext,
    subject: Uuid,
    reason: Option<Reason>,
) -> SubjectResult {
    let authority = lock_authority(executor, context).await?;
    let user = executor.load::<User>(context.tenant, subject).await?;
    if user.is_some_and(|(user, _)| is_active_admin(&user, context.tenant)) {
        return Err(ExecuteError::Rejected(SubjectRejection::SubjectIsAdmin));
    }
    let command = SubjectCommand::RequestErasure { reason };
    let done = executor.execute::<Subject>(context, subject, command, CommandSideEffects::default()).await;
    authority.release().await;
    done
}

/// Requests an erasure as the part of the product with this name, without a check of roles.
///
/// # Errors
/// [`ExecuteError`] if the store fails or the tenant does not exist.
pub async fn request_as_system(
    executor: &Executor,
    tenant: TenantId,
    subject: Uuid,
    part: &'static str,
) -> SubjectResult {
    let context = CommandContext::new(tenant, Principal::system(part));
    let command = SubjectCommand::RequestErasure { reason: None };
    executor.execute::<Subject>(&context, subject, command, CommandSideEffects::default()).await
}

/// The error of a command on a subject as an error of the store; the work is retried.
pub(crate) fn store_error(error: ExecuteError<SubjectRejection>) -> StoreError {
    match error {
        ExecuteError::Unavailable(error) => error,
        ExecuteError::TenantUnknown => StoreError::TenantUnknown,
        error => StoreError::Unavailable(error.to_string()),
    }
}
