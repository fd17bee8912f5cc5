//! The read model of users. Sign-in does not read it; it uses the reservation and the secret.

use chrono::{DateTime, Utc};
use schemas::engine::{EmailKey, Moment, read_model};
use schemas::identity::role::Role;
use schemas::identity::user::{UserEvent, UserStatus};

use crate::engine::projection::{OutOfSequence, Projection};

/// A user: a person who signs in to the tenant.
#[read_model("users.v2", visible_to = UsersRead, order = registered_at, owner = id)]
pub struct UserRow {
    /// E-mail address, unique in the tenant; empty after an erasure.
    pub email: String,
    #[column(find, hidden = "email")]
    pub email_key: EmailKey,
    /// Name; empty after an erasure.
    #[column(prefix, order)]
    pub name: String,
    /// Roles in order of rank: `member`, `tenant_admin`, `auditor`, `platform_admin`, `integrator`.
    pub roles: Vec<String>,
    /// Status of the user.
    #[column(group)]
    pub status: UserStatus,
    /// Whether the personal data were erased.
    pub erased: bool,
    /// When the user was registered.
    pub registered_at: DateTime<Utc>,
}

impl Projection for UserRow {
    type Event = UserEvent;

    fn apply(row: Option<Self>, event: UserEvent, moment: &Moment) -> Result<Option<Self>, OutOfSequence> {
        use UserEvent as Event;
        use UserStatus::{Active, Deactivated};

        let row = match (row, event) {
            (None, Event::Registered { details, roles }) => {
                let row = Self { roles: names(&roles), registered_at: moment.time, ..Self::default() };
                match details.open() {
                    Some(details) => Self {
                        email_key: details.email.key(),
                        email: details.email.into(),
                        name: details.name.into(),
                        ..row
                    },
                    None => Self { erased: true, ..row },
                }
            }
            (Some(row), Event::EmailConfirmed {}) => Self { status: Active, ..row },
            (Some(row), Event::NameChanged { details }) => {
                let name = details.open().map_or_else(String::new, |details| details.name.into());
                Self { name, ..row }
            }
            (Some(row), Event::Deactivated { .. }) => Self { status: Deactivated, ..row },
            (Some(Self { roles, registered_at, .. }), Event::Erased {}) => {
                Self { roles, registered_at, status: Deactivated, erased: true, ..Self::default() }
            }
            (Some(row), Event::RolesChanged { roles }) => Self { roles: names(&roles), ..row },
            (Some(_), Event::Registered { .. }) | (None, _) => return Err(OutOfSequence),
        };
        Ok(Some(row))
    }
}

fn names(roles: &[Role]) -> Vec<String> {
    roles.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use schemas::engine::{Email, Name, Sealed};
    use schemas::identity::user::{UserDetails, UserName};
    use uuid::Uuid;

    use super::*;
    use crate::engine::error::ProjectionError;
    use crate::engine::projection::{StoredRow, fold};
    use crate::engine::testing::{at, recorded};

    fn registered() -> UserEvent {
        let details = UserDetails {
            email: Email::parse("Ada@Example.com").expect("a valid address"),
            name: Name::parse("Ada").expect("a valid name"),
        };
        UserEvent::Registered { details: Sealed::own(details), roles: vec![Role::Member] }
    }

    fn renamed() -> UserEvent {
        let name = Name::parse("Bo").expect("a valid name");
        UserEvent::NameChanged { details: Sealed::own(UserName { name }) }
    }

    fn given(events: &[UserEvent]) -> Result<Option<StoredRow<UserRow>>, ProjectionError> {
        fold::<UserRow>(&recorded(Uuid::from_u128(1), events))
    }

    #[test]
    fn a_registration_makes_an_unconfirmed_user() {
        let row = given(&[registered()]).expect("applies").expect("is there");
        assert_eq!((row.name.as_str(), row.email_key.as_str()), ("Ada", "ada@example.com"));
        assert_eq!(
            (row.status, row.roles.as_slice(), row.version),
            (UserStatus::Unconfirmed, &["member".to_owned()][..], 1)
        );
        assert_eq!((row.registered_at, row.updated_at), (at(1), at(1)));
    }

    #[test]
    fn later_facts_change_the_row() {
        let confirmed = UserEvent::EmailConfirmed {};
        let changed = renamed();
        let row =
            given(&[registered(), confirmed.clone(), changed.clone()]).expect("applies").expect("is there");
        assert_eq!((row.name.as_str(), row.status, row.version), ("Bo", UserStatus::Active, 3));
        let deactivated = UserEvent::Deactivated { reason: None };
        let row =
            given(&[registered(), confirmed, changed, deactivated]).expect("applies").expect("is there");
        assert_eq!((row.status, row.updated_at), (UserStatus::Deactivated, at(4)));
    }

    #[test]
    fn changed_roles_are_all_the_roles_that_there_are() {
        let changed = UserEvent::RolesChanged { roles: vec![Role::Auditor] };
        let row = given(&[registered(), changed]).expect("applies").expect("is there");
        assert_eq!((row.roles.as_slice(), row.version), (&["auditor".to_owned()][..], 2));
    }

    #[test]
    fn a_fact_without_its_registration_is_out_of_place() {
        let confirmed = UserEvent::EmailConfirmed {};
        assert!(given(&[confirmed]).expect_err("nobody to confirm").is_poison());
        assert!(given(&[registered(), registered()]).expect_err("registered twice").is_poison());
    }

    #[test]
    fn an_erased_user_is_the_same_row_whether_the_key_was_there_or_not() {
        let erased = UserEvent::Erased {};
        let with_key = given(&[registered(), renamed(), erased.clone()]).expect("applies").expect("is there");
        assert_eq!((with_key.name.as_str(), with_key.email_key.as_str()), ("", ""));
        assert_eq!(
            (with_key.roles.as_slice(), with_key.status),
            (&["member".to_owned()][..], UserStatus::Deactivated)
        );
        let details = Sealed::Erased { subject: Uuid::from_u128(1) };
        let unreadable = [
            UserEvent::Registered { details, roles: vec![Role::Member] },
            UserEvent::NameChanged { details: Sealed::Erased { subject: Uuid::from_u128(1) } },
            erased,
        ];
        assert_eq!(given(&unreadable).expect("applies"), Some(with_key));
    }
}
