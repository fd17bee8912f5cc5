//! The read model of customers.

use chrono::{DateTime, Utc};
use schemas::crm::customer::{CustomerEvent, CustomerStatus};
use schemas::engine::{Event, RecordedEvent};
use serde::{Deserialize, Serialize};
use store::ReadTable;
use uuid::Uuid;

use crate::engine::error::ProjectionError;
use crate::engine::projection::Projection;

/// The customers of a tenant.
pub struct Customers;

/// A customer in lists and look-ups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CustomerRow {
    /// The id of the customer.
    pub id: Uuid,
    /// The user that the customer is, if any.
    pub user_id: Option<Uuid>,
    /// Name; empty after an erasure.
    pub name: String,
    /// E-mail address; empty after an erasure.
    pub email: String,
    /// The key under which the address is looked up.
    pub email_key: String,
    /// Company, if given.
    pub company: Option<String>,
    /// Notes, if given.
    pub notes: Option<String>,
    /// Status of the customer.
    pub status: CustomerStatus,
    /// The version of the customer's stream.
    pub version: u64,
    /// When the customer was registered.
    pub registered_at: DateTime<Utc>,
    /// When the customer was last changed.
    pub updated_at: DateTime<Utc>,
}

impl Projection for Customers {
    type Row = CustomerRow;

    const NAME: &'static str = "customers";
    const VERSION: u32 = 1;
    const SCOPE: &'static str = "crm:read";
    const TABLE: ReadTable = ReadTable {
        name: "customers_v1",
        columns: r#"id uuid not null, user_id uuid, name text collate "C" not null, email text not null,
            email_key text collate "C" not null, company text, notes text, status text collate "C" not null,
            version bigint not null, registered_at timestamptz not null, updated_at timestamptz not null"#,
        key: "id",
        indexes: &[
            "registered_at, id",
            "name, id",
            "status, registered_at, id",
            "status, name, id",
            "email_key, id",
            "user_id, id",
        ],
    };

    const CATEGORY: &'static str = CustomerEvent::CATEGORY;

    fn key(event: &RecordedEvent) -> Option<Uuid> {
        (event.stream.category() == CustomerEvent::CATEGORY).then(|| event.stream.uuid()).flatten()
    }

    fn apply(
        row: Option<CustomerRow>,
        event: &RecordedEvent,
    ) -> Result<Option<CustomerRow>, ProjectionError> {
        let out_of_place =
            |reason| ProjectionError::OutOfSequence { event_type: event.event_type.to_string(), reason };
        let decoded = event.decode::<CustomerEvent>()?;
        let decoded = decoded.ok_or_else(|| ProjectionError::UnknownType(event.event_type.to_string()))?;
        let id = event.stream.uuid().ok_or_else(|| out_of_place("the stream's id is no UUID"))?;
        let row = match (row, decoded) {
            (None, CustomerEvent::Registered(registered)) => {
                let row = anonymised_row(id, registered.user_id, event.recorded_at);
                match registered.details.open() {
                    Some(details) => CustomerRow {
                        name: details.name.into(),
                        email_key: details.email.normalised(),
                        email: details.email.into(),
                        company: details.company.map(Into::into),
                        notes: details.notes.map(Into::into),
                        ..row
                    },
                    None => row,
                }
            }
            (Some(_), CustomerEvent::Registered(_)) => {
                return Err(out_of_place("the customer is registered already"));
            }
            (None, _) => return Err(out_of_place("the customer is not registered")),
            (Some(row), CustomerEvent::Renamed(renamed)) => {
                let name = renamed.details.open().map_or_else(String::new, |details| details.name.into());
                CustomerRow { name, ..row }
            }
            (Some(row), CustomerEvent::Suspended(_)) => {
                CustomerRow { status: CustomerStatus::Suspended, ..row }
            }
            (Some(row), CustomerEvent::Closed(_)) => CustomerRow { status: CustomerStatus::Closed, ..row },
            (Some(row), CustomerEvent::Erased(_)) => CustomerRow {
                status: CustomerStatus::Closed,
                ..anonymised_row(id, row.user_id, row.registered_at)
            },
        };
        Ok(Some(CustomerRow { version: event.version, updated_at: event.recorded_at, ..row }))
    }
}

/// A customer without personal data, as after an erasure.
fn anonymised_row(id: Uuid, user_id: Option<Uuid>, registered_at: DateTime<Utc>) -> CustomerRow {
    CustomerRow {
        id,
        user_id,
        name: String::new(),
        email: String::new(),
        email_key: String::new(),
        company: None,
        notes: None,
        status: CustomerStatus::Active,
        version: 0,
        registered_at,
        updated_at: registered_at,
    }
}

