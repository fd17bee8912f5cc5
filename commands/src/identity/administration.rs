//! The use cases of administration: users and their roles, suspension of tenants.
//!
//! A tenant always keeps at least one administrator. The rules of one user cannot check that, so three checks ensure
//! it:
//!
//! - An administrator cannot remove its own role.
//! - The caller's role is read from its own events.
//! - Changes of the administrators of a tenant are serialised by a lock (see [`authority`](super::authority)).
//!
//! A user whose erasure was requested cannot become an administrator.

use access::Principal;
use bytes::Bytes;
use schemas::engine::Reason;
use schemas::engine::{Email, Name, TenantId, ids};
use schemas::identity::role::Role;
use schemas::identity::scope::Scope;
use schemas::identity::tenant::TenantCommand;
use schemas::identity::user::{UserCommand, UserStatus};
use store::{LockMode, TenantStatusChange};
use uuid::Uuid;

use super::authority::{AuthorityError, FreshAuthority};
use super::registration::register_user;
use super::tenant::{Tenant, TenantRejection};
use super::user::{User, UserRejection};
use crate::engine::context::{CommandContext, CommandSideEffects};
use crate::engine::executor::Executor;
use crate::engine::outcome::{CommandResult, ExecuteError};
use crate::privacy::subject::Subject;

type UserResult = Result<CommandResult<User>, ExecuteError<UserRejection>>;

/// The administrator role of a tenant.
fn admin_role(tenant: TenantId) -> Role {
    if tenant == ids::PLATFORM { Role::PlatformAdmin } else { Role::TenantAdmin }
}

/// Whether a user of this tenant is active and an administrator of it.
pub fn is_active_admin(user: &User, tenant: TenantId) -> bool {
    user.status != UserStatus::Deactivated && user.roles.contains(&admin_role(tenant))
}

/// Rejects roles that the tenant does not have.
fn check_roles_allowed(context: &CommandContext, roles: &[Role]) -> Result<(), ExecuteError<UserRejection>> {
    if roles.contains(&Role::PlatformAdmin) && context.tenant != ids::PLATFORM {
        return Err(ExecuteError::Rejected(UserRejection::RoleNotAllowed(Role::PlatformAdmin)));
    }
    Ok(())
}

/// Adds a user on behalf of an administrator. Without a password the user cannot sign in.
///
/// # Errors
/// [`ExecuteError::Forbidden`] if the caller lacks the permission, [`ExecuteError::Rejected`] by the rules of a user.
pub async fn add_user(
    executor: &Executor,
    context: &CommandContext,
    email: Email,
    name: Name,
    roles: Vec<Role>,
    password_hash: Option<Bytes>,
) -> UserResult {
    check_roles_allowed(context, &roles)?;
    let role = admin_role(context.tenant);
    let is_permitted = |current: &Principal| {
        current.is_system() || current.has_role(role) || current.has_scope(&Scope::UsersWrite)
    };
    let authority =
        FreshAuthority::confirm(executor, context.tenant, &context.caller, LockMode::Shared, is_permitted)
            .await?;
    let done = register_user(executor, context, email, name, roles, password_hash).await;
    authority.release().await;
    done
}

/// Replaces the roles of a user.
///
/// # Errors
/// [`ExecuteError::Rejected`] with [`UserRejection::SelfAdminChange`] if an administrator removes its own role.
pub async fn change_roles(
    executor: &Executor,
    context: &CommandContext,
    id: Uuid,
    roles: Vec<Role>,
) -> UserResult {
    let given = check_roles_allowed(context, &roles);
    let stays = roles.contains(&admin_role(context.tenant));
    let command = UserCommand::ChangeUserRoles { roles };
    if let Some(earlier) = executor.previous_result::<User>(context, id, command.clone()).await? {
        return Ok(earlier);
    }
    given?;
    if stays {
        return grant_admin(executor, context, id, command).await;
    }
    execute_exclusively(executor, context, id, command).await
}

