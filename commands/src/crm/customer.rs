//! The rules of a customer.

use access::ErrorCode;
use describe::rejections;
use schemas::crm::customer::{
    CustomerCommand, CustomerContact, CustomerDetails, CustomerEvent, CustomerName, CustomerStatus,
};
use schemas::engine::Sealed;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::engine::decider::{Decider, Facts};

/// Why a customer command was rejected.
#[rejections]
pub enum CustomerRejection {
    #[rejection(CustomerClosed, "the customer is closed")]
    Closed,
}

/// What the rules know of a customer.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Customer {
    /// Whether the subject was erased, so that its personal data is lost.
    pub erased: bool,
    /// The user that the customer is, if any.
    pub user_id: Option<Uuid>,
    /// Name; empty after an erasure.
    pub name: String,
    /// Contact; absent after an erasure.
    pub contact: Option<CustomerContact>,
    /// Status of the customer.
    pub status: CustomerStatus,
}

impl Decider for Customer {
    type Command = CustomerCommand;
    type Event = CustomerEvent;
    type Rejection = CustomerRejection;

    const EXISTS: ErrorCode = ErrorCode::CustomerExists;
    const ERASE: Option<fn() -> CustomerCommand> = Some(|| CustomerCommand::EraseCustomer {});

    fn decide(
        &self,
        command: CustomerCommand,
        _facts: &Facts,
    ) -> Result<Vec<CustomerEvent>, CustomerRejection> {
        use CustomerCommand as Command;
        use CustomerEvent as Event;
        use CustomerStatus::{Active, Closed, Suspended};

        let event = match (self.status, command) {
            (_, Command::RegisterCustomer { user_id, details }) => {
                Event::Registered { user_id, details: Sealed::of(user_id, details) }
            }
            (_, Command::EraseCustomer {}) if self.erased => return Ok(vec![]),
            (_, Command::EraseCustomer {}) => Event::Erased {},
            (Closed, Command::CloseCustomer { .. })
            | (Suspended, Command::SuspendCustomer { .. })
            | (Active, Command::ResumeCustomer {}) => return Ok(vec![]),
            (Closed, _) => return Err(CustomerRejection::Closed),
            (_, Command::RenameCustomer { name }) if name.as_str() == self.name => return Ok(vec![]),
            (_, Command::RenameCustomer { name }) => {
                Event::Renamed { details: Sealed::of(self.user_id, CustomerName { name }) }
            }
            (_, Command::ChangeCustomerContact { contact }) if Some(&contact) == self.contact.as_ref() => {
                return Ok(vec![]);
            }
            (_, Command::ChangeCustomerContact { contact }) => {
                Event::ContactChanged { details: Sealed::of(self.user_id, contact) }
            }
            (_, Command::SuspendCustomer { reason }) => Event::Suspended { reason },
            (_, Command::ResumeCustomer {}) => Event::Resumed {},
            (_, Command::CloseCustomer { reason }) => Event::Closed { reason },
        };
        Ok(vec![event])
    }

