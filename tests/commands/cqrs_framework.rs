//! `CqrsFramework` on one tenant's log: the product's own aggregates, and one that knows nothing of Annals.

use std::collections::HashMap;

use commands::{CqrsAggregate, Customer, DecideError, Executor, Facts, TenantEventStore, User};
use cqrs_es::event_sink::EventSink;
use cqrs_es::{Aggregate, AggregateContext, AggregateError, CqrsFramework, DomainEvent, EventStore};
use schemas::engine::{StreamName, ids};
use schemas::identity::role::Role;
use schemas::identity::user::{UserCommand, UserDetails};
use serde::{Deserialize, Serialize};

use crate::support::commands::{email, name, register, rename};
use crate::support::postgres::{Database, open_tenant};

#[tokio::test]
async fn the_framework_and_the_executor_share_one_log() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let framework =
        CqrsFramework::new(TenantEventStore::<CqrsAggregate<Customer>>::new(tenant.clone()), vec![], ());
    let id = ids::new_id();

    framework.execute(&id.to_string(), register("Ada")).await.expect("registered");
    let metadata =
        HashMap::from([("actor".to_owned(), "user:7".to_owned()), ("remark".to_owned(), "x".to_owned())]);
    framework.execute_with_metadata(&id.to_string(), rename("Bo"), metadata).await.expect("renamed");
    let refused = framework.execute(&id.to_string(), register("Ada")).await;
    assert!(matches!(refused, Err(AggregateError::UserError(DecideError::Exists))));

    let (customer, version) = Executor::new(store, 1024 * 1024)
        .load::<Customer>(tenant.id(), id)
        .await
        .expect("loads")
        .expect("is there");
    assert_eq!((customer.name.as_str(), version), ("Bo", 2));
    let events = TenantEventStore::<CqrsAggregate<Customer>>::new(tenant)
        .load_events(&id.to_string())
        .await
        .expect("loads");
    assert_eq!(events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(events[1].metadata.get("actor").map(String::as_str), Some("user:7"));
    assert!(!events[1].metadata.contains_key("remark"));
}

#[tokio::test]
async fn of_two_commits_from_one_version_the_second_conflicts() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let events = TenantEventStore::<CqrsAggregate<Customer>>::new(tenant);
    let id = ids::new_id().to_string();

    for expected in 0..2 {
        let (mut first, mut second) = (
            events.load_aggregate(&id).await.expect("loads"),
            events.load_aggregate(&id).await.expect("loads"),
        );
        let command = || if expected == 0 { register("Ada") } else { rename("Bo") };
        let decide = |customer: &CqrsAggregate<Customer>| {
            commands::decide(&customer.state, customer.version, command(), &Facts::now()).expect("accepted")
        };
        let (mine, theirs) = (decide(first.aggregate()), decide(second.aggregate()));
        let committed = events.commit(mine, first, HashMap::new()).await.expect("commits");
        assert_eq!(committed[0].sequence, expected + 1);
        let refused = events.commit(theirs, second, HashMap::new()).await;
        assert!(matches!(refused, Err(AggregateError::AggregateConflict)));
    }
}

#[tokio::test]
async fn the_adapter_reserves_what_the_executor_would() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let framework =
        CqrsFramework::new(TenantEventStore::<CqrsAggregate<User>>::new(tenant.clone()), vec![], ());
    let command = || UserCommand::RegisterUser {
        details: UserDetails { email: email("ada@example.com"), name: name("Ada") },
        roles: vec![Role::Member],
    };
    let (first, second) = (ids::new_id(), ids::new_id());
    framework.execute(&first.to_string(), command()).await.expect("registered");
    assert!(framework.execute(&second.to_string(), command()).await.is_err(), "the address is taken");
    let holder = tenant.reserved_by("email", "ada@example.com").await.expect("reads");
    assert_eq!(holder, Some(StreamName::new("identity.user", first)));
}

/// As it would stand in any program of the cqrs-es ecosystem.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Account {
    balance: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum AccountEvent {
    MoneyDeposited { amount: i64 },
    MoneyWithdrawn { amount: i64, balance: i64 },
}

impl DomainEvent for AccountEvent {
    fn event_type(&self) -> String {
        match self {
            Self::MoneyDeposited { .. } => "MoneyDeposited".to_owned(),
            Self::MoneyWithdrawn { .. } => "MoneyWithdrawn".to_owned(),
        }
    }

    fn event_version(&self) -> String {
        "1.0".to_owned()
    }
}

enum AccountCommand {
    Deposit(i64),
    Withdraw(i64),
}

#[derive(Debug, thiserror::Error)]
#[error("funds are not available")]
struct Overdrawn;

impl Aggregate for Account {
    const TYPE: &'static str = "account";
    type Command = AccountCommand;
    type Event = AccountEvent;
    type Error = Overdrawn;
    type Services = ();

    async fn handle(
        &mut self,
        command: AccountCommand,
        _services: &(),
        sink: &EventSink<Self>,
    ) -> Result<(), Overdrawn> {
        let event = match command {
            AccountCommand::Deposit(amount) => AccountEvent::MoneyDeposited { amount },
            AccountCommand::Withdraw(amount) if amount > self.balance => return Err(Overdrawn),
            AccountCommand::Withdraw(amount) => {
                AccountEvent::MoneyWithdrawn { amount, balance: self.balance - amount }
            }
        };
        sink.write(event, self).await;
        Ok(())
    }

    fn apply(&mut self, event: AccountEvent) {
        match event {
            AccountEvent::MoneyDeposited { amount } => self.balance += amount,
            AccountEvent::MoneyWithdrawn { balance, .. } => self.balance = balance,
        }
    }
}

#[tokio::test]
async fn an_aggregate_that_knows_nothing_of_annals_runs_unchanged() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let accounts = || TenantEventStore::<Account>::foreign(tenant.clone(), "ext.bank.account");
    let framework = CqrsFramework::new(accounts(), vec![], ());

    framework.execute("ACC-1", AccountCommand::Deposit(100)).await.expect("deposited");
    framework.execute("ACC-1", AccountCommand::Withdraw(30)).await.expect("withdrawn");
    let refused = framework.execute("ACC-1", AccountCommand::Withdraw(71)).await;
    assert!(matches!(refused, Err(AggregateError::UserError(Overdrawn))));
    assert!(framework.execute("not/an id", AccountCommand::Deposit(1)).await.is_err());

    let mut loaded = accounts().load_aggregate("ACC-1").await.expect("loads");
    assert_eq!(loaded.aggregate().balance, 70);
    let page = tenant.read_log_page(0, None, 10, &store::LogFilter::default()).await.expect("reads");
    let types: Vec<&str> = page.events.iter().map(|event| event.event_type.as_str()).collect();
    assert_eq!(types, ["ext.bank.account.money_deposited.v1", "ext.bank.account.money_withdrawn.v1"]);
}
