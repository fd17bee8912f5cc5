//! The use cases of administration: users and their roles, erasures, tenants on hold.
//!
//! One administrator always remains. That is a fact about all users, and a rule sees one. So an administrator cannot take
//! the role from itself, the caller's own role is read from its events, and changes of who administers happen one at a
//! time for each tenant (see [`authority`](super::authority)). A person that is about to be erased is not given the role.

use access::Principal;
use bytes::Bytes;
use schemas::engine::{Email, Name, TenantId, ids};
use schemas::identity::role::Role;
use schemas::identity::scope::Scope;
use schemas::identity::tenant::{ResumeTenant, SuspendTenant};
use schemas::identity::user::{ChangeUserRoles, DeactivateUser, UserStatus};
use schemas::privacy::subject::RequestErasure;
use store::{LockMode, NewStanding};
use uuid::Uuid;

use super::authority::{AuthorityError, FreshAuthority};
use super::registration::register_user;
use super::tenant::{Tenant, TenantCommand, TenantRejection};
use super::user::{User, UserCommand, UserRejection};
use crate::engine::context::{CommandContext, Extras};
use crate::engine::executor::Executor;
use crate::engine::outcome::{ExecuteError, Executed};
use crate::privacy::subject::{Subject, SubjectRejection};

type Done = Result<Executed<User>, ExecuteError<UserRejection>>;

/// The role that runs a tenant.
fn administering(tenant: TenantId) -> Role {
    if tenant == ids::PLATFORM { Role::PlatformAdmin } else { Role::TenantAdmin }
}

fn holds(user: &User, role: Role) -> bool {
    user.status != UserStatus::Deactivated && user.roles.contains(&role)
}

/// Refuses roles that the tenant does not have.
fn in_place(context: &CommandContext, roles: &[Role]) -> Result<(), ExecuteError<UserRejection>> {
    if roles.contains(&Role::PlatformAdmin) && context.tenant != ids::PLATFORM {
        return Err(ExecuteError::Rejected(UserRejection::RoleNotAllowed(Role::PlatformAdmin)));
    }
    Ok(())
}

/// Adds a user on behalf of an administrator; without a password the user cannot sign in.
pub async fn add_user(
    executor: &Executor,
    context: &CommandContext,
    email: Email,
    name: Name,
    roles: Vec<Role>,
    password_hash: Option<Bytes>,
) -> Done {
    in_place(context, &roles)?;
    let role = administering(context.tenant);
    let holds = |current: &Principal| {
        current.is_system() || current.has_role(role) || current.has_scope(&Scope::UsersWrite)
    };
    let authority =
        FreshAuthority::confirm(executor, context.tenant, &context.caller, LockMode::Shared, holds).await?;
    let done = register_user(executor, context, email, name, roles, password_hash).await;
    authority.release().await;
    done
}

/// Gives a user these roles and no others.
pub async fn change_roles(executor: &Executor, context: &CommandContext, id: Uuid, roles: Vec<Role>) -> Done {
    let given = in_place(context, &roles);
    let stays = roles.contains(&administering(context.tenant));
    let command = UserCommand::from(ChangeUserRoles { roles });
    if let Some(earlier) = executor.repeated::<User>(context, id, command.clone()).await? {
        return Ok(earlier);
    }
    given?;
    if stays {
        return promote(executor, context, id, command).await;
    }
    remove(executor, context, id, command).await
}

/// Stops a user from signing in.
pub async fn deactivate(
    executor: &Executor,
    context: &CommandContext,
    id: Uuid,
    command: DeactivateUser,
) -> Done {
    let command = UserCommand::from(command);
    if let Some(earlier) = executor.repeated::<User>(context, id, command.clone()).await? {
        return Ok(earlier);
    }
    remove(executor, context, id, command).await
}

/// Asks for the erasure of a subject. Whoever runs the tenant is refused before another administrator has taken the role;
/// from then on the subject cannot be given it.
pub async fn request_erasure(
    executor: &Executor,
    context: &CommandContext,
    subject: Uuid,
    command: RequestErasure,
) -> Result<Executed<Subject>, ExecuteError<SubjectRejection>> {
    let authority = authority_alone(executor, context).await?;
    let user = executor.load::<User>(context.tenant, subject).await?;
    if user.is_some_and(|(user, _)| holds(&user, administering(context.tenant))) {
        return Err(ExecuteError::Rejected(SubjectRejection::Administers));
    }
    let done = executor.execute::<Subject>(context, subject, command, Extras::default()).await;
    authority.release().await;
    done
}

/// Gives a user roles among which is the one that runs the tenant.
async fn promote(executor: &Executor, context: &CommandContext, id: Uuid, command: UserCommand) -> Done {
    let authority = authority_alone(executor, context).await?;
    if executor.load::<Subject>(context.tenant, id).await?.is_some() {
        return Err(ExecuteError::Rejected(UserRejection::Erased));
    }
    let done = executor.execute(context, id, command, Extras::default()).await;
    authority.release().await;
    done
}

/// Executes what may leave the tenant with an administrator less.
async fn remove(executor: &Executor, context: &CommandContext, id: Uuid, command: UserCommand) -> Done {
    let authority = authority_alone(executor, context).await?;
    if context.caller.user_id() == Some(id) {
        return Err(ExecuteError::Rejected(UserRejection::OwnAdministration));
    }
    let done = executor.execute(context, id, command, Extras::default()).await;
    authority.release().await;
    done
}

/// Puts a tenant on hold: its log stays, and every door is closed to it. The fact stands in the log of the tenant
/// `platform`, whatever the context's tenant is.
pub async fn suspend_tenant(
    executor: &Executor,
    context: &CommandContext,
    tenant: TenantId,
    command: SuspendTenant,
) -> Result<Executed<Tenant>, ExecuteError<TenantRejection>> {
    stand(executor, context, NewStanding { tenant, suspended: true }, command.into()).await
}

/// Ends a tenant's hold.
pub async fn resume_tenant(
    executor: &Executor,
    context: &CommandContext,
    tenant: TenantId,
) -> Result<Executed<Tenant>, ExecuteError<TenantRejection>> {
    stand(executor, context, NewStanding { tenant, suspended: false }, ResumeTenant {}.into()).await
}

/// The directory follows in the transaction of the fact.
async fn stand(
    executor: &Executor,
    context: &CommandContext,
    standing: NewStanding,
    command: TenantCommand,
) -> Result<Executed<Tenant>, ExecuteError<TenantRejection>> {
    let context = CommandContext { tenant: ids::PLATFORM, ..context.clone() };
    let extras = Extras { standing: Some(standing), ..Extras::default() };
    executor.execute(&context, standing.tenant.0, command, extras).await
}

/// Locks the tenant's administration, alone. The caller must hold the role that runs the tenant by its own events.
async fn authority_alone(
    executor: &Executor,
    context: &CommandContext,
) -> Result<FreshAuthority, AuthorityError> {
    let role = administering(context.tenant);
    let holds = |current: &Principal| current.is_system() || current.has_role(role);
    FreshAuthority::confirm(executor, context.tenant, &context.caller, LockMode::Exclusive, holds).await
}
