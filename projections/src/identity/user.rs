//! The read model of users. Signing in never reads it: that goes by reservation and secret.

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

/// A user as lists and look-ups show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of the contract's `User`")]
pub struct UserRow {
    pub id: Uuid,
    pub email: String,
    /// The address in the form under which it is looked up.
    pub email_key: String,
    pub name: String,
    pub roles: Vec<Role>,
    pub status: UserStatus,
    pub version: u64,
    pub registered_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl Projection for Users {
    type Row = UserRow;

    const NAME: &'static str = "users";
    const VERSION: u32 = 1;
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
            |reason| ProjectionError::OutOfPlace { event_type: event.event_type.to_string(), reason };
        let decoded = event.decode::<UserEvent>()?;
        let decoded = decoded.ok_or_else(|| ProjectionError::UnknownType(event.event_type.to_string()))?;
        let id = event.stream.uuid().ok_or_else(|| out_of_place("the stream's id is no UUID"))?;
        let row = match (row, decoded) {
            (None, UserEvent::Registered(registered)) => UserRow {
                id,
                email_key: registered.email.normalised(),
                email: registered.email.into(),
                name: registered.name.into(),
                roles: registered.roles,
                status: UserStatus::Unconfirmed,
                version: event.version,
                registered_at: event.recorded_at,
                updated_at: event.recorded_at,
            },
            (Some(_), UserEvent::Registered(_)) => {
                return Err(out_of_place("the user is registered already"));
            }
            (None, _) => return Err(out_of_place("the user is not registered")),
            (Some(row), UserEvent::EmailConfirmed(_)) => UserRow { status: UserStatus::Active, ..row },
            (Some(row), UserEvent::NameChanged(changed)) => UserRow { name: changed.name.into(), ..row },
            (Some(row), UserEvent::Deactivated(_)) => UserRow { status: UserStatus::Deactivated, ..row },
        };
        Ok(Some(UserRow { version: event.version, updated_at: event.recorded_at, ..row }))
    }
}

#[cfg(test)]
mod tests {
    use schemas::engine::{Email, Name};
    use schemas::identity::user::{UserDeactivated, UserEmailConfirmed, UserNameChanged, UserRegistered};

    use super::*;
    use crate::engine::projection::fold;
    use crate::engine::testing::{at, recorded};

    fn registered() -> UserEvent {
        UserEvent::Registered(UserRegistered {
            email: Email::parse("Ada@Example.com").expect("a valid address"),
            name: Name::parse("Ada").expect("a valid name"),
            roles: vec![Role::Member],
        })
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
        let changed =
            UserEvent::NameChanged(UserNameChanged { name: Name::parse("Bo").expect("a valid name") });
        let row =
            given(&[registered(), confirmed.clone(), changed.clone()]).expect("applies").expect("is there");
        assert_eq!((row.name.as_str(), row.status, row.version), ("Bo", UserStatus::Active, 3));
        let deactivated = UserEvent::Deactivated(UserDeactivated { reason: None });
        let row =
            given(&[registered(), confirmed, changed, deactivated]).expect("applies").expect("is there");
        assert_eq!((row.status, row.updated_at), (UserStatus::Deactivated, at(4)));
    }

    #[test]
    fn a_fact_without_its_registration_is_out_of_place() {
        let confirmed = UserEvent::EmailConfirmed(UserEmailConfirmed {});
        assert!(given(&[confirmed]).expect_err("nobody to confirm").is_poison());
        assert!(given(&[registered(), registered()]).expect_err("registered twice").is_poison());
    }
}
