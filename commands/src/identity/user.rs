//! The rules of a user. The e-mail address is unique in the tenant: registration reserves it, and only erasure releases
//! it.

use access::ErrorCode;
use schemas::engine::Sealed;
use schemas::identity::role::Role;
use schemas::identity::user::{
    ChangeUserName, ChangeUserRoles, ConfirmUserEmail, DeactivateUser, EraseUser, RegisterUser,
    UserDeactivated, UserDetails, UserEmailConfirmed, UserErased, UserEvent, UserName, UserNameChanged,
    UserRegistered, UserRolesChanged, UserStatus,
};
use serde::{Deserialize, Serialize};
use store::Reservation;

use crate::engine::decider::{Decider, Rejection};

/// The kind of the reservation of an e-mail address.
pub const EMAIL: &str = "email";
/// The kind of the secret with a password's hash, a PHC string.
pub const PASSWORD: &str = "password";

crate::commands! {
    /// The commands of a user.
    pub enum UserCommand {
        creates Register(RegisterUser);
        changes ConfirmEmail(ConfirmUserEmail), ChangeName(ChangeUserName), Deactivate(DeactivateUser),
            ChangeRoles(ChangeUserRoles), Erase(EraseUser);
    }
}

/// Why a user command was rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserRejection {
    /// A user with this id exists.
    #[error("the user is registered already")]
    AlreadyRegistered,
    /// The user does not exist.
    #[error("there is no such user")]
    NotRegistered,
    /// The user is deactivated and cannot sign in.
    #[error("the user is deactivated")]
    Deactivated,
    /// The user was erased, or its erasure was requested.
    #[error("the user was erased, or is about to be")]
    Erased,
    /// The list of roles is empty.
    #[error("a user needs at least one role")]
    RolesEmpty,
    /// The role does not exist in this tenant.
    #[error("the role {0} cannot be given in this tenant")]
    RoleNotAllowed(Role),
    /// An administrator can only be removed by another administrator, so that one always remains.
    #[error("another administrator has to do this")]
    SelfAdminChange,
}

impl Rejection for UserRejection {
    fn code(&self) -> ErrorCode {
        match self {
            Self::AlreadyRegistered => ErrorCode::UserExists,
            Self::NotRegistered => ErrorCode::UserUnknown,
            Self::Deactivated => ErrorCode::UserDeactivated,
            Self::Erased => ErrorCode::UserErased,
            Self::RolesEmpty => ErrorCode::RolesEmpty,
            Self::RoleNotAllowed(_) => ErrorCode::RoleNotAllowed,
            Self::SelfAdminChange => ErrorCode::SelfAdminChange,
        }
    }
}

/// A user, folded from its events.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct User {
    /// False before the first event.
    pub registered: bool,
    /// Whether the user was erased, so that its personal data is lost.
    pub erased: bool,
    /// E-mail address; empty after an erasure.
    pub email: String,
    /// Name; empty after an erasure.
    pub name: String,
    /// Roles, each once, in order of rank.
    pub roles: Vec<Role>,
    /// Whether the user is active.
    pub status: UserStatus,
}

impl Decider for User {
    type Command = UserCommand;
    type Event = UserEvent;
    type Error = UserRejection;

    fn apply(&mut self, event: UserEvent) {
        match event {
            UserEvent::Registered(registered) => {
                *self = Self { registered: true, roles: registered.roles, ..Self::default() };
                if let Some(details) = registered.details.open() {
                    self.email = details.email.into();
                    self.name = details.name.into();
                }
            }
            UserEvent::EmailConfirmed(_) => self.status = UserStatus::Active,
            UserEvent::NameChanged(changed) => {
                self.name = changed.details.open().map_or_else(String::new, |details| details.name.into());
            }
            UserEvent::Deactivated(_) => self.status = UserStatus::Deactivated,
            UserEvent::Erased(_) => {
                let (roles, status) = (std::mem::take(&mut self.roles), UserStatus::Deactivated);
                *self = Self { registered: true, erased: true, roles, status, ..Self::default() };
            }
            UserEvent::RolesChanged(changed) => self.roles = changed.roles,
        }
    }

