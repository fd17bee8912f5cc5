//! The use cases of registration: a user with its password's hash, a tenant with its first administrator.

use access::{Principal, policy};
use bytes::Bytes;
use schemas::engine::{Email, Name, TenantId, TenantSlug, ids};
use schemas::identity::role::Role;
use schemas::identity::scope::Scope;
use schemas::identity::tenant::{Registration, TenantCommand, TenantOrganisation, Tier};
use schemas::identity::user::{UserCommand, UserDetails};
use store::{NewTenant, Secret};

use super::authority::FreshAuthority;
use super::tenant::{Tenant, TenantRejection};
use super::user::{PASSWORD, User, UserRejection};
use crate::engine::context::{CommandContext, CommandSideEffects};
use crate::engine::decider::Decider;
use crate::engine::executor::Executor;
use crate::engine::idempotency::new_aggregate_id;
use crate::engine::outcome::{CommandResult, ExecuteError};

/// Registers a user. `password_hash` is a PHC string, stored as a secret of the user's stream. Without one the user
/// cannot sign in.
///
/// An anonymous caller may register if the tenant's registration is open, and gets only the role of a member.
/// Other callers need the scope `users:write`, or must be platform administrators.
///
/// # Errors
/// [`ExecuteError::Forbidden`] if the caller may not register a user with these roles,
/// [`ExecuteError::Rejected`] by the rules of a user.
pub async fn register_user(
    executor: &Executor,
    context: &CommandContext,
    email: Email,
    name: Name,
    roles: Vec<Role>,
    password_hash: impl Into<Option<Bytes>>,
) -> Result<CommandResult<User>, ExecuteError<UserRejection>> {
    let open = if context.caller == Principal::Anonymous {
        let tenant =
            executor.store().tenant_by_id(context.tenant).await?.ok_or(ExecuteError::TenantUnknown)?;
        tenant.registration == Registration::Open
    } else {
        false
    };
    if !can_register(&context.caller, open, &roles) {
        return Err(ExecuteError::Forbidden);
    }
    if roles.contains(&Role::PlatformAdmin) && context.tenant != ids::PLATFORM {
        return Err(ExecuteError::Rejected(UserRejection::RoleNotAllowed(Role::PlatformAdmin)));
    }
    let id = new_aggregate_id(context, User::CATEGORY);
    let secrets = password_hash.into().map(|value| Secret { kind: PASSWORD, value }).into_iter().collect();
    executor
        .execute(
            context,
            id,
            UserCommand::RegisterUser { details: UserDetails { email, name }, roles },
            CommandSideEffects { secrets, ..CommandSideEffects::default() },
        )
        .await
}

fn can_register(caller: &Principal, open: bool, roles: &[Role]) -> bool {
    match caller {
        Principal::Anonymous => open && roles == [Role::Member],
        Principal::System(_) => true,
        caller if caller.has_role(Role::PlatformAdmin) => true,
        caller => caller.has_scope(&Scope::UsersWrite) && !roles.contains(&Role::PlatformAdmin),
    }
}

/// The first administrator of a new tenant.
#[derive(Debug, Clone)]
pub struct TenantAdmin {
    /// E-mail address for sign-in.
    pub email: Email,
    /// Name of the person.
    pub name: Name,
    /// Hash of the password, a PHC string.
    pub password_hash: Bytes,
}

/// A registered tenant, with its administrator if one was requested.
#[derive(Debug, Clone)]
pub struct RegisteredTenant {
    /// Result for the tenant.
    pub tenant: CommandResult<Tenant>,
    /// Result for its administrator.
    pub admin: Option<CommandResult<User>>,
}

/// Why a tenant was not registered, or was registered without its administrator.
#[derive(Debug, thiserror::Error)]
pub enum RegisterTenantError {
    /// The tenant was not registered.
    #[error(transparent)]
    Tenant(ExecuteError<TenantRejection>),
    /// The tenant is registered, but its administrator is not. A repeat with the same command id completes it.
    #[error(transparent)]
    Admin(ExecuteError<UserRejection>),
}

/// A tenant to register.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantRegistration {
    /// Unique name in URLs and subjects.
    pub slug: TenantSlug,
    /// Display name.
    pub name: Name,
    /// Tier of the tenant.
    pub tier: Tier,
    /// Who may register as a user.
    pub registration: Registration,
    /// The organisation that the tenant belongs to.
    pub organisation: TenantOrganisation,
}

/// Registers a tenant, opens its log, and registers its first administrator in it. The event is recorded in the log of
/// the tenant `platform`, whatever the context's tenant is.
///
/// # Errors
/// [`RegisterTenantError::Admin`] if only the administrator is missing; a repeat completes it.
pub async fn register_tenant(
    executor: &Executor,
    context: &CommandContext,
    new: TenantRegistration,
    admin: Option<TenantAdmin>,
) -> Result<RegisteredTenant, RegisterTenantError> {
    let mut context = context.clone();
    context.tenant = ids::PLATFORM;
    let id = new_aggregate_id(&context, Tenant::CATEGORY);
    let new_tenant = NewTenant {
        id: TenantId(id),
        slug: new.slug.clone(),
        name: new.name.to_string(),
        tier: new.tier,
        registration: new.registration,
    };
    let TenantRegistration { slug, name, tier, registration, organisation } = new;
    let command = TenantCommand::RegisterTenant { slug, name, tier, registration, organisation };
    let side_effects = CommandSideEffects { new_tenant: Some(new_tenant), ..CommandSideEffects::default() };
    let authority =
        FreshAuthority::acquire(executor, context.tenant, &context.caller, &policy::TENANTS_WRITE).await;
    let authority = authority.map_err(|error| RegisterTenantError::Tenant(error.into()))?;
    let tenant: Result<CommandResult<Tenant>, _> =
        executor.execute(&context, id, command, side_effects).await;
    authority.release().await;
    let tenant = tenant.map_err(RegisterTenantError::Tenant)?;

    let admin = match admin {
        Some(admin) => {
            let context = CommandContext {
                tenant: TenantId(id),
                command_id: Some(ids::derived_id(tenant.command_id, "admin")),
                expected_version: None,
                correlation_id: context.correlation_id.or(Some(tenant.command_id)),
                ..context
            };
            let TenantAdmin { email, name, password_hash } = admin;
            let registered =
                register_user(executor, &context, email, name, vec![Role::TenantAdmin], password_hash).await;
            Some(registered.map_err(RegisterTenantError::Admin)?)
        }
        None => None,
    };
    Ok(RegisteredTenant { tenant, admin })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_stranger_becomes_a_member_where_registration_is_open() {
        let stranger = Principal::Anonymous;
        assert!(can_register(&stranger, true, &[Role::Member]));
        assert!(!can_register(&stranger, false, &[Role::Member]));
        assert!(!can_register(&stranger, true, &[Role::TenantAdmin]));
        assert!(!can_register(&stranger, true, &[Role::Member, Role::TenantAdmin]));
    }

    #[test]
    fn a_tenant_admin_adds_users_but_no_platform_admin() {
        let admin = Principal::user(Uuid::from_u128(1), vec![Role::TenantAdmin]);
        assert!(can_register(&admin, false, &[Role::TenantAdmin]));
        assert!(!can_register(&admin, false, &[Role::PlatformAdmin]));
        assert!(!can_register(
            &Principal::user(Uuid::from_u128(2), vec![Role::Member]),
            true,
            &[Role::Member]
        ));
    }
}
