//! The rules of a customer.

use access::ErrorCode;
use schemas::crm::customer::{
    CloseCustomer, CustomerClosed, CustomerDetails, CustomerErased, CustomerEvent, CustomerName,
    CustomerRegistered, CustomerRenamed, CustomerStatus, CustomerSuspended, EraseCustomer, RegisterCustomer,
    RenameCustomer, SuspendCustomer,
};
use schemas::engine::Sealed;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::engine::decider::{Decider, Rejection};

crate::commands! {
    /// The commands of a customer.
    pub enum CustomerCommand {
        creates Register(RegisterCustomer);
        changes Rename(RenameCustomer), Suspend(SuspendCustomer), Close(CloseCustomer), Erase(EraseCustomer);
    }
}

/// Why a customer command was rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CustomerRejection {
    /// A customer with this id exists.
    #[error("the customer is registered already")]
    AlreadyRegistered,
    /// The customer does not exist.
    #[error("there is no such customer")]
    NotRegistered,
    /// The customer is closed, which is final.
    #[error("the customer is closed")]
    Closed,
}

impl Rejection for CustomerRejection {
    fn code(&self) -> ErrorCode {
        match self {
            Self::AlreadyRegistered => ErrorCode::CustomerExists,
            Self::NotRegistered => ErrorCode::CustomerUnknown,
            Self::Closed => ErrorCode::CustomerClosed,
        }
    }
}

/// A customer, folded from its events.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Customer {
    /// False before the first event.
    pub registered: bool,
    /// Whether the subject was erased, so that its personal data is lost.
    pub erased: bool,
    /// The user that the customer is, if any.
    pub user_id: Option<Uuid>,
    /// Name; empty after an erasure.
    pub name: String,
    /// E-mail address; empty after an erasure.
    pub email: String,
    /// Company, if given.
    pub company: Option<String>,
    /// Notes, if given.
    pub notes: Option<String>,
    /// Status of the customer.
    pub status: CustomerStatus,
}

impl Decider for Customer {
    type Command = CustomerCommand;
    type Event = CustomerEvent;
    type Error = CustomerRejection;

    fn apply(&mut self, event: CustomerEvent) {
        match event {
            CustomerEvent::Registered(registered) => {
                *self = Self { registered: true, user_id: registered.user_id, ..Self::default() };
                if let Some(details) = registered.details.open() {
                    self.name = details.name.into();
                    self.email = details.email.into();
                    self.company = details.company.map(Into::into);
                    self.notes = details.notes.map(Into::into);
                }
            }
            CustomerEvent::Renamed(renamed) => {
                self.name = renamed.details.open().map_or_else(String::new, |details| details.name.into());
            }
            CustomerEvent::Suspended(_) => self.status = CustomerStatus::Suspended,
            CustomerEvent::Closed(_) => self.status = CustomerStatus::Closed,
            CustomerEvent::Erased(_) => {
                let user_id = self.user_id;
                let status = CustomerStatus::Closed;
                *self = Self { registered: true, erased: true, user_id, status, ..Self::default() };
            }
        }
    }

    fn decide(&self, command: CustomerCommand) -> Result<Vec<CustomerEvent>, CustomerRejection> {
        use CustomerCommand as Command;
        use CustomerStatus::{Closed, Suspended};

        match (self.registered, self.status, command) {
            (false, _, Command::Register(new)) => Ok(vec![CustomerEvent::Registered(CustomerRegistered {
                user_id: new.user_id,
                details: Sealed::of(
                    new.user_id,
                    CustomerDetails {
                        name: new.name,
                        email: new.email,
                        company: new.company,
                        notes: new.notes,
                    },
                ),
            })]),
            (true, _, Command::Register(_)) => Err(CustomerRejection::AlreadyRegistered),
            (false, _, _) => Err(CustomerRejection::NotRegistered),

            (_, Closed, Command::Rename(_) | Command::Suspend(_)) => Err(CustomerRejection::Closed),
            (_, _, Command::Rename(RenameCustomer { name })) if name.as_str() == self.name => Ok(Vec::new()),
            (_, _, Command::Rename(RenameCustomer { name })) => {
                let details = Sealed::of(self.user_id, CustomerName { name });
                Ok(vec![CustomerEvent::Renamed(CustomerRenamed { details })])
            }

            (_, Suspended, Command::Suspend(_)) | (_, Closed, Command::Close(_)) => Ok(Vec::new()),
            (_, _, Command::Suspend(SuspendCustomer { reason })) => {
                Ok(vec![CustomerEvent::Suspended(CustomerSuspended { reason })])
            }
            (_, _, Command::Close(CloseCustomer { reason })) => {
                Ok(vec![CustomerEvent::Closed(CustomerClosed { reason })])
            }

            (_, _, Command::Erase(EraseCustomer {})) if self.erased => Ok(Vec::new()),
            (_, _, Command::Erase(EraseCustomer {})) => Ok(vec![CustomerEvent::Erased(CustomerErased {})]),
        }
    }

