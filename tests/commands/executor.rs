//! Loading, deciding and appending: conflicts, stale caches, refusals.

use access::Principal;
use commands::{
    CommandContext, CommandSideEffects, Customer, CustomerRejection, ExecuteError, ExecutionOutcome,
    Executor, User,
};
use futures::TryStreamExt;
use futures::future::{join_all, try_join_all};
use schemas::crm::customer::{CustomerCommand, CustomerStatus};
use schemas::engine::{LogId, RecordedEvent, RequestId, StreamName, ids};
use schemas::identity::role::Role;
use schemas::identity::user::UserCommand;
use store::TenantStore;
use uuid::Uuid;

use crate::support::commands::{by_admin, name, register, registered, rename};
use crate::support::postgres::{Database, open_tenant};

async fn versions(tenant: &TenantStore, id: Uuid) -> Vec<u64> {
    let stream = StreamName::new("crm.customer", id);
    let events: Vec<RecordedEvent> =
        tenant.read_stream(&stream, 1).try_collect().await.expect("the stream reads");
    events.iter().map(|event| event.version).collect()
}

#[tokio::test]
async fn a_command_is_answered_with_the_state_behind_it() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let executor = Executor::new(store, 1024 * 1024);

    let first = registered(&executor, tenant.id(), "Ada").await;
    assert_eq!((first.outcome, first.version, first.position), (ExecutionOutcome::Applied, 1, 1));
    assert_eq!((first.state.name.as_str(), first.state.status), ("Ada", CustomerStatus::Active));
    assert_ne!(first.log_id, LogId(Uuid::nil()));

    let context = CommandContext {
        request_id: RequestId::parse("request-1"),
        causation_id: Some(Uuid::from_u128(5)),
        ..by_admin(tenant.id())
    };
    let second = executor
        .execute::<Customer>(&context, first.id, rename("Bo"), CommandSideEffects::default())
        .await
        .expect("the customer is renamed");
    assert_eq!((second.version, second.position, second.state.name.as_str()), (2, 2, "Bo"));
    let loaded = executor.load::<Customer>(tenant.id(), first.id).await.expect("loads").expect("is there");
    assert_eq!(loaded, (second.state, 2));

    let page = tenant.read_log_page(1, None, 10, &store::LogFilter::default()).await.expect("reads");
    let metadata = &page.events[0].metadata;
    assert_eq!(metadata.actor.as_str(), format!("user:{}", Uuid::from_u128(1)));
    assert_eq!((metadata.command_id, metadata.correlation_id), (second.command_id, second.command_id));
    assert_eq!(metadata.causation_id, Some(Uuid::from_u128(5)));
    assert_eq!(metadata.request_id.as_ref().map(RequestId::as_str), Some("request-1"));
}

#[tokio::test]
async fn fifty_commands_at_once_on_one_aggregate_all_succeed() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let executor = Executor::new(store, 1024 * 1024);
    let id = registered(&executor, tenant.id(), "Ada").await.id;

    let commands = (0..50).map(|n| {
        let executor = executor.clone();
        let context = by_admin(tenant.id());
        async move {
            executor
                .execute::<Customer>(&context, id, rename(&format!("Ada {n}")), CommandSideEffects::default())
                .await
        }
    });
    let mut reached: Vec<u64> =
        try_join_all(commands).await.expect("all succeed").iter().map(|executed| executed.version).collect();
    reached.sort_unstable();
    assert_eq!(reached, (2..=51).collect::<Vec<_>>());
    assert_eq!(versions(&tenant, id).await, (1..=51).collect::<Vec<_>>());
}

