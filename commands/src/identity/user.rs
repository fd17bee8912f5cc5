//! The rules of a user. The e-mail address is unique in the tenant: registration reserves it, and only erasure releases
//! it.

use access::ErrorCode;
use describe::rejections;
use schemas::engine::Sealed;
use schemas::engine::text::email_key;
use schemas::identity::role::Role;
use schemas::identity::user::{UserCommand, UserEvent, UserName, UserStatus};
use serde::{Deserialize, Serialize};
use store::Reservation;

use crate::engine::decider::{Decider, Facts, ReservedKind};

/// The kind of the reservation of an e-mail address.
pub const EMAIL: ReservedKind = ReservedKind { name: "email", taken: ErrorCode::EmailTaken, field: "email" };
/// The kind of the secret with a password's hash, a PHC string.
pub const PASSWORD: &str = "password";

/// Why a user command was rejected.
#[rejections]
pub enum UserRejection {
    /// The user is deactivated and cannot sign in.
    #[rejection(UserDeactivated, "the user is deactivated")]
    Deactivated,
    /// The user was erased, or its erasure was requested.
    #[rejection(UserErased, "the user was erased, or is about to be")]
    Erased,
    #[rejection(RolesEmpty, "a user needs at least one role", at = "roles")]
    RolesEmpty,
    /// The role does not exist in this tenant.
    #[rejection(RoleNotAllowed, "the role {0} cannot be given in this tenant", at = "roles")]
    RoleNotAllowed(Role),
    /// An administrator can only be removed by another administrator, so that one always remains.
    #[rejection(SelfAdminChange, "another administrator has to do this")]
    SelfAdminChange,
}