    fn decide(&self, command: UserCommand) -> Result<Vec<UserEvent>, UserRejection> {
        use UserCommand as Command;
        use UserStatus::{Active, Deactivated};

        match (self.registered, self.status, command) {
            (false, _, Command::Register(new)) if new.roles.is_empty() => Err(UserRejection::RolesEmpty),
            (false, _, Command::Register(RegisterUser { email, name, roles })) => {
                let details = Sealed::own(UserDetails { email, name });
                Ok(vec![UserEvent::Registered(UserRegistered { details, roles })])
            }
            (true, _, Command::Register(_)) => Err(UserRejection::AlreadyRegistered),
            (false, _, _) => Err(UserRejection::NotRegistered),

            (_, Deactivated, Command::ConfirmEmail(_) | Command::ChangeRoles(_)) => {
                Err(UserRejection::Deactivated)
            }
            (_, Active, Command::ConfirmEmail(_)) | (_, Deactivated, Command::Deactivate(_)) => {
                Ok(Vec::new())
            }
            (_, _, Command::ConfirmEmail(_)) => Ok(vec![UserEvent::EmailConfirmed(UserEmailConfirmed {})]),

            (_, _, Command::ChangeName(_) | Command::ChangeRoles(_)) if self.erased => {
                Err(UserRejection::Erased)
            }
            (_, _, Command::ChangeName(ChangeUserName { name })) if name.as_str() == self.name => {
                Ok(Vec::new())
            }
            (_, _, Command::ChangeName(ChangeUserName { name })) => {
                let details = Sealed::own(UserName { name });
                Ok(vec![UserEvent::NameChanged(UserNameChanged { details })])
            }
            (_, _, Command::Deactivate(DeactivateUser { reason })) => {
                Ok(vec![UserEvent::Deactivated(UserDeactivated { reason })])
            }

            (_, _, Command::ChangeRoles(ChangeUserRoles { roles })) if roles.is_empty() => {
                Err(UserRejection::RolesEmpty)
            }
            (_, _, Command::ChangeRoles(ChangeUserRoles { roles })) => {
                let (roles, held) = (ranked(roles), ranked(self.roles.clone()));
                let changed = (roles != held).then_some(UserEvent::RolesChanged(UserRolesChanged { roles }));
                Ok(changed.into_iter().collect())
            }

            (_, _, Command::Erase(EraseUser {})) if self.erased => Ok(Vec::new()),
            (_, _, Command::Erase(EraseUser {})) => Ok(vec![UserEvent::Erased(UserErased {})]),
        }
    }

    fn exists(&self) -> bool {
        self.registered
    }

