//! The read model of users. Sign-in does not read it; it uses the reservation and the secret.

use chrono::{DateTime, Utc};
use schemas::engine::{Event, RecordedEvent};
use schemas::identity::role::Role;
use schemas::identity::user::{UserEvent, UserStatus};
use serde::{Deserialize, Serialize};
use store::ReadTable;
use uuid::Uuid;

use crate::engine::error::ProjectionError;
use crate::engine::projection::Projection;

/// The users of a tenant.
pub struct Users;

/// A user in lists and look-ups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserRow {
    /// The id of the user.
    pub id: Uuid,
    /// E-mail address; empty after an erasure.
    pub email: String,
    /// The key under which the address is looked up.
    pub email_key: String,
    /// Name; empty after an erasure.
    pub name: String,
    /// Roles in order of rank.
    pub roles: Vec<Role>,
    /// Status of the user.
    pub status: UserStatus,
    /// The version of the user's stream.
    pub version: u64,
    /// When the user was registered.
    pub registered_at: DateTime<Utc>,
    /// When the user was last changed.
    pub updated_at: DateTime<Utc>,
}

impl Projection for Users {
    type Row = UserRow;

    const NAME: &'static str = "users";
    const VERSION: u32 = 1;
    const SCOPE: &'static str = "users:read";
    const TABLE: ReadTable = ReadTable {
        name: "users_v1",
        columns: r#"id uuid not null, email text not null, email_key text collate "C" not null,
            name text collate "C" not null, roles text[] not null, status text collate "C" not null,
            version bigint not null, registered_at timestamptz not null, updated_at timestamptz not null"#,
        key: "id",
        indexes: &[
            "registered_at, id",
            "name, id",
            "status, registered_at, id",
            "status, name, id",
            "email_key, id",
        ],
    };

    const CATEGORY: &'static str = UserEvent::CATEGORY;

    fn key(event: &RecordedEvent) -> Option<Uuid> {
        (event.stream.category() == UserEvent::CATEGORY).then(|| event.stream.uuid()).flatten()
    }

    fn apply(row: Option<UserRow>, event: &RecordedEvent) -> Result<Option<UserRow>, ProjectionError> {
        let out_of_place =
            |reason| ProjectionError::OutOfSequence { event_type: event.event_type.to_string(), reason };
        let decoded = event.decode::<UserEvent>()?;
        let decoded = decoded.ok_or_else(|| ProjectionError::UnknownType(event.event_type.to_string()))?;
        let id = event.stream.uuid().ok_or_else(|| out_of_place("the stream's id is no UUID"))?;
        let row = match (row, decoded) {
            (None, UserEvent::Registered(registered)) => {
                let row = anonymised_row(id, registered.roles, event.recorded_at);
                match registered.details.open() {
                    Some(details) => UserRow {
                        email_key: details.email.normalised(),
                        email: details.email.into(),
                        name: details.name.into(),
                        ..row
                    },
                    None => row,
                }
            }
            (Some(_), UserEvent::Registered(_)) => {
                return Err(out_of_place("the user is registered already"));
            }
            (None, _) => return Err(out_of_place("the user is not registered")),
            (Some(row), UserEvent::EmailConfirmed(_)) => UserRow { status: UserStatus::Active, ..row },
            (Some(row), UserEvent::NameChanged(changed)) => {
                let name = changed.details.open().map_or_else(String::new, |details| details.name.into());
                UserRow { name, ..row }
            }
            (Some(row), UserEvent::Deactivated(_)) => UserRow { status: UserStatus::Deactivated, ..row },
            (Some(row), UserEvent::Erased(_)) => UserRow {
                status: UserStatus::Deactivated,
                ..anonymised_row(id, row.roles, row.registered_at)
            },
            (Some(row), UserEvent::RolesChanged(changed)) => UserRow { roles: changed.roles, ..row },
        };
        Ok(Some(UserRow { version: event.version, updated_at: event.recorded_at, ..row }))
    }
}