/// Stops a user from signing in.
///
/// # Errors
/// [`ExecuteError::Rejected`] with [`UserRejection::SelfAdminChange`] if an administrator deactivates itself.
pub async fn deactivate(
    executor: &Executor,
    context: &CommandContext,
    id: Uuid,
    reason: Option<Reason>,
) -> UserResult {
    let command = UserCommand::DeactivateUser { reason };
    if let Some(earlier) = executor.previous_result::<User>(context, id, command.clone()).await? {
        return Ok(earlier);
    }
    execute_exclusively(executor, context, id, command).await
}

/// Gives a user roles that include the administrator role.
async fn grant_admin(
    executor: &Executor,
    context: &CommandContext,
    id: Uuid,
    command: UserCommand,
) -> UserResult {
    let authority = lock_authority(executor, context).await?;
    if executor.load::<Subject>(context.tenant, id).await?.is_some() {
        return Err(ExecuteError::Rejected(UserRejection::Erased));
    }
    let done = executor.execute(context, id, command, CommandSideEffects::default()).await;
    authority.release().await;
    done
}

/// Executes a command that may remove an administrator.
async fn execute_exclusively(
    executor: &Executor,
    context: &CommandContext,
    id: Uuid,
    command: UserCommand,
) -> UserResult {
    let authority = lock_authority(executor, context).await?;
    if context.caller.user_id() == Some(id) {
        return Err(ExecuteError::Rejected(UserRejection::SelfAdminChange));
    }
    let done = executor.execute(context, id, command, CommandSideEffects::default()).await;
    authority.release().await;
    done
}

/// Suspends a tenant: its log is kept, and all access to it is refused. The event is recorded in the log of the tenant
/// `platform`, whatever the context's tenant is.
///
/// # Errors
/// [`ExecuteError`] if the caller lacks the permission or the tenant does not exist.
pub async fn suspend_tenant(
    executor: &Executor,
    context: &CommandContext,
    tenant: TenantId,
    reason: Option<Reason>,
) -> Result<CommandResult<Tenant>, ExecuteError<TenantRejection>> {
    let command = TenantCommand::SuspendTenant { reason };
    set_tenant_status(executor, context, TenantStatusChange { tenant, suspended: true }, command).await
}

/// Ends the suspension of a tenant.
///
/// # Errors
/// [`ExecuteError`] if the caller lacks the permission or the tenant does not exist.
pub async fn resume_tenant(
    executor: &Executor,
    context: &CommandContext,
    tenant: TenantId,
) -> Result<CommandResult<Tenant>, ExecuteError<TenantRejection>> {
    let command = TenantCommand::ResumeTenant {};
    set_tenant_status(executor, context, TenantStatusChange { tenant, suspended: false }, command).await
}

/// The tenant's status is changed in the transaction of the event.
async fn set_tenant_status(
    executor: &Executor,
    context: &CommandContext,
    tenant_status: TenantStatusChange,
    command: TenantCommand,
) -> Result<CommandResult<Tenant>, ExecuteError<TenantRejection>> {
    let context = CommandContext { tenant: ids::PLATFORM, ..context.clone() };
    let side_effects =
        CommandSideEffects { tenant_status: Some(tenant_status), ..CommandSideEffects::default() };
    executor.execute(&context, tenant_status.tenant.0, command, side_effects).await
}

/// Takes the tenant's administration lock exclusively. The caller must be an administrator by its own events.
///
/// # Errors
/// [`AuthorityError`] if the caller is no administrator, the lock is not free in time, or the store fails.
pub async fn lock_authority(
    executor: &Executor,
    context: &CommandContext,
) -> Result<FreshAuthority, AuthorityError> {
    let role = admin_role(context.tenant);
    let is_permitted = |current: &Principal| current.is_system() || current.has_role(role);
    FreshAuthority::confirm(executor, context.tenant, &context.caller, LockMode::Exclusive, is_permitted)
        .await
}
