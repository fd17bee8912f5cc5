//! Fixtures of the tests in `tests/commands`.

use access::Principal;
use commands::{CommandContext, CommandResult, CommandSideEffects, Customer, Executor};
use schemas::crm::customer::{CustomerCommand, CustomerDetails};
use schemas::engine::{Email, Name, TenantId, ids};
use schemas::identity::role::Role;
use uuid::Uuid;

pub fn name(text: &str) -> Name {
    Name::parse(text).expect("a valid name")
}

pub fn email(text: &str) -> Email {
    Email::parse(text).expect("a valid address")
}

/// A tenant administrator's command, without ids from outside.
pub fn by_admin(tenant: TenantId) -> CommandContext {
    CommandContext::new(tenant, Principal::user(Uuid::from_u128(1), vec![Role::TenantAdmin]))
}

pub fn register(text: &str) -> CustomerCommand {
    CustomerCommand::RegisterCustomer {
        user_id: None,
        details: CustomerDetails {
            name: name(text),
            email: email("ada@example.com"),
            company: None,
            notes: None,
        },
    }
}

pub fn rename(text: &str) -> CustomerCommand {
    CustomerCommand::RenameCustomer { name: name(text) }
}

/// A fresh customer.
pub async fn registered(executor: &Executor, tenant: TenantId, text: &str) -> CommandResult<Customer> {
    executor
        .execute(&by_admin(tenant), ids::new_id(), register(text), CommandSideEffects::default())
        .await
        .expect("the customer is registered")
}
