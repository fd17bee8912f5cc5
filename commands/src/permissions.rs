//! Who may send what, as a table. It is looked up before anything is loaded, so that a refusal tells nothing about what
//! exists. A command that does not stand here is for parts of the product only.

use schemas::identity::role::Role;
use uuid::Uuid;

use crate::engine::context::Caller;

/// Who may send a command besides those with a role or a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// Nobody.
    Nobody,
    /// The user whom the command is about, unless it does nothing but audit.
    TheUserItself,
    /// Anybody, signed in or not: the use case checks further.
    Anybody,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Permission {
    /// The command's name.
    pub command: &'static str,
    /// A caller with one of these roles may.
    pub roles: &'static [Role],
    /// A caller with one of these scopes may.
    pub scopes: &'static [&'static str],
    /// Who else may.
    pub others: Others,
}

const fn row(
    command: &'static str,
    roles: &'static [Role],
    scopes: &'static [&'static str],
    others: Others,
) -> Permission {
    Permission { command, roles, scopes, others }
}

use Others::{Anybody, Nobody, TheUserItself};
use Role::{PlatformAdmin, TenantAdmin};

/// The table.
pub const PERMISSIONS: &[Permission] = &[
    row("RegisterTenant", &[PlatformAdmin], &["tenants:write"], Nobody),
    row("SuspendTenant", &[PlatformAdmin], &["tenants:write"], Nobody),
    row("ResumeTenant", &[PlatformAdmin], &["tenants:write"], Nobody),
    // Who may register depends on the tenant and on the roles asked for: see `identity::registration`.
    row("RegisterUser", &[], &[], Anybody),
    row("ConfirmUserEmail", &[TenantAdmin], &["users:write"], Nobody),
    row("ChangeUserName", &[TenantAdmin], &["users:write"], TheUserItself),
    // Who may take and give which roles depends on more: see `identity::administration`.
    row("DeactivateUser", &[TenantAdmin], &["users:write"], Nobody),
    row("ChangeUserRoles", &[TenantAdmin, PlatformAdmin], &["users:write"], Nobody),
    row("RegisterCustomer", &[TenantAdmin], &["crm:write"], Nobody),
    row("RenameCustomer", &[TenantAdmin], &["crm:write"], Nobody),
    row("SuspendCustomer", &[TenantAdmin], &["crm:write"], Nobody),
    row("CloseCustomer", &[TenantAdmin], &["crm:write"], Nobody),
    // Scopes of a category decide: see `integration::event_type`.
    row("RegisterEventType", &[], &[], Anybody),
    row("IssueServiceToken", &[TenantAdmin], &[], Nobody),
    row("RevokeServiceToken", &[TenantAdmin], &[], Nobody),
    row("RequestErasure", &[TenantAdmin], &[], Nobody),
    // Sent by the erasure itself.
    row("RecordErasure", &[], &[], Nobody),
    row("EraseUser", &[], &[], Nobody),
    row("EraseCustomer", &[], &[], Nobody),
];

/// Whether the caller may send the command about the aggregate `target`.
pub fn permits(caller: &Caller, command: &str, target: Uuid) -> bool {
    if caller.is_system() {
        return true;
    }
    let Some(permission) = PERMISSIONS.iter().find(|permission| permission.command == command) else {
        return false;
    };
    permission.roles.iter().any(|role| caller.roles.contains(role))
        || permission.scopes.iter().any(|scope| caller.scopes.iter().any(|has| has == scope))
        || match permission.others {
            Nobody => false,
            TheUserItself => {
                caller.user_id == Some(target) && caller.roles.iter().any(|role| *role != Role::Auditor)
            }
            Anybody => true,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::rules::CommandSet;
    use crate::{
        CustomerCommand, EventTypeCommand, ServiceTokenCommand, SubjectCommand, TenantCommand, UserCommand,
    };

    #[test]
    fn every_command_stands_in_the_table_once() {
        let mut commands = [
            CustomerCommand::NAMES,
            TenantCommand::NAMES,
            UserCommand::NAMES,
            EventTypeCommand::NAMES,
            ServiceTokenCommand::NAMES,
            SubjectCommand::NAMES,
        ]
        .concat();
        let mut rows: Vec<_> = PERMISSIONS.iter().map(|permission| permission.command).collect();
        commands.sort_unstable();
        rows.sort_unstable();
        assert_eq!(rows, commands);
    }

    #[test]
    fn a_member_may_change_its_own_name_and_nothing_else() {
        let me = Uuid::from_u128(1);
        let member = Caller::user(me, vec![Role::Member]);
        assert!(permits(&member, "ChangeUserName", me));
        assert!(!permits(&member, "ChangeUserName", Uuid::from_u128(2)));
        for command in ["DeactivateUser", "ConfirmUserEmail", "RenameCustomer", "RegisterTenant"] {
            assert!(!permits(&member, command, me), "{command}");
        }
    }

    #[test]
    fn an_auditor_may_send_no_command_at_all() {
        let me = Uuid::from_u128(1);
        let auditor = Caller::user(me, vec![Role::Auditor]);
        for permission in PERMISSIONS.iter().filter(|permission| permission.others != Others::Anybody) {
            assert!(!permits(&auditor, permission.command, me), "{}", permission.command);
        }
        assert!(permits(&Caller::user(me, vec![Role::Auditor, Role::Member]), "ChangeUserName", me));
    }

    #[test]
    fn a_scope_serves_where_the_role_is_missing() {
        let mut service = Caller::user(Uuid::from_u128(1), vec![]);
        assert!(!permits(&service, "CloseCustomer", Uuid::nil()));
        service.scopes.push("crm:write".to_owned());
        assert!(permits(&service, "CloseCustomer", Uuid::nil()));
        assert!(!permits(&service, "RegisterTenant", Uuid::nil()));
    }

    #[test]
    fn a_tenant_admin_runs_its_tenant_but_not_the_platform() {
        let admin = Caller::user(Uuid::from_u128(1), vec![Role::TenantAdmin]);
        assert!(permits(&admin, "CloseCustomer", Uuid::nil()));
        assert!(permits(&admin, "DeactivateUser", Uuid::nil()));
        assert!(!permits(&admin, "RegisterTenant", Uuid::nil()));
        assert!(permits(
            &Caller::user(Uuid::nil(), vec![Role::PlatformAdmin]),
            "RegisterTenant",
            Uuid::nil()
        ));
    }

    #[test]
    fn parts_of_the_product_may_do_everything() {
        assert!(permits(&Caller::system("saga:customer_onboarding"), "RegisterCustomer", Uuid::nil()));
        assert!(permits(&Caller::system("cli"), "SomethingUnlisted", Uuid::nil()));
        assert!(!permits(&Caller::anonymous(), "SomethingUnlisted", Uuid::nil()));
    }
}
