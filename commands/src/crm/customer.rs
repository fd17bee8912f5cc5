//! The rules of a customer.

use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use schemas::crm::customer::{
    CloseCustomer, CustomerClosed, CustomerEvent, CustomerRegistered, CustomerRenamed, CustomerStatus,
    CustomerSuspended, RegisterCustomer, RenameCustomer, SuspendCustomer,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::engine::rules::{self, Rejection, Rules};

crate::commands! {
    /// What can be asked of a customer.
    pub enum CustomerCommand {
        creates Register(RegisterCustomer);
        changes Rename(RenameCustomer), Suspend(SuspendCustomer), Close(CloseCustomer);
    }
}

/// Why a customer command was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CustomerRejection {
    /// The id is taken by a customer.
    #[error("the customer is registered already")]
    AlreadyRegistered,
    /// There is no such customer.
    #[error("there is no such customer")]
    NotRegistered,
    /// Business with the customer has ended for good.
    #[error("the customer is closed")]
    Closed,
}

impl Rejection for CustomerRejection {
    fn code(&self) -> &'static str {
        match self {
            Self::AlreadyRegistered => "CUSTOMER_EXISTS",
            Self::NotRegistered => "CUSTOMER_UNKNOWN",
            Self::Closed => "CUSTOMER_CLOSED",
        }
    }
}

/// A customer as its events have made it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of CustomerRegistered")]
pub struct Customer {
    /// False before the first event.
    pub registered: bool,
    pub user_id: Option<Uuid>,
    pub name: String,
    pub email: String,
    pub company: Option<String>,
    pub notes: Option<String>,
    pub status: CustomerStatus,
}

impl Rules for Customer {
    fn decide(&self, command: CustomerCommand) -> Result<Vec<CustomerEvent>, CustomerRejection> {
        use CustomerCommand as Command;
        use CustomerStatus::{Closed, Suspended};

        match (self.registered, self.status, command) {
            (false, _, Command::Register(new)) => Ok(vec![CustomerEvent::Registered(CustomerRegistered {
                user_id: new.user_id,
                name: new.name,
                email: new.email,
                company: new.company,
                notes: new.notes,
            })]),
            (true, _, Command::Register(_)) => Err(CustomerRejection::AlreadyRegistered),
            (false, _, _) => Err(CustomerRejection::NotRegistered),

            (_, Closed, Command::Rename(_) | Command::Suspend(_)) => Err(CustomerRejection::Closed),
            (_, _, Command::Rename(RenameCustomer { name })) if name.as_str() == self.name => Ok(Vec::new()),
            (_, _, Command::Rename(RenameCustomer { name })) => {
                Ok(vec![CustomerEvent::Renamed(CustomerRenamed { name })])
            }

            (_, Suspended, Command::Suspend(_)) | (_, Closed, Command::Close(_)) => Ok(Vec::new()),
            (_, _, Command::Suspend(SuspendCustomer { reason })) => {
                Ok(vec![CustomerEvent::Suspended(CustomerSuspended { reason })])
            }
            (_, _, Command::Close(CloseCustomer { reason })) => {
                Ok(vec![CustomerEvent::Closed(CustomerClosed { reason })])
            }
        }
    }

    fn exists(&self) -> bool {
        self.registered
    }
}

impl Aggregate for Customer {
    const TYPE: &'static str = Self::CATEGORY;
    type Command = CustomerCommand;
    type Event = CustomerEvent;
    type Error = CustomerRejection;
    type Services = ();

    async fn handle(
        &mut self,
        command: CustomerCommand,
        _services: &(),
        sink: &EventSink<Self>,
    ) -> Result<(), CustomerRejection> {
        rules::handle(self, command, sink).await
    }

    fn apply(&mut self, event: CustomerEvent) {
        match event {
            CustomerEvent::Registered(registered) => {
                *self = Self {
                    registered: true,
                    user_id: registered.user_id,
                    name: registered.name.into(),
                    email: registered.email.into(),
                    company: registered.company.map(Into::into),
                    notes: registered.notes.map(Into::into),
                    status: CustomerStatus::Active,
                }
            }
            CustomerEvent::Renamed(renamed) => self.name = renamed.name.into(),
            CustomerEvent::Suspended(_) => self.status = CustomerStatus::Suspended,
            CustomerEvent::Closed(_) => self.status = CustomerStatus::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::{AggregateTestExecutor, TestFramework};
    use schemas::engine::{Email, Name};

    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a valid name")
    }

    fn registered() -> CustomerEvent {
        CustomerEvent::Registered(CustomerRegistered {
            user_id: None,
            name: name("Ada"),
            email: Email::parse("ada@example.com").expect("a valid address"),
            company: None,
            notes: None,
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

    fn rename(text: &str) -> CustomerCommand {
        RenameCustomer { name: name(text) }.into()
    }

    fn suspended() -> CustomerEvent {
        CustomerEvent::Suspended(CustomerSuspended { reason: None })
    }

    fn closed() -> CustomerEvent {
        CustomerEvent::Closed(CustomerClosed { reason: None })
    }

    fn given(events: Vec<CustomerEvent>) -> AggregateTestExecutor<Customer> {
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
        let renamed = CustomerEvent::Renamed(CustomerRenamed { name: name("Bo") });
        given(vec![registered()]).when(rename("Bo")).then_expect_events(vec![renamed.clone()]);
        given(vec![registered(), renamed]).when(rename("Bo")).then_expect_events(vec![]);
        given(vec![registered()]).when(rename("Ada")).then_expect_events(vec![]);
    }

    #[test]
    fn a_suspended_customer_can_be_renamed_and_is_not_suspended_again() {
        let renamed = CustomerEvent::Renamed(CustomerRenamed { name: name("Bo") });
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
}
