//! The read model of customers.

use chrono::{DateTime, Utc};
use schemas::crm::customer::{CustomerContact, CustomerDetails, CustomerEvent, CustomerStatus};
use schemas::engine::{EmailKey, Moment, read_model};
use uuid::Uuid;

use crate::engine::projection::{OutOfSequence, Projection};
use crate::identity::user::UserRow;

/// A customer: a person or a company that the tenant does business with.
#[read_model("customers.v2", visible_to = CrmRead, order = registered_at, owner = user_id)]
pub struct CustomerRow {
    /// The user who is this customer, if any.
    #[column(find, to = UserRow, back_one = "customer")]
    pub user_id: Option<Uuid>,
    /// Name; empty after an erasure.
    #[column(prefix, order)]
    pub name: String,
    /// E-mail address; empty after an erasure.
    pub email: String,
    #[column(find, hidden = "email")]
    pub email_key: EmailKey,
    /// Company that the customer stands for.
    pub company: Option<String>,
    /// Notes.
    pub notes: Option<String>,
    /// Status of the customer.
    #[column(group)]
    pub status: CustomerStatus,
    /// Whether the personal data were erased.
    pub erased: bool,
    /// When the customer was registered.
    pub registered_at: DateTime<Utc>,
}

impl Projection for CustomerRow {
    type Event = CustomerEvent;

    fn apply(
        row: Option<Self>,
        event: CustomerEvent,
        moment: &Moment,
    ) -> Result<Option<Self>, OutOfSequence> {
        use CustomerEvent as Event;
        use CustomerStatus::{Active, Closed, Suspended};

        let row = match (row, event) {
            (None, Event::Registered { user_id, details }) => {
                let row = Self { user_id, registered_at: moment.time, ..Self::default() };
                match details.open() {
                    Some(CustomerDetails { name, email, company, notes }) => {
                        let row = Self { name: name.into(), ..row };
                        row.with_contact(Some(CustomerContact { email, company, notes }))
                    }
                    None => Self { erased: true, ..row },
                }
            }
            (Some(row), Event::Renamed { details }) => {
                let name = details.open().map_or_else(String::new, |details| details.name.into());
                Self { name, ..row }
            }
            (Some(row), Event::ContactChanged { details }) => row.with_contact(details.open()),
            (Some(row), Event::Suspended { .. }) => Self { status: Suspended, ..row },
            (Some(row), Event::Resumed {}) => Self { status: Active, ..row },
            (Some(row), Event::Closed { .. }) => Self { status: Closed, ..row },
            (Some(Self { user_id, registered_at, .. }), Event::Erased {}) => {
                Self { user_id, registered_at, status: Closed, erased: true, ..Self::default() }
            }
            (Some(_), Event::Registered { .. }) | (None, _) => return Err(OutOfSequence),
        };
        Ok(Some(row))
    }
}

impl CustomerRow {
    /// The row with another contact, or with none after an erasure.
    fn with_contact(self, contact: Option<CustomerContact>) -> Self {
        let Some(CustomerContact { email, company, notes }) = contact else {
            let (email, email_key) = (String::new(), EmailKey::default());
            return Self { email, email_key, company: None, notes: None, ..self };
        };
        let (company, notes) = (company.map(Into::into), notes.map(Into::into));
        Self { email_key: email.key(), email: email.into(), company, notes, ..self }
    }
}

#[cfg(test)]
mod tests {
    use schemas::crm::customer::CustomerName;
    use schemas::engine::{Email, Name, Sealed};

    use super::*;
    use crate::engine::error::ProjectionError;
    use crate::engine::projection::{StoredRow, fold};
    use crate::engine::testing::{at, recorded};

    const SUSPENDED: CustomerEvent = CustomerEvent::Suspended { reason: None };
    const CLOSED: CustomerEvent = CustomerEvent::Closed { reason: None };
    const ERASED: CustomerEvent = CustomerEvent::Erased {};

    fn registered() -> CustomerEvent {
        let details = CustomerDetails {
            name: Name::parse("Ada").expect("a valid name"),
            email: Email::parse("Ada@Example.com").expect("a valid address"),
            company: Some(Name::parse("Engines").expect("a valid name")),
            notes: None,
        };
        CustomerEvent::Registered { user_id: Some(Uuid::from_u128(9)), details: Sealed::own(details) }
    }