    fn reservations(event: &UserEvent) -> Vec<Reservation> {
        match event {
            UserEvent::Registered(registered) => {
                let reserved =
                    |details: &UserDetails| Reservation { kind: EMAIL, value: details.email.normalised() };
                registered.details.as_open().map(reserved).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }
}

/// Removes duplicates and sorts by rank.
fn ranked(mut roles: Vec<Role>) -> Vec<Role> {
    roles.sort_unstable();
    roles.dedup();
    roles
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::{AggregateTestExecutor, TestFramework};
    use schemas::engine::{Email, Name};

    use super::*;
    use crate::CqrsAggregate;

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a valid name")
    }

    fn register(roles: Vec<Role>) -> RegisterUser {
        RegisterUser {
            email: Email::parse("Ada@Example.com").expect("a valid address"),
            name: name("Ada"),
            roles,
        }
    }

    fn registered() -> UserEvent {
        let RegisterUser { email, name, roles } = register(vec![Role::Member]);
        UserEvent::Registered(UserRegistered { details: Sealed::own(UserDetails { email, name }), roles })
    }

    fn confirmed() -> UserEvent {
        UserEvent::EmailConfirmed(UserEmailConfirmed {})
    }

    fn deactivated() -> UserEvent {
        UserEvent::Deactivated(UserDeactivated { reason: None })
    }

    fn given(events: Vec<UserEvent>) -> AggregateTestExecutor<CqrsAggregate<User>> {
        TestFramework::with(()).given(events)
    }

    #[test]
    fn somebody_registers_once_and_with_a_role() {
        given(vec![]).when(register(vec![Role::Member]).into()).then_expect_events(vec![registered()]);
        given(vec![]).when(register(vec![]).into()).then_expect_error(UserRejection::RolesEmpty);
        given(vec![registered()])
            .when(register(vec![Role::Member]).into())
            .then_expect_error(UserRejection::AlreadyRegistered);
    }

    #[test]
    fn registering_reserves_the_address_in_lower_case() {
        let reserved = User::reservations(&registered());
        assert_eq!((reserved[0].kind, reserved[0].value.as_str()), ("email", "ada@example.com"));
        assert!(User::reservations(&confirmed()).is_empty());
    }

    #[test]
    fn an_address_is_confirmed_once() {
        given(vec![registered()]).when(ConfirmUserEmail {}.into()).then_expect_events(vec![confirmed()]);
        given(vec![registered(), confirmed()]).when(ConfirmUserEmail {}.into()).then_expect_events(vec![]);
    }

    #[test]
    fn a_deactivated_user_confirms_nothing() {
        given(vec![registered(), deactivated()])
            .when(ConfirmUserEmail {}.into())
            .then_expect_error(UserRejection::Deactivated);
    }

    #[test]
    fn a_name_changes_and_the_same_name_records_nothing() {
        let change = |text| UserCommand::from(ChangeUserName { name: name(text) });
        let details = Sealed::own(UserName { name: name("Bo") });
        let changed = UserEvent::NameChanged(UserNameChanged { details });
        given(vec![registered()]).when(change("Bo")).then_expect_events(vec![changed]);
        given(vec![registered()]).when(change("Ada")).then_expect_events(vec![]);
    }

    #[test]
    fn a_user_is_deactivated_once() {
        let deactivate = UserCommand::from(DeactivateUser { reason: None });
        given(vec![registered(), confirmed()])
            .when(deactivate.clone())
            .then_expect_events(vec![deactivated()]);
        given(vec![registered(), deactivated()]).when(deactivate).then_expect_events(vec![]);
    }

    #[test]
    fn roles_change_as_a_set_and_are_never_none() {
        let change = |roles: &[Role]| UserCommand::from(ChangeUserRoles { roles: roles.to_vec() });
        let changed = |roles: &[Role]| UserEvent::RolesChanged(UserRolesChanged { roles: roles.to_vec() });
        given(vec![registered()])
            .when(change(&[Role::Auditor, Role::Member, Role::Auditor]))
            .then_expect_events(vec![changed(&[Role::Member, Role::Auditor])]);
        given(vec![registered()]).when(change(&[Role::Member])).then_expect_events(vec![]);
        given(vec![registered(), changed(&[Role::Auditor])])
            .when(change(&[Role::Auditor]))
            .then_expect_events(vec![]);
        given(vec![registered()]).when(change(&[])).then_expect_error(UserRejection::RolesEmpty);
        given(vec![registered(), deactivated()])
            .when(change(&[Role::Auditor]))
            .then_expect_error(UserRejection::Deactivated);
    }

    #[test]
    fn an_unknown_user_can_only_register() {
        let change = UserCommand::from(ChangeUserName { name: name("Bo") });
        for command in [change, ConfirmUserEmail {}.into(), DeactivateUser { reason: None }.into()] {
            given(vec![]).when(command).then_expect_error(UserRejection::NotRegistered);
        }
    }

    #[test]
    fn an_erased_user_is_deactivated_and_nobody() {
        let erase = UserCommand::from(EraseUser {});
        let erased = UserEvent::Erased(UserErased {});
        given(vec![]).when(erase.clone()).then_expect_error(UserRejection::NotRegistered);
        given(vec![registered()]).when(erase.clone()).then_expect_events(vec![erased.clone()]);
        given(vec![registered(), erased.clone()]).when(erase).then_expect_events(vec![]);
        given(vec![registered(), erased.clone()])
            .when(ChangeUserName { name: name("Bo") }.into())
            .then_expect_error(UserRejection::Erased);

        let mut user = User::default();
        for event in [registered(), erased] {
            user.apply(event);
        }
        assert!(user.erased && user.email.is_empty() && user.name.is_empty());
        assert_eq!(user.status, UserStatus::Deactivated);
    }

    #[test]
    fn the_fold_goes_on_where_keys_are_destroyed() {
        let details = Sealed::Erased { subject: uuid::Uuid::from_u128(3) };
        let registered = UserEvent::Registered(UserRegistered { details, roles: vec![Role::Member] });
        assert!(User::reservations(&registered).is_empty());
        let mut user = User::default();
        user.apply(registered);
        assert!(user.registered && user.email.is_empty() && user.roles == [Role::Member]);
    }
}
