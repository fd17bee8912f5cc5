//! Repeated command ids: the first answer again, or a refusal where the command is another.

use commands::{CommandSideEffects, Customer, ExecuteError, ExecutionOutcome, Executor, new_aggregate_id};
use futures::future::join_all;
use schemas::crm::customer::{CustomerCommand, CustomerStatus};
use schemas::engine::ids;

use crate::support::commands::{by_admin, register, registered, rename};
use crate::support::postgres::{Database, open_tenant};

#[tokio::test]
async fn a_repeated_registration_is_a_duplicate_with_the_state_of_then() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let executor = Executor::new(store, 1024 * 1024);
    let context = by_admin(tenant.id()).with_command_id(ids::new_id());
    let id = new_aggregate_id(&context, "crm.customer");

    let first = executor
        .execute::<Customer>(&context, id, register("Ada"), CommandSideEffects::default())
        .await
        .expect("registered");
    executor
        .execute::<Customer>(&by_admin(tenant.id()), id, rename("Bo"), CommandSideEffects::default())
        .await
        .expect("renamed meanwhile");
    let again = executor
        .execute::<Customer>(&context, id, register("Ada"), CommandSideEffects::default())
        .await
        .expect("a repeat");
    assert_eq!((first.outcome, again.outcome), (ExecutionOutcome::Applied, ExecutionOutcome::Duplicate));
    assert_eq!((again.version, again.position, again.log_id), (first.version, first.position, first.log_id));
    assert_eq!((again.command_id, &again.consistency_token), (first.command_id, &first.consistency_token));
    assert_eq!(again.state, first.state);
    assert_eq!(tenant.head().await.expect("reads").position, 2);
}

#[tokio::test]
async fn a_repeat_is_a_duplicate_whatever_the_rule_or_the_version_says_by_now() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let executor = Executor::new(store, 1024 * 1024);
    let id = registered(&executor, tenant.id(), "Ada").await.id;

    let renaming = by_admin(tenant.id()).with_command_id(ids::new_id()).with_expected_version(1);
    let suspending = by_admin(tenant.id()).with_command_id(ids::new_id());
    let closing = by_admin(tenant.id()).with_command_id(ids::new_id());
    for _ in 0..2 {
        let renamed =
            executor.execute::<Customer>(&renaming, id, rename("Bo"), CommandSideEffects::default()).await;
        assert_eq!(renamed.expect("renamed").version, 2);
        let suspend = CustomerCommand::SuspendCustomer { reason: None };
        let suspended =
            executor.execute::<Customer>(&suspending, id, suspend, CommandSideEffects::default()).await;
        let suspended = suspended.expect("suspended");
        assert_eq!((suspended.version, suspended.state.status), (3, CustomerStatus::Suspended));
        let close = CustomerCommand::CloseCustomer { reason: None };
        let closed = executor.execute::<Customer>(&closing, id, close, CommandSideEffects::default()).await;
        assert_eq!(closed.expect("closed").version, 4);
    }
    assert_eq!(tenant.head().await.expect("reads").position, 4);
}

#[tokio::test]
async fn a_command_id_cannot_be_used_for_another_command() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let executor = Executor::new(store, 1024 * 1024);
    let (ada, bo) = (
        registered(&executor, tenant.id(), "Ada").await.id,
        registered(&executor, tenant.id(), "Bo").await.id,
    );
    let context = by_admin(tenant.id()).with_command_id(ids::new_id());
    executor
        .execute::<Customer>(&context, ada, rename("Cy"), CommandSideEffects::default())
        .await
        .expect("renamed");

    let close = || CustomerCommand::CloseCustomer { reason: None };
    let others = [
        executor.execute::<Customer>(&context, ada, rename("Di"), CommandSideEffects::default()).await,
        executor.execute::<Customer>(&context, bo, rename("Cy"), CommandSideEffects::default()).await,
        executor.execute::<Customer>(&context, ada, close(), CommandSideEffects::default()).await,
        // Even where the command would be refused or have no effect.
        executor.execute::<Customer>(&context, bo, rename("Bo"), CommandSideEffects::default()).await,
        executor
            .execute::<Customer>(&context, ids::new_id(), rename("Cy"), CommandSideEffects::default())
            .await,
    ];
    for other in others {
        assert!(matches!(other, Err(ExecuteError::CommandIdReused)));
    }
    assert_eq!(tenant.head().await.expect("reads").position, 3);
}

#[tokio::test]
async fn one_command_sent_many_times_at_once_takes_effect_once() {
    let database = Database::create().await;
    let (here, there) = (database.store().await, database.store().await);
    let tenant = open_tenant(&here, "acme").await;
    let executors = [Executor::new(here, 1024 * 1024), Executor::new(there, 1024 * 1024)];
    let context = by_admin(tenant.id()).with_command_id(ids::new_id());
    let id = new_aggregate_id(&context, "crm.customer");

    let sent = (0..40).map(|n| {
        let executor = &executors[n % 2];
        executor.execute::<Customer>(&context, id, register("Ada"), CommandSideEffects::default())
    });
    let answers = join_all(sent).await;
    let outcomes: Vec<ExecutionOutcome> =
        answers.iter().map(|answer| answer.as_ref().expect("all are accepted").outcome).collect();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == ExecutionOutcome::Applied).count(), 1);
    assert_eq!(tenant.head().await.expect("reads").position, 1);

    let context = by_admin(tenant.id()).with_command_id(ids::new_id());
    let sent = (0..40).map(|n| {
        let executor = &executors[n % 2];
        executor.execute::<Customer>(
            &context,
            id,
            CustomerCommand::CloseCustomer { reason: None },
            CommandSideEffects::default(),
        )
    });
    for answer in join_all(sent).await {
        assert_eq!(answer.expect("all are accepted").version, 2);
    }
    assert_eq!(tenant.head().await.expect("reads").position, 2);
}
