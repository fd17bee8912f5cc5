//! The policy: the roles and scopes for each read and command.
//!
//! Routes, GraphQL fields and the executor check it before they load anything.
//! So a refusal does not reveal what exists.

use std::fmt;

use schemas::engine::{Model, Registry};
use schemas::identity::role::Role;
use schemas::identity::scope::Scope;
use uuid::Uuid;

use crate::Principal;

/// The callers that hold a permission besides the named roles and scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// No others.
    None,
    /// The user that the command or row is about, unless its only role is auditor.
    Itself,
    /// Every caller, signed in or not. The use case checks more.
    Any,
}

/// The roles and scopes that a read or a command needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permission {
    /// The name: the name of a command, or `<what>.read`.
    pub name: &'static str,
    /// Users with one of these roles hold it.
    pub roles: &'static [Role],
    /// Users and services with one of these scopes hold it.
    pub scopes: &'static [Scope],
    /// The other callers that hold it.
    pub owner: Owner,
}

impl Permission {
    /// Whether the caller holds the permission by a role or scope, without ownership.
    pub fn is_held_by(&self, principal: &Principal) -> bool {
        principal.is_system()
            || self.owner == Owner::Any
            || self.roles.iter().any(|role| principal.has_role(*role))
            || self.scopes.iter().any(|scope| principal.has_scope(scope))
    }

    /// Whether the caller holds the permission for the data of the user `target`.
    pub fn permits(&self, principal: &Principal, target: Uuid) -> bool {
        self.is_held_by(principal) || self.owner == Owner::Itself && owns(principal, target)
    }
}

impl fmt::Display for Permission {
    /// Formats what a refused caller lacks: `tenant_admin or the scope crm:read`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles = self.roles.iter().map(ToString::to_string);
        let scopes = self.scopes.iter().map(|scope| format!("the scope {scope}"));
        f.write_str(&roles.chain(scopes).collect::<Vec<_>>().join(" or "))
    }
}

fn owns(principal: &Principal, target: Uuid) -> bool {
    match principal {
        Principal::User { id, roles, .. } => *id == target && roles.iter().any(|role| *role != Role::Auditor),
        _ => false,
    }
}

const fn permission(
    name: &'static str,
    roles: &'static [Role],
    scopes: &'static [Scope],
    owner: Owner,
) -> Permission {
    Permission { name, roles, scopes, owner }
}

use Role::{PlatformAdmin, TenantAdmin};

/// Read proofs, exports, the activity log and historical states of read models.
pub const AUDIT_READ: Permission = permission("audit.read", &[TenantAdmin], &[Scope::AuditRead], Owner::None);
/// Find the position of a time. For readers of events and for auditors.
pub const POSITIONS_READ: Permission =
    permission("positions.read", &[TenantAdmin], &[Scope::EventsRead, Scope::AuditRead], Owner::None);
/// Read and follow events, and read event types.
pub const EVENTS_READ: Permission =
    permission("events.read", &[TenantAdmin], &[Scope::EventsRead], Owner::None);
/// Read personal data in events.
pub const PERSONAL_DATA_READ: Permission =
    permission("personal_data.read", &[TenantAdmin], &[Scope::PersonalDataRead], Owner::None);
/// Read users. A user may read itself.
pub const USERS_READ: Permission =
    permission("users.read", &[TenantAdmin], &[Scope::UsersRead], Owner::Itself);
/// Add users, change roles, deactivate users.
pub const USERS_WRITE: Permission =
    permission("users.write", &[TenantAdmin, PlatformAdmin], &[Scope::UsersWrite], Owner::None);
/// Administer a tenant: service tokens, webhooks, integrators' credentials, erasures.
pub const TENANT_ADMINISTER: Permission = permission("tenant.administer", &[TenantAdmin], &[], Owner::None);
/// Register, suspend and resume tenants. Only held in the tenant `platform`.
pub const TENANTS_WRITE: Permission =
    permission("tenants.write", &[PlatformAdmin], &[Scope::TenantsWrite], Owner::None);

/// The permission to read the rows of a read model. If the rows have an owner, a user may read its own.
pub const fn read_permission(model: &'static Model) -> Permission {
    Permission {
        name: model.name,
        roles: &[TenantAdmin],
        scopes: std::slice::from_ref(&model.visible_to),
        owner: if model.owner.is_some() { Owner::Itself } else { Owner::None },
    }
}