    fn renamed(name: &str) -> CustomerEvent {
        let name = Name::parse(name).expect("a valid name");
        CustomerEvent::Renamed { details: Sealed::own(CustomerName { name }) }
    }

    fn contact_changed() -> CustomerEvent {
        let email = Email::parse("Bo@Example.com").expect("a valid address");
        let contact = CustomerContact { email, company: None, notes: None };
        CustomerEvent::ContactChanged { details: Sealed::own(contact) }
    }

    fn given(events: &[CustomerEvent]) -> Result<Option<StoredRow<CustomerRow>>, ProjectionError> {
        fold::<CustomerRow>(&recorded(Uuid::from_u128(1), events))
    }

    #[test]
    fn a_registration_makes_a_row() {
        let row = given(&[registered()]).expect("applies").expect("is there");
        let expected = CustomerRow {
            user_id: Some(Uuid::from_u128(9)),
            name: "Ada".to_owned(),
            email: "Ada@Example.com".to_owned(),
            email_key: EmailKey::of("ada@example.com"),
            company: Some("Engines".to_owned()),
            notes: None,
            status: CustomerStatus::Active,
            erased: false,
            registered_at: at(1),
        };
        let expected = StoredRow { id: Uuid::from_u128(1), row: expected, version: 1, updated_at: at(1) };
        assert_eq!(row, expected);
    }

    #[test]
    fn later_facts_change_the_row_and_keep_when_it_began() {
        let row = given(&[registered(), renamed("Bo"), SUSPENDED]).expect("applies").expect("is there");
        assert_eq!((row.name.as_str(), row.status, row.version), ("Bo", CustomerStatus::Suspended, 3));
        assert_eq!((row.registered_at, row.updated_at), (at(1), at(3)));
        let row =
            given(&[registered(), renamed("Bo"), SUSPENDED, CLOSED]).expect("applies").expect("is there");
        assert_eq!((row.status, row.version), (CustomerStatus::Closed, 4));
    }

    #[test]
    fn a_changed_contact_replaces_the_whole_contact_and_a_resumed_customer_is_active() {
        let row = given(&[registered(), SUSPENDED, contact_changed(), CustomerEvent::Resumed {}]);
        let row = row.expect("applies").expect("is there");
        assert_eq!((row.email.as_str(), row.email_key.as_str()), ("Bo@Example.com", "bo@example.com"));
        assert_eq!((row.company.as_ref(), row.name.as_str()), (None, "Ada"));
        assert_eq!((row.status, row.version), (CustomerStatus::Active, 4));
    }

    #[test]
    fn an_erased_customer_is_the_same_row_whether_the_key_was_there_or_not() {
        let with_key = given(&[registered(), renamed("Bo"), contact_changed(), ERASED]);
        let with_key = with_key.expect("applies").expect("is there");
        assert_eq!((with_key.name.as_str(), with_key.email_key.as_str()), ("", ""));
        assert_eq!((with_key.company.as_ref(), with_key.status), (None, CustomerStatus::Closed));
        assert!(with_key.erased);
        let subject = Uuid::from_u128(9);
        let unreadable = [
            CustomerEvent::Registered { user_id: Some(subject), details: Sealed::Erased { subject } },
            CustomerEvent::Renamed { details: Sealed::Erased { subject } },
            CustomerEvent::ContactChanged { details: Sealed::Erased { subject } },
            ERASED,
        ];
        assert_eq!(given(&unreadable).expect("applies"), Some(with_key));
    }

    #[test]
    fn a_fact_without_its_registration_is_out_of_place() {
        assert!(given(&[CLOSED]).expect_err("nothing to close").is_poison());
        assert!(given(&[registered(), registered()]).expect_err("registered twice").is_poison());
    }

    #[test]
    fn a_row_survives_its_journey_as_json() {
        let row = given(&[registered()]).expect("applies").expect("is there");
        let text = serde_json::to_string(&row).expect("serialises");
        assert!(text.contains(r#""status":"active""#));
        assert_eq!(serde_json::from_str::<StoredRow<CustomerRow>>(&text).expect("deserialises"), row);
    }
}
