//! Subjects: whose personal data it is, whether it is erased, and how it is erased in one of its streams.

use commands::{CommandContext, Customer, Executor, Subject, User};
use schemas::engine::{StreamName, TenantId, ids};
use schemas::privacy::subject::ErasureStatus;
use store::StoreError;
use uuid::Uuid;

/// The subject of a user's personal data, which is the user. `None` if the user does not exist.
///
/// # Errors
/// The store failed.
pub async fn subject_of_user(
    executor: &Executor,
    tenant: TenantId,
    user: Uuid,
) -> Result<Option<Uuid>, StoreError> {
    Ok(executor.load::<User>(tenant, user).await?.map(|_| user))
}

/// The subject of a customer's personal data: the user that the customer is, otherwise the customer. `None` if the
/// customer does not exist.
///
/// # Errors
/// The store failed.
pub async fn subject_of_customer(
    executor: &Executor,
    tenant: TenantId,
    customer: Uuid,
) -> Result<Option<Uuid>, StoreError> {
    let loaded = executor.load::<Customer>(tenant, customer).await?;
    Ok(loaded.map(|(loaded, _)| loaded.user_id.unwrap_or(customer)))
}

/// Whether the log has recorded that the subject is erased.
pub(crate) async fn is_erased(
    executor: &Executor,
    tenant: TenantId,
    subject: Uuid,
) -> Result<bool, StoreError> {
    let loaded = executor.load::<Subject>(tenant, subject).await?;
    Ok(loaded.is_some_and(|(loaded, _)| loaded.status == ErasureStatus::Erased))
}

/// Erases the subject in the aggregate of a stream, and deletes what it holds outside the log (reservations, secrets).
/// Returns the position after which it is erased. `None` if the aggregate has no erase command: then all its personal
/// data is in encrypted parts of its events. A repeat under the same context changes nothing.
///
/// # Errors
/// The store failed, or the aggregate rejected the erasure.
pub async fn erase_stream(
    executor: &Executor,
    context: &CommandContext,
    stream: &StreamName,
) -> Result<Option<u64>, StoreError> {
    let (Some(id), Some(aggregate)) = (stream.uuid(), commands::of_category(stream.category())) else {
        return Ok(None);
    };
    // Each stream gets its own id, so that a repeat is recognised.
    let command_id = context.command_id.map(|command_id| ids::derived_id(command_id, stream.as_str()));
    aggregate.erase(executor, &CommandContext { command_id, ..context.clone() }, id).await
}