/// What the rules know of a user.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct User {
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
    type Rejection = UserRejection;

    const EXISTS: ErrorCode = ErrorCode::UserExists;
    const RESERVED_KINDS: &'static [ReservedKind] = &[EMAIL];
    const SECRET_KINDS: &'static [&'static str] = &[PASSWORD];
    const ERASE: Option<fn() -> UserCommand> = Some(|| UserCommand::EraseUser {});

    fn decide(&self, command: UserCommand, _facts: &Facts) -> Result<Vec<UserEvent>, UserRejection> {
        use UserCommand as Command;
        use UserEvent as Event;
        use UserStatus::{Active, Deactivated};

        let event = match (self.status, command) {
            (_, Command::RegisterUser { roles, .. }) if roles.is_empty() => {
                return Err(UserRejection::RolesEmpty);
            }
            (_, Command::RegisterUser { details, roles }) => {
                Event::Registered { details: Sealed::own(details), roles }
            }

            (Deactivated, Command::ConfirmUserEmail {} | Command::ChangeUserRoles { .. }) => {
                return Err(UserRejection::Deactivated);
            }
            (Active, Command::ConfirmUserEmail {}) | (Deactivated, Command::DeactivateUser { .. }) => {
                return Ok(vec![]);
            }
            (_, Command::ConfirmUserEmail {}) => Event::EmailConfirmed {},

            (_, Command::ChangeUserName { .. } | Command::ChangeUserRoles { .. }) if self.erased => {
                return Err(UserRejection::Erased);
            }
            (_, Command::ChangeUserName { name }) if name.as_str() == self.name => return Ok(vec![]),
            (_, Command::ChangeUserName { name }) => {
                Event::NameChanged { details: Sealed::own(UserName { name }) }
            }
            (_, Command::DeactivateUser { reason }) => Event::Deactivated { reason },

            (_, Command::ChangeUserRoles { roles }) if roles.is_empty() => {
                return Err(UserRejection::RolesEmpty);
            }
            (_, Command::ChangeUserRoles { roles }) => {
                let roles = ranked(roles);
                if roles == ranked(self.roles.clone()) {
                    return Ok(vec![]);
                }
                Event::RolesChanged { roles }
            }

            (_, Command::EraseUser {}) if self.erased => return Ok(vec![]),
            (_, Command::EraseUser {}) => Event::Erased {},
        };
        Ok(vec![event])
    }

    fn apply(&mut self, event: UserEvent) {
        match event {
            UserEvent::Registered { details, roles } => {
                self.roles = roles;
                if let Some(details) = details.open() {
                    (self.email, self.name) = (details.email.into(), details.name.into());
                }
            }
            UserEvent::EmailConfirmed {} => self.status = UserStatus::Active,
            UserEvent::NameChanged { details } => {
                self.name = details.open().map_or_else(String::new, |details| details.name.into());
            }
            UserEvent::Deactivated { .. } => self.status = UserStatus::Deactivated,
            UserEvent::Erased {} => {
                let (roles, status) = (std::mem::take(&mut self.roles), UserStatus::Deactivated);
                *self = Self { erased: true, roles, status, ..Self::default() };
            }
            UserEvent::RolesChanged { roles } => self.roles = roles,
        }
    }

    fn reserved(&self) -> Vec<Reservation> {
        let reserved = (!self.email.is_empty()).then(|| email_key(&self.email));
        reserved.map(|value| Reservation { kind: EMAIL.name, value }).into_iter().collect()
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
    use schemas::identity::user::UserDetails;

    use super::*;
    use crate::{CqrsAggregate, DecideError};

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a valid name")
    }

    fn details() -> UserDetails {
        UserDetails { email: Email::parse("Ada@Example.com").expect("a valid address"), name: name("Ada") }
    }

    fn register(roles: Vec<Role>) -> UserCommand {
        UserCommand::RegisterUser { details: details(), roles }
    }

    fn registered() -> UserEvent {
        UserEvent::Registered { details: Sealed::own(details()), roles: vec![Role::Member] }
    }

    fn confirmed() -> UserEvent {
        UserEvent::EmailConfirmed {}
    }

    fn deactivated() -> UserEvent {
        UserEvent::Deactivated { reason: None }
    }

    fn rejected(rejection: UserRejection) -> DecideError<UserRejection> {
        DecideError::Rejected(rejection)
    }

    fn given(events: Vec<UserEvent>) -> AggregateTestExecutor<CqrsAggregate<User>> {
        TestFramework::with(()).given(events)
    }

    #[test]
    fn somebody_registers_once_and_with_a_role() {
        given(vec![]).when(register(vec![Role::Member])).then_expect_events(vec![registered()]);
        given(vec![]).when(register(vec![])).then_expect_error(rejected(UserRejection::RolesEmpty));
        given(vec![registered()]).when(register(vec![Role::Member])).then_expect_error(DecideError::Exists);
    }

    #[test]
    fn registering_reserves_the_address_in_lower_case() {
        let mut user = User::default();
        assert!(user.reserved().is_empty());
        user.apply(registered());
        let reserved = user.reserved();
        assert_eq!((reserved[0].kind, reserved[0].value.as_str()), ("email", "ada@example.com"));
        user.apply(confirmed());
        assert_eq!(user.reserved(), reserved);
    }

    #[test]
    fn an_address_is_confirmed_once() {
        given(vec![registered()])
            .when(UserCommand::ConfirmUserEmail {})
            .then_expect_events(vec![confirmed()]);
        given(vec![registered(), confirmed()])
            .when(UserCommand::ConfirmUserEmail {})
            .then_expect_events(vec![]);
    }

    #[test]
    fn a_deactivated_user_confirms_nothing() {
        given(vec![registered(), deactivated()])
            .when(UserCommand::ConfirmUserEmail {})
            .then_expect_error(rejected(UserRejection::Deactivated));
    }

    #[test]
    fn a_name_changes_and_the_same_name_records_nothing() {
        let change = |text| UserCommand::ChangeUserName { name: name(text) };
        let details = Sealed::own(UserName { name: name("Bo") });
        let changed = UserEvent::NameChanged { details };
        given(vec![registered()]).when(change("Bo")).then_expect_events(vec![changed]);
        given(vec![registered()]).when(change("Ada")).then_expect_events(vec![]);
    }

    #[test]
    fn a_user_is_deactivated_once() {
        let deactivate = UserCommand::DeactivateUser { reason: None };
        given(vec![registered(), confirmed()])
            .when(deactivate.clone())
            .then_expect_events(vec![deactivated()]);
        given(vec![registered(), deactivated()]).when(deactivate).then_expect_events(vec![]);
    }

    #[test]
    fn roles_change_as_a_set_and_are_never_none() {
        let change = |roles: &[Role]| UserCommand::ChangeUserRoles { roles: roles.to_vec() };
        let changed = |roles: &[Role]| UserEvent::RolesChanged { roles: roles.to_vec() };
        given(vec![registered()])
            .when(change(&[Role::Auditor, Role::Member, Role::Auditor]))
            .then_expect_events(vec![changed(&[Role::Member, Role::Auditor])]);
        given(vec![registered()]).when(change(&[Role::Member])).then_expect_events(vec![]);
        given(vec![registered(), changed(&[Role::Auditor])])
            .when(change(&[Role::Auditor]))
            .then_expect_events(vec![]);
        given(vec![registered()]).when(change(&[])).then_expect_error(rejected(UserRejection::RolesEmpty));
        given(vec![registered(), deactivated()])
            .when(change(&[Role::Auditor]))
            .then_expect_error(rejected(UserRejection::Deactivated));
    }

    #[test]
    fn an_unknown_user_can_only_register() {
        let change = UserCommand::ChangeUserName { name: name("Bo") };
        for command in
            [change, UserCommand::ConfirmUserEmail {}, UserCommand::DeactivateUser { reason: None }]
        {
            given(vec![]).when(command).then_expect_error(DecideError::NotFound);
        }
    }

    #[test]
    fn an_erased_user_is_deactivated_and_nobody() {
        let erase = UserCommand::EraseUser {};
        let erased = UserEvent::Erased {};
        given(vec![]).when(erase.clone()).then_expect_error(DecideError::NotFound);
        given(vec![registered()]).when(erase.clone()).then_expect_events(vec![erased.clone()]);
        given(vec![registered(), erased.clone()]).when(erase).then_expect_events(vec![]);
        given(vec![registered(), erased.clone()])
            .when(UserCommand::ChangeUserName { name: name("Bo") })
            .then_expect_error(rejected(UserRejection::Erased));

        let mut user = User::default();
        for event in [registered(), erased] {
            user.apply(event);
        }
        assert!(user.erased && user.reserved().is_empty() && user.name.is_empty());
        assert_eq!(user.status, UserStatus::Deactivated);
    }

    #[test]
    fn the_fold_goes_on_where_keys_are_destroyed() {
        let details = Sealed::Erased { subject: uuid::Uuid::from_u128(3) };
        let registered = UserEvent::Registered { details, roles: vec![Role::Member] };
        let mut user = User::default();
        user.apply(registered);
        assert!(user.reserved().is_empty());
        assert!(user.email.is_empty() && user.roles == [Role::Member]);
    }
}