#[tokio::test]
async fn two_processes_at_once_on_one_aggregate_both_get_through() {
    let database = Database::create().await;
    let first = database.store().await;
    let tenant = &open_tenant(&first, "acme").await;
    let executors = [Executor::new(first, 1024 * 1024), Executor::new(database.store().await, 1024 * 1024)];
    let id = registered(&executors[0], tenant.id(), "Ada").await.id;

    let loops = executors.iter().enumerate().map(|(process, executor)| async move {
        for n in 0..25 {
            let command = rename(&format!("Ada {process} {n}"));
            executor
                .execute::<Customer>(&by_admin(tenant.id()), id, command, CommandSideEffects::default())
                .await
                .expect("the loser decides again");
        }
    });
    join_all(loops).await;
    assert_eq!(versions(tenant, id).await, (1..=51).collect::<Vec<_>>());
}

/// The second process has never seen the aggregate that it is asked to create.
#[tokio::test]
async fn what_another_process_created_is_refused_by_the_rule() {
    let database = Database::create().await;
    let first = database.store().await;
    let tenant = open_tenant(&first, "acme").await;
    let id = registered(&Executor::new(first, 1024 * 1024), tenant.id(), "Ada").await.id;
    let other = Executor::new(database.store().await, 1024 * 1024);
    let refused = other
        .execute::<Customer>(&by_admin(tenant.id()), id, register("Bo"), CommandSideEffects::default())
        .await;
    assert!(matches!(refused, Err(ExecuteError::Exists { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_stale_expected_version_conflicts_even_without_an_effect() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let executor = Executor::new(store, 1024 * 1024);
    let id = registered(&executor, tenant.id(), "Ada").await.id;

    for (expected, command) in [(0, "Bo"), (7, "Bo"), (7, "Ada")] {
        let context = by_admin(tenant.id()).with_expected_version(expected);
        let refused =
            executor.execute::<Customer>(&context, id, rename(command), CommandSideEffects::default()).await;
        assert!(matches!(refused, Err(ExecuteError::VersionConflict { actual: 1 })), "{expected} {command}");
    }
    let context = by_admin(tenant.id()).with_expected_version(1);
    let renamed =
        executor.execute::<Customer>(&context, id, rename("Bo"), CommandSideEffects::default()).await;
    assert_eq!(renamed.expect("the version is right").version, 2);

    let context = by_admin(tenant.id()).with_expected_version(3);
    let new = executor
        .execute::<Customer>(&context, ids::new_id(), register("Cy"), CommandSideEffects::default())
        .await;
    assert!(matches!(new, Err(ExecuteError::VersionConflict { actual: 0 })));
}

#[tokio::test]
async fn what_another_process_did_is_seen_before_a_refusal_or_a_shrug() {
    let database = Database::create().await;
    let (here, there) = (database.store().await, database.store().await);
    let tenant = open_tenant(&here, "acme").await;
    let (here, there) = (Executor::new(here, 1024 * 1024), Executor::new(there, 1024 * 1024));
    let context = by_admin(tenant.id());
    let id = registered(&here, tenant.id(), "Ada").await.id;

    // `here` still has "Ada" in memory, so the same name would look like nothing to do.
    there
        .execute::<Customer>(&context, id, rename("Bo"), CommandSideEffects::default())
        .await
        .expect("renamed");
    let back = here
        .execute::<Customer>(&context, id, rename("Ada"), CommandSideEffects::default())
        .await
        .expect("renamed");
    assert_eq!((back.version, back.state.name.as_str()), (3, "Ada"));

    // `there` believes version 2; the caller knows better.
    let current = context.clone().with_expected_version(3);
    let renamed = there.execute::<Customer>(&current, id, rename("Cy"), CommandSideEffects::default()).await;
    assert_eq!(renamed.expect("the caller is right").version, 4);

    here.execute::<Customer>(
        &context,
        id,
        CustomerCommand::CloseCustomer { reason: None },
        CommandSideEffects::default(),
    )
    .await
    .expect("closed");
    let refused = there.execute::<Customer>(&context, id, rename("Di"), CommandSideEffects::default()).await;
    assert!(matches!(refused, Err(ExecuteError::Rejected(CustomerRejection::Closed))));
}

#[tokio::test]
async fn a_command_without_effect_changes_nothing_and_names_the_head() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let executor = Executor::new(store, 1024 * 1024);
    let id = registered(&executor, tenant.id(), "Ada").await.id;
    registered(&executor, tenant.id(), "Bo").await;

    let context = by_admin(tenant.id()).with_command_id(ids::new_id());
    let same = executor
        .execute::<Customer>(&context, id, rename("Ada"), CommandSideEffects::default())
        .await
        .expect("fine");
    assert_eq!((same.outcome, same.version, same.position), (ExecutionOutcome::Applied, 1, 2));
    assert_eq!(tenant.head().await.expect("reads").position, 2);
}

#[tokio::test]
async fn a_refused_command_leaves_the_log_as_it_was() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let executor = Executor::new(store, 1024 * 1024);
    let id = registered(&executor, tenant.id(), "Ada").await.id;
    let context = by_admin(tenant.id());

    let unknown = executor
        .execute::<Customer>(&context, ids::new_id(), rename("Bo"), CommandSideEffects::default())
        .await;
    assert!(matches!(unknown, Err(ExecuteError::NotFound)));
    let again =
        executor.execute::<Customer>(&context, id, register("Ada"), CommandSideEffects::default()).await;
    assert!(matches!(again, Err(ExecuteError::Exists { .. })));

    let member = CommandContext::new(tenant.id(), Principal::user(Uuid::from_u128(2), vec![Role::Member]));
    for id in [id, ids::new_id()] {
        let refused = executor
            .execute::<Customer>(
                &member,
                id,
                CustomerCommand::SuspendCustomer { reason: None },
                CommandSideEffects::default(),
            )
            .await;
        assert!(matches!(refused, Err(ExecuteError::Forbidden)), "what exists and what does not look alike");
    }
    let other = executor
        .execute::<User>(
            &member,
            Uuid::from_u128(3),
            UserCommand::ChangeUserName { name: name("Bo") },
            CommandSideEffects::default(),
        )
        .await;
    assert!(matches!(other, Err(ExecuteError::Forbidden)));
    let itself = executor
        .execute::<User>(
            &member,
            Uuid::from_u128(2),
            UserCommand::ChangeUserName { name: name("Bo") },
            CommandSideEffects::default(),
        )
        .await;
    assert!(matches!(itself, Err(ExecuteError::NotFound)), "it may, but there is no such user");
    assert_eq!(tenant.head().await.expect("reads").position, 1);
}

#[tokio::test]
async fn a_tenant_that_does_not_exist_is_unknown() {
    let store = Database::create().await.store().await;
    let executor = Executor::new(store, 1024 * 1024);
    let context = by_admin(schemas::engine::TenantId(ids::new_id()));
    for id in [ids::new_id(), ids::new_id()] {
        let refused =
            executor.execute::<Customer>(&context, id, register("Ada"), CommandSideEffects::default()).await;
        assert!(matches!(refused, Err(ExecuteError::TenantUnknown)));
    }
    let refused = executor
        .execute::<Customer>(&context, ids::new_id(), rename("Ada"), CommandSideEffects::default())
        .await;
    assert!(matches!(refused, Err(ExecuteError::TenantUnknown)));
}

#[tokio::test]
async fn an_aggregate_that_fell_out_of_the_cache_is_loaded_again() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let executor = Executor::new(store, 1024 * 1024);
    let context = by_admin(tenant.id());
    let customers = [
        registered(&executor, tenant.id(), "Ada").await.id,
        registered(&executor, tenant.id(), "Bo").await.id,
        registered(&executor, tenant.id(), "Cy").await.id,
    ];
    for round in 2..=4 {
        for id in customers {
            let command = rename(&format!("Round {round}"));
            let executed =
                executor.execute::<Customer>(&context, id, command, CommandSideEffects::default()).await;
            assert_eq!(executed.expect("renamed").version, round);
        }
    }
}