    fn exists(&self) -> bool {
        self.registered
    }
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

    fn registered() -> CustomerEvent {
        CustomerEvent::Registered(CustomerRegistered {
            user_id: None,
            details: Sealed::own(CustomerDetails {
                name: name("Ada"),
                email: Email::parse("ada@example.com").expect("a valid address"),
                company: None,
                notes: None,
            }),
        })
    }

    fn register() -> CustomerCommand {
        CustomerCommand::Register(RegisterCustomer {
            user_id: None,
            name: name("Ada"),
            email: Email::parse("ada@example.com").expect("a valid address"),
            company: None,
            notes: None,
        })
    }

    fn renamed(text: &str) -> CustomerEvent {
        CustomerEvent::Renamed(CustomerRenamed { details: Sealed::own(CustomerName { name: name(text) }) })
    }

    fn rename(text: &str) -> CustomerCommand {
        RenameCustomer { name: name(text) }.into()
    }

    fn suspended() -> CustomerEvent {
        CustomerEvent::Suspended(CustomerSuspended { reason: None })
    }

    fn closed() -> CustomerEvent {
        CustomerEvent::Closed(CustomerClosed { reason: None })
    }

    fn given(events: Vec<CustomerEvent>) -> AggregateTestExecutor<CqrsAggregate<Customer>> {
        TestFramework::with(()).given(events)
    }

    #[test]
    fn somebody_is_registered_once() {
        given(vec![]).when(register()).then_expect_events(vec![registered()]);
        given(vec![registered()]).when(register()).then_expect_error(CustomerRejection::AlreadyRegistered);
    }

    #[test]
    fn an_unknown_customer_can_only_be_registered() {
        for command in
            [rename("Bo"), SuspendCustomer { reason: None }.into(), CloseCustomer { reason: None }.into()]
        {
            given(vec![]).when(command).then_expect_error(CustomerRejection::NotRegistered);
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
        let renamed = renamed("Bo");
        let suspend = CustomerCommand::from(SuspendCustomer { reason: None });
        given(vec![registered()]).when(suspend.clone()).then_expect_events(vec![suspended()]);
        given(vec![registered(), suspended()]).when(suspend).then_expect_events(vec![]);
        given(vec![registered(), suspended()]).when(rename("Bo")).then_expect_events(vec![renamed]);
    }

    #[test]
    fn a_closed_customer_cannot_be_renamed_or_suspended() {
        let suspend = CustomerCommand::from(SuspendCustomer { reason: None });
        for command in [rename("Bo"), rename("Ada"), suspend] {
            given(vec![registered(), closed()]).when(command).then_expect_error(CustomerRejection::Closed);
        }
    }

    #[test]
    fn a_customer_is_closed_once_even_when_suspended() {
        let close = CustomerCommand::from(CloseCustomer { reason: None });
        given(vec![registered(), suspended()]).when(close.clone()).then_expect_events(vec![closed()]);
        given(vec![registered(), closed()]).when(close).then_expect_events(vec![]);
    }

    #[test]
    fn an_erased_customer_is_closed_and_nobody() {
        let erase = CustomerCommand::from(EraseCustomer {});
        let erased = CustomerEvent::Erased(CustomerErased {});
        given(vec![]).when(erase.clone()).then_expect_error(CustomerRejection::NotRegistered);
        given(vec![registered()]).when(erase.clone()).then_expect_events(vec![erased.clone()]);
        given(vec![registered(), closed()]).when(erase.clone()).then_expect_events(vec![erased.clone()]);
        given(vec![registered(), erased.clone()]).when(erase).then_expect_events(vec![]);
        given(vec![registered(), erased.clone()])
            .when(rename("Bo"))
            .then_expect_error(CustomerRejection::Closed);

        let mut customer = Customer::default();
        for event in [registered(), renamed("Bo"), erased] {
            customer.apply(event);
        }
        let nobody = Customer {
            registered: true,
            erased: true,
            status: CustomerStatus::Closed,
            ..Customer::default()
        };
        assert_eq!(customer, nobody);
    }

    #[test]
    fn the_fold_goes_on_where_keys_are_destroyed() {
        let subject = Uuid::from_u128(3);
        let mut customer = Customer::default();
        customer.apply(CustomerEvent::Registered(CustomerRegistered {
            user_id: Some(subject),
            details: Sealed::Erased { subject },
        }));
        customer.apply(CustomerEvent::Renamed(CustomerRenamed { details: Sealed::Erased { subject } }));
        assert!(customer.registered && customer.name.is_empty() && customer.user_id == Some(subject));
    }
}