    fn apply(&mut self, event: CustomerEvent) {
        use CustomerEvent as Event;

        match event {
            Event::Registered { user_id, details } => {
                self.user_id = user_id;
                if let Some(CustomerDetails { name, email, company, notes }) = details.open() {
                    self.name = name.into();
                    self.contact = Some(CustomerContact { email, company, notes });
                }
            }
            Event::Renamed { details } => {
                self.name = details.open().map_or_else(String::new, |details| details.name.into());
            }
            Event::ContactChanged { details } => self.contact = details.open(),
            Event::Suspended { .. } => self.status = CustomerStatus::Suspended,
            Event::Resumed {} => self.status = CustomerStatus::Active,
            Event::Closed { .. } => self.status = CustomerStatus::Closed,
            Event::Erased {} => {
                let user_id = self.user_id;
                *self = Self { erased: true, user_id, status: CustomerStatus::Closed, ..Self::default() };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::{AggregateTestExecutor, TestFramework};
    use schemas::crm::customer::CustomerDetails;
    use schemas::engine::{Email, Name};

    use super::*;
    use crate::{CqrsAggregate, DecideError};

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a valid name")
    }

    fn details() -> CustomerDetails {
        let email = Email::parse("ada@example.com").expect("a valid address");
        CustomerDetails { name: name("Ada"), email, company: None, notes: None }
    }

    fn registered() -> CustomerEvent {
        CustomerEvent::Registered { user_id: None, details: Sealed::own(details()) }
    }

    fn register() -> CustomerCommand {
        CustomerCommand::RegisterCustomer { user_id: None, details: details() }
    }

    fn renamed(text: &str) -> CustomerEvent {
        CustomerEvent::Renamed { details: Sealed::own(CustomerName { name: name(text) }) }
    }

    fn rename(text: &str) -> CustomerCommand {
        CustomerCommand::RenameCustomer { name: name(text) }
    }

    const SUSPEND: CustomerCommand = CustomerCommand::SuspendCustomer { reason: None };
    const SUSPENDED: CustomerEvent = CustomerEvent::Suspended { reason: None };
    const RESUME: CustomerCommand = CustomerCommand::ResumeCustomer {};
    const CLOSE: CustomerCommand = CustomerCommand::CloseCustomer { reason: None };
    const CLOSED: CustomerEvent = CustomerEvent::Closed { reason: None };
    const ERASE: CustomerCommand = CustomerCommand::EraseCustomer {};
    const ERASED: CustomerEvent = CustomerEvent::Erased {};
    const REJECTED: DecideError<CustomerRejection> = DecideError::Rejected(CustomerRejection::Closed);

    fn given(events: Vec<CustomerEvent>) -> AggregateTestExecutor<CqrsAggregate<Customer>> {
        TestFramework::with(()).given(events)
    }

    #[test]
    fn somebody_is_registered_once() {
        given(vec![]).when(register()).then_expect_events(vec![registered()]);
        given(vec![registered()]).when(register()).then_expect_error(DecideError::Exists);
    }

    #[test]
    fn an_unknown_customer_can_only_be_registered() {
        for command in [rename("Bo"), SUSPEND, CLOSE] {
            given(vec![]).when(command).then_expect_error(DecideError::NotFound);
        }
    }

    #[test]
    fn a_customer_is_renamed_and_the_same_name_records_nothing() {
        let renamed = renamed("Bo");
        given(vec![registered()]).when(rename("Bo")).then_expect_events(vec![renamed.clone()]);
        given(vec![registered(), renamed]).when(rename("Bo")).then_expect_events(vec![]);
        given(vec![registered()]).when(rename("Ada")).then_expect_events(vec![]);
    }

    #[test]
    fn a_suspended_customer_can_be_renamed_and_is_not_suspended_again() {
        given(vec![registered()]).when(SUSPEND).then_expect_events(vec![SUSPENDED]);
        given(vec![registered(), SUSPENDED]).when(SUSPEND).then_expect_events(vec![]);
        given(vec![registered(), SUSPENDED]).when(rename("Bo")).then_expect_events(vec![renamed("Bo")]);
    }

    #[test]
    fn a_suspended_customer_is_resumed_and_an_active_one_stays_so() {
        let resumed = CustomerEvent::Resumed {};
        given(vec![registered(), SUSPENDED]).when(RESUME).then_expect_events(vec![resumed.clone()]);
        given(vec![registered()]).when(RESUME).then_expect_events(vec![]);
        given(vec![registered(), SUSPENDED, resumed]).when(SUSPEND).then_expect_events(vec![SUSPENDED]);
        given(vec![registered(), CLOSED]).when(RESUME).then_expect_error(REJECTED);
    }

    #[test]
    fn a_contact_is_replaced_and_the_same_one_records_nothing() {
        let contact = |email: &str| CustomerContact {
            email: Email::parse(email).expect("a valid address"),
            company: None,
            notes: None,
        };
        let change = |email| CustomerCommand::ChangeCustomerContact { contact: contact(email) };
        let changed = CustomerEvent::ContactChanged { details: Sealed::own(contact("bo@example.com")) };
        given(vec![registered()]).when(change("ada@example.com")).then_expect_events(vec![]);
        given(vec![registered()]).when(change("bo@example.com")).then_expect_events(vec![changed.clone()]);
        given(vec![registered(), changed]).when(change("bo@example.com")).then_expect_events(vec![]);
        given(vec![registered(), CLOSED]).when(change("bo@example.com")).then_expect_error(REJECTED);
    }

    #[test]
    fn a_closed_customer_cannot_be_renamed_or_suspended() {
        for command in [rename("Bo"), rename("Ada"), SUSPEND] {
            given(vec![registered(), CLOSED]).when(command).then_expect_error(REJECTED);
        }
    }

    #[test]
    fn a_customer_is_closed_once_even_when_suspended() {
        given(vec![registered(), SUSPENDED]).when(CLOSE).then_expect_events(vec![CLOSED]);
        given(vec![registered(), CLOSED]).when(CLOSE).then_expect_events(vec![]);
    }

    #[test]
    fn an_erased_customer_is_closed_and_nobody() {
        given(vec![]).when(ERASE).then_expect_error(DecideError::NotFound);
        given(vec![registered()]).when(ERASE).then_expect_events(vec![ERASED]);
        given(vec![registered(), CLOSED]).when(ERASE).then_expect_events(vec![ERASED]);
        given(vec![registered(), ERASED]).when(ERASE).then_expect_events(vec![]);
        given(vec![registered(), ERASED]).when(rename("Bo")).then_expect_error(REJECTED);

        let mut customer = Customer::default();
        for event in [registered(), renamed("Bo"), ERASED] {
            customer.apply(event);
        }
        assert_eq!(
            customer,
            Customer { erased: true, status: CustomerStatus::Closed, ..Customer::default() }
        );
    }

    #[test]
    fn the_fold_goes_on_where_keys_are_destroyed() {
        let subject = Uuid::from_u128(3);
        let mut customer = Customer::default();
        let details = Sealed::Erased { subject };
        customer.apply(CustomerEvent::Registered { user_id: Some(subject), details });
        customer.apply(CustomerEvent::Renamed { details: Sealed::Erased { subject } });
        customer.apply(CustomerEvent::ContactChanged { details: Sealed::Erased { subject } });
        assert!(customer.name.is_empty() && customer.contact.is_none() && customer.user_id == Some(subject));
    }
}