#[cfg(test)]
mod tests {
    use schemas::crm::customer::{
        CustomerClosed, CustomerDetails, CustomerErased, CustomerName, CustomerRegistered, CustomerRenamed,
        CustomerSuspended,
    };
    use schemas::engine::{Email, Name, Sealed};

    use super::*;
    use crate::engine::projection::fold;
    use crate::engine::testing::{at, recorded};

    fn registered() -> CustomerEvent {
        CustomerEvent::Registered(CustomerRegistered {
            user_id: Some(Uuid::from_u128(9)),
            details: Sealed::own(CustomerDetails {
                name: Name::parse("Ada").expect("a valid name"),
                email: Email::parse("Ada@Example.com").expect("a valid address"),
                company: Some(Name::parse("Engines").expect("a valid name")),
                notes: None,
            }),
        })
    }

    fn renamed(name: &str) -> CustomerEvent {
        let name = Name::parse(name).expect("a valid name");
        CustomerEvent::Renamed(CustomerRenamed { details: Sealed::own(CustomerName { name }) })
    }

    fn given(events: &[CustomerEvent]) -> Result<Option<CustomerRow>, ProjectionError> {
        fold::<Customers>(&recorded(Uuid::from_u128(1), events))
    }

    #[test]
    fn a_registration_makes_a_row() {
        let row = given(&[registered()]).expect("applies").expect("is there");
        let expected = CustomerRow {
            id: Uuid::from_u128(1),
            user_id: Some(Uuid::from_u128(9)),
            name: "Ada".to_owned(),
            email: "Ada@Example.com".to_owned(),
            email_key: "ada@example.com".to_owned(),
            company: Some("Engines".to_owned()),
            notes: None,
            status: CustomerStatus::Active,
            version: 1,
            registered_at: at(1),
            updated_at: at(1),
        };
        assert_eq!(row, expected);
    }

    #[test]
    fn later_facts_change_the_row_and_keep_when_it_began() {
        let renamed = renamed("Bo");
        let suspended = CustomerEvent::Suspended(CustomerSuspended { reason: None });
        let row =
            given(&[registered(), renamed.clone(), suspended.clone()]).expect("applies").expect("is there");
        assert_eq!((row.name.as_str(), row.status, row.version), ("Bo", CustomerStatus::Suspended, 3));
        assert_eq!((row.registered_at, row.updated_at), (at(1), at(3)));
        let closed = CustomerEvent::Closed(CustomerClosed { reason: None });
        let row = given(&[registered(), renamed, suspended, closed]).expect("applies").expect("is there");
        assert_eq!((row.status, row.version), (CustomerStatus::Closed, 4));
    }

    #[test]
    fn an_erased_customer_is_the_same_row_whether_the_key_was_there_or_not() {
        let erased = CustomerEvent::Erased(CustomerErased {});
        let with_key =
            given(&[registered(), renamed("Bo"), erased.clone()]).expect("applies").expect("is there");
        assert_eq!((with_key.name.as_str(), with_key.email_key.as_str()), ("", ""));
        assert_eq!((with_key.company.as_ref(), with_key.status), (None, CustomerStatus::Closed));
        let subject = Uuid::from_u128(9);
        let unreadable = [
            CustomerEvent::Registered(CustomerRegistered {
                user_id: Some(subject),
                details: Sealed::Erased { subject },
            }),
            CustomerEvent::Renamed(CustomerRenamed { details: Sealed::Erased { subject } }),
            erased,
        ];
        assert_eq!(given(&unreadable).expect("applies"), Some(with_key));
    }

    #[test]
    fn a_fact_without_its_registration_is_out_of_place() {
        let closed = CustomerEvent::Closed(CustomerClosed { reason: None });
        assert!(given(&[closed]).expect_err("nothing to close").is_poison());
        assert!(given(&[registered(), registered()]).expect_err("registered twice").is_poison());
    }

    #[test]
    fn a_row_survives_its_journey_as_json() {
        let row = given(&[registered()]).expect("applies").expect("is there");
        let text = serde_json::to_string(&row).expect("serialises");
        assert!(text.contains(r#""status":"active""#));
        assert_eq!(serde_json::from_str::<CustomerRow>(&text).expect("deserialises"), row);
    }
}