/// The permissions of commands. A command that is not listed is only for parts of the product.
pub static COMMANDS: Registry<Permission> = Registry::of(&[
    permission("RegisterTenant", &[PlatformAdmin], &[Scope::TenantsWrite], Owner::None),
    permission("SuspendTenant", &[PlatformAdmin], &[Scope::TenantsWrite], Owner::None),
    permission("ResumeTenant", &[PlatformAdmin], &[Scope::TenantsWrite], Owner::None),
    // Registration also depends on the tenant and on the requested roles: see the use case of registration.
    permission("RegisterUser", &[], &[], Owner::Any),
    permission("ConfirmUserEmail", &[TenantAdmin], &[Scope::UsersWrite], Owner::None),
    permission("ChangeUserName", &[TenantAdmin], &[Scope::UsersWrite], Owner::Itself),
    // Changing roles depends on more rules: see the use cases of administration.
    permission("DeactivateUser", &[TenantAdmin], &[Scope::UsersWrite], Owner::None),
    permission("ChangeUserRoles", &[TenantAdmin, PlatformAdmin], &[Scope::UsersWrite], Owner::None),
    permission("RegisterCustomer", &[TenantAdmin], &[Scope::CrmWrite], Owner::None),
    permission("RenameCustomer", &[TenantAdmin], &[Scope::CrmWrite], Owner::None),
    permission("ChangeCustomerContact", &[TenantAdmin], &[Scope::CrmWrite], Owner::None),
    permission("ResumeCustomer", &[TenantAdmin], &[Scope::CrmWrite], Owner::None),
    permission("SuspendCustomer", &[TenantAdmin], &[Scope::CrmWrite], Owner::None),
    permission("CloseCustomer", &[TenantAdmin], &[Scope::CrmWrite], Owner::None),
    // The category of the event type decides: see `Principal::may_register_types`.
    permission("RegisterEventType", &[], &[], Owner::Any),
    permission("IssueServiceToken", &[TenantAdmin], &[], Owner::None),
    permission("RevokeServiceToken", &[TenantAdmin], &[], Owner::None),
    permission("RequestErasure", &[TenantAdmin], &[], Owner::None),
    // Only sent by the erasure process.
    permission("RecordErasure", &[], &[], Owner::None),
    permission("EraseUser", &[], &[], Owner::None),
    permission("EraseCustomer", &[], &[], Owner::None),
]);

/// The permission of a command, by the command's name.
pub fn command_permission(name: &str) -> Option<&'static Permission> {
    COMMANDS.iter().find(|permission| permission.name == name)
}

/// Whether the caller may send the command about the aggregate `target`.
pub fn permits(principal: &Principal, command: &str, target: Uuid) -> bool {
    principal.is_system()
        || command_permission(command).is_some_and(|permission| permission.permits(principal, target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_may_change_its_own_name_and_nothing_else() {
        let me = Uuid::from_u128(1);
        let member = Principal::user(me, vec![Role::Member]);
        assert!(permits(&member, "ChangeUserName", me));
        assert!(!permits(&member, "ChangeUserName", Uuid::from_u128(2)));
        for command in ["DeactivateUser", "ConfirmUserEmail", "RenameCustomer", "RegisterTenant"] {
            assert!(!permits(&member, command, me), "{command}");
        }
    }

    #[test]
    fn an_auditor_may_send_no_command_at_all() {
        let me = Uuid::from_u128(1);
        let auditor = Principal::user(me, vec![Role::Auditor]);
        for permission in COMMANDS.iter().filter(|permission| permission.owner != Owner::Any) {
            assert!(!permits(&auditor, permission.name, me), "{}", permission.name);
        }
        assert!(permits(&Principal::user(me, vec![Role::Auditor, Role::Member]), "ChangeUserName", me));
    }

    #[test]
    fn a_scope_serves_where_the_role_is_missing() {
        let service = |scopes| Principal::Service { id: Uuid::from_u128(1), scopes };
        assert!(!permits(&service(vec![]), "CloseCustomer", Uuid::nil()));
        assert!(permits(&service(vec![Scope::CrmWrite]), "CloseCustomer", Uuid::nil()));
        assert!(!permits(&service(vec![Scope::CrmWrite]), "RegisterTenant", Uuid::nil()));
    }

    #[test]
    fn a_service_is_the_owner_of_nothing() {
        let id = Uuid::from_u128(1);
        let service = Principal::Service { id, scopes: vec![] };
        assert!(!permits(&service, "ChangeUserName", id));
        assert!(!USERS_READ.permits(&service, id));
    }

    #[test]
    fn a_tenant_admin_runs_its_tenant_but_not_the_platform() {
        let admin = Principal::user(Uuid::from_u128(1), vec![Role::TenantAdmin]);
        assert!(permits(&admin, "CloseCustomer", Uuid::nil()));
        assert!(permits(&admin, "DeactivateUser", Uuid::nil()));
        assert!(!permits(&admin, "RegisterTenant", Uuid::nil()));
        let platform = Principal::user(Uuid::nil(), vec![Role::PlatformAdmin]);
        assert!(permits(&platform, "RegisterTenant", Uuid::nil()));
    }

    #[test]
    fn parts_of_the_product_may_do_everything() {
        assert!(permits(&Principal::saga("customer_onboarding"), "RegisterCustomer", Uuid::nil()));
        assert!(permits(&Principal::system("cli"), "SomethingUnlisted", Uuid::nil()));
        assert!(!permits(&Principal::Anonymous, "SomethingUnlisted", Uuid::nil()));
    }

    #[test]
    fn a_refused_caller_learns_what_it_lacks() {
        assert_eq!(USERS_READ.to_string(), "tenant_admin or the scope users:read");
    }
}