/// A user without personal data, as after an erasure.
fn anonymised_row(id: Uuid, roles: Vec<Role>, registered_at: DateTime<Utc>) -> UserRow {
    UserRow {
        id,
        email: String::new(),
        email_key: String::new(),
        name: String::new(),
        roles,
        status: UserStatus::Unconfirmed,
        version: 0,
        registered_at,
        updated_at: registered_at,
    }
}

#[cfg(test)]
mod tests {
    use schemas::engine::{Email, Name, Sealed};
    use schemas::identity::user::{
        UserDeactivated, UserDetails, UserEmailConfirmed, UserErased, UserName, UserNameChanged,
        UserRegistered, UserRolesChanged,
    };

    use super::*;
    use crate::engine::projection::fold;
    use crate::engine::testing::{at, recorded};

    fn registered() -> UserEvent {
        UserEvent::Registered(UserRegistered {
            details: Sealed::own(UserDetails {
                email: Email::parse("Ada@Example.com").expect("a valid address"),
                name: Name::parse("Ada").expect("a valid name"),
            }),
            roles: vec![Role::Member],
        })
    }

    fn renamed() -> UserEvent {
        let name = Name::parse("Bo").expect("a valid name");
        UserEvent::NameChanged(UserNameChanged { details: Sealed::own(UserName { name }) })
    }

    fn given(events: &[UserEvent]) -> Result<Option<UserRow>, ProjectionError> {
        fold::<Users>(&recorded(Uuid::from_u128(1), events))
    }

    #[test]
    fn a_registration_makes_an_unconfirmed_user() {
        let row = given(&[registered()]).expect("applies").expect("is there");
        assert_eq!((row.name.as_str(), row.email_key.as_str()), ("Ada", "ada@example.com"));
        assert_eq!((row.status, row.roles, row.version), (UserStatus::Unconfirmed, vec![Role::Member], 1));
        assert_eq!((row.registered_at, row.updated_at), (at(1), at(1)));
    }

    #[test]
    fn later_facts_change_the_row() {
        let confirmed = UserEvent::EmailConfirmed(UserEmailConfirmed {});
        let changed = renamed();
        let row =
            given(&[registered(), confirmed.clone(), changed.clone()]).expect("applies").expect("is there");
        assert_eq!((row.name.as_str(), row.status, row.version), ("Bo", UserStatus::Active, 3));
        let deactivated = UserEvent::Deactivated(UserDeactivated { reason: None });
        let row =
            given(&[registered(), confirmed, changed, deactivated]).expect("applies").expect("is there");
        assert_eq!((row.status, row.updated_at), (UserStatus::Deactivated, at(4)));
    }

    #[test]
    fn changed_roles_are_all_the_roles_that_there_are() {
        let changed = UserEvent::RolesChanged(UserRolesChanged { roles: vec![Role::Auditor] });
        let row = given(&[registered(), changed]).expect("applies").expect("is there");
        assert_eq!((row.roles, row.version), (vec![Role::Auditor], 2));
    }

    #[test]
    fn a_fact_without_its_registration_is_out_of_place() {
        let confirmed = UserEvent::EmailConfirmed(UserEmailConfirmed {});
        assert!(given(&[confirmed]).expect_err("nobody to confirm").is_poison());
        assert!(given(&[registered(), registered()]).expect_err("registered twice").is_poison());
    }

    #[test]
    fn an_erased_user_is_the_same_row_whether_the_key_was_there_or_not() {
        let erased = UserEvent::Erased(UserErased {});
        let with_key = given(&[registered(), renamed(), erased.clone()]).expect("applies").expect("is there");
        assert_eq!((with_key.name.as_str(), with_key.email_key.as_str()), ("", ""));
        assert_eq!(
            (with_key.roles.as_slice(), with_key.status),
            (&[Role::Member][..], UserStatus::Deactivated)
        );
        let details = Sealed::Erased { subject: Uuid::from_u128(1) };
        let unreadable = [
            UserEvent::Registered(UserRegistered { details, roles: vec![Role::Member] }),
            UserEvent::NameChanged(UserNameChanged {
                details: Sealed::Erased { subject: Uuid::from_u128(1) },
            }),
            erased,
        ];
        assert_eq!(given(&unreadable).expect("applies"), Some(with_key));
    }
}
