//! The policy: who may read what, and who may send which command. Routes, GraphQL fields and the executor ask here, before
//! anything is loaded, so that a refusal tells nothing about what exists.

use std::fmt;

use schemas::identity::role::Role;
use schemas::identity::scope::Scope;
use uuid::Uuid;

use crate::Principal;

/// Who holds a permission besides the roles and scopes that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Only the named roles and scopes.
    None,
    /// The user that the command or row is about, unless its only role is auditor.
    Itself,
    /// Every caller, signed in or not. The use case checks further.
    Any,
}

/// What a caller needs for a read or a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permission {
    /// The name: a command's, or `<what>.read`.
    pub name: &'static str,
    /// A user with one of these roles holds it.
    pub roles: &'static [Role],
    /// A user or service with one of these scopes holds it.
    pub scopes: &'static [Scope],
    /// Who else holds it.
    pub owner: Owner,
}

impl Permission {
    /// Whether the caller holds the permission without being the owner of anything.
    pub fn is_held_by(&self, principal: &Principal) -> bool {
        principal.is_system()
            || self.owner == Owner::Any
            || self.roles.iter().any(|role| principal.has_role(*role))
            || self.scopes.iter().any(|scope| principal.has_scope(scope))
    }

    /// Whether the caller holds the permission for what belongs to the user `target`.
    pub fn permits(&self, principal: &Principal, target: Uuid) -> bool {
        self.is_held_by(principal) || self.owner == Owner::Itself && owns(principal, target)
    }
}

impl fmt::Display for Permission {
    /// What a refused caller lacks: `tenant_admin or the scope crm:read`.
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

/// Reads proofs, exports, the activity log and the past of read models.
pub const AUDIT_READ: Permission = permission("audit.read", &[TenantAdmin], &[Scope::AuditRead], Owner::None);
/// Finds the position of a time: for those who read events or audit.
pub const POSITIONS_READ: Permission =
    permission("positions.read", &[TenantAdmin], &[Scope::EventsRead, Scope::AuditRead], Owner::None);
/// Reads events, follows them, and reads event types.
pub const EVENTS_READ: Permission =
    permission("events.read", &[TenantAdmin], &[Scope::EventsRead], Owner::None);
/// Reads personal data in events.
pub const PERSONAL_DATA_READ: Permission =
    permission("personal_data.read", &[TenantAdmin], &[Scope::PersonalDataRead], Owner::None);
/// Reads users; a user reads itself.
pub const USERS_READ: Permission =
    permission("users.read", &[TenantAdmin], &[Scope::UsersRead], Owner::Itself);
/// Adds users, gives roles, deactivates.
pub const USERS_WRITE: Permission =
    permission("users.write", &[TenantAdmin, PlatformAdmin], &[Scope::UsersWrite], Owner::None);
/// Reads customers; a user reads the customer that it is.
pub const CUSTOMERS_READ: Permission =
    permission("customers.read", &[TenantAdmin], &[Scope::CrmRead], Owner::Itself);
/// Runs one tenant: service tokens, webhooks, integrators' credentials, erasures.
pub const TENANT_ADMINISTER: Permission = permission("tenant.administer", &[TenantAdmin], &[], Owner::None);
/// Registers, suspends and resumes tenants. Held in the tenant `platform` alone.
pub const TENANTS_WRITE: Permission =
    permission("tenants.write", &[PlatformAdmin], &[Scope::TenantsWrite], Owner::None);

/// The commands that a caller may send. A command that is not listed is for parts of the product only.
pub const COMMANDS: &[Permission] = &[
    permission("RegisterTenant", &[PlatformAdmin], &[Scope::TenantsWrite], Owner::None),
    permission("SuspendTenant", &[PlatformAdmin], &[Scope::TenantsWrite], Owner::None),
    permission("ResumeTenant", &[PlatformAdmin], &[Scope::TenantsWrite], Owner::None),
    // Who may register depends on the tenant and on the roles asked for: see the use case of registration.
    permission("RegisterUser", &[], &[], Owner::Any),
    permission("ConfirmUserEmail", &[TenantAdmin], &[Scope::UsersWrite], Owner::None),
    permission("ChangeUserName", &[TenantAdmin], &[Scope::UsersWrite], Owner::Itself),
    // Who may take and give which roles depends on more: see the use cases of administration.
    permission("DeactivateUser", &[TenantAdmin], &[Scope::UsersWrite], Owner::None),
    permission("ChangeUserRoles", &[TenantAdmin, PlatformAdmin], &[Scope::UsersWrite], Owner::None),
    permission("RegisterCustomer", &[TenantAdmin], &[Scope::CrmWrite], Owner::None),
    permission("RenameCustomer", &[TenantAdmin], &[Scope::CrmWrite], Owner::None),
    permission("SuspendCustomer", &[TenantAdmin], &[Scope::CrmWrite], Owner::None),
    permission("CloseCustomer", &[TenantAdmin], &[Scope::CrmWrite], Owner::None),
    // The category decides: see `Principal::may_register_types`.
    permission("RegisterEventType", &[], &[], Owner::Any),
    permission("IssueServiceToken", &[TenantAdmin], &[], Owner::None),
    permission("RevokeServiceToken", &[TenantAdmin], &[], Owner::None),
    permission("RequestErasure", &[TenantAdmin], &[], Owner::None),
    // Sent by the erasure itself.
    permission("RecordErasure", &[], &[], Owner::None),
    permission("EraseUser", &[], &[], Owner::None),
    permission("EraseCustomer", &[], &[], Owner::None),
];

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
        assert_eq!(CUSTOMERS_READ.to_string(), "tenant_admin or the scope crm:read");
    }
}
