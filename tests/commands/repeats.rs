//! Whatever comes in between, and at once: the first answer is given again, and nothing acts twice.

use access::Principal;
use std::collections::HashMap;

use commands::{
    CommandContext, CommandResult, CommandSideEffects, Customer, ExecuteError, ExecutionOutcome, Executor,
    User, change_roles, new_aggregate_id, register_user,
};
use futures::TryStreamExt;
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use schemas::crm::customer::CustomerCommand;
use schemas::engine::{TenantId, ids};
use schemas::identity::role::Role;
use store::{LogFilter, RequestDigest};
use uuid::Uuid;

use crate::support::commands::{by_admin, email, name, register, registered, rename};
use crate::support::postgres::{Database, open_tenant};

fn by(tenant: TenantId, user: u128, key: Uuid) -> CommandContext {
    let caller = Principal::user(Uuid::from_u128(user), vec![Role::TenantAdmin]);
    CommandContext::new(tenant, caller).with_command_id(key)
}

#[tokio::test]
async fn a_repeat_of_a_command_without_effect_does_not_act_later() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let executor = Executor::new(store, 1024 * 1024);
    let id = registered(&executor, tenant.id(), "Ada").await.id;
    let context = by(tenant.id(), 1, ids::new_id());

    let first =
        executor.execute::<Customer>(&context, id, rename("Ada"), CommandSideEffects::default()).await;
    let first = first.expect("it has that name already");
    assert_eq!((first.outcome, first.version, first.position), (ExecutionOutcome::Applied, 1, 1));
    executor
        .execute::<Customer>(&by_admin(tenant.id()), id, rename("Bo"), CommandSideEffects::default())
        .await
        .expect("renamed meanwhile");
    let again =
        executor.execute::<Customer>(&context, id, rename("Ada"), CommandSideEffects::default()).await;
    assert_eq!(again.expect("a repeat"), CommandResult { outcome: ExecutionOutcome::Duplicate, ..first });
    let (customer, version) =
        executor.load::<Customer>(tenant.id(), id).await.expect("reads").expect("is there");
    assert_eq!((customer.name.as_str(), version), ("Bo", 2));

    for other in [
        executor.execute::<Customer>(&context, id, rename("Bo"), CommandSideEffects::default()).await,
        executor
            .execute::<Customer>(
                &context,
                id,
                CustomerCommand::SuspendCustomer { reason: None },
                CommandSideEffects::default(),
            )
            .await,
    ] {
        assert!(matches!(other, Err(ExecuteError::CommandIdReused)));
    }
    assert_eq!(tenant.head().await.expect("reads").position, 2);
}

#[tokio::test]
async fn repeated_roles_do_not_come_back_after_they_were_taken() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let executor = Executor::new(store, 1024 * 1024);
    let cli = CommandContext::new(tenant.id(), Principal::system("cli"));
    let admins = vec![Role::TenantAdmin];
    let mut users = Vec::new();
    for (address, roles) in [("ada@example.com", admins.clone()), ("bo@example.com", admins.clone())] {
        let user = register_user(&executor, &cli, email(address), name("Ada"), roles, None).await;
        users.push(user.expect("registered").id);
    }
    let by_ada = || CommandContext::new(tenant.id(), Principal::user(users[0], admins.clone()));
    let keyed = by_ada().with_command_id(ids::new_id());

    let first = change_roles(&executor, &keyed, users[1], admins.clone()).await.expect("it has them already");
    change_roles(&executor, &by_ada(), users[1], vec![Role::Member]).await.expect("taken");
    let again = change_roles(&executor, &keyed, users[1], admins.clone()).await.expect("a repeat");
    assert_eq!((again.outcome, again.version), (ExecutionOutcome::Duplicate, first.version));
    assert_eq!(again.state.roles, admins, "as it was the first time");
    let (user, _) = executor.load::<User>(tenant.id(), users[1]).await.expect("reads").expect("is there");
    assert_eq!(user.roles, [Role::Member], "as it is");
}

#[tokio::test]
async fn two_principals_with_one_key_do_not_meet() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let executor = Executor::new(store, 1024 * 1024);
    let key = ids::new_id();
    let mut customers = Vec::new();
    for user in 1..=2 {
        let context = by(tenant.id(), user, key);
        let id = new_aggregate_id(&context, "crm.customer");
        for outcome in [ExecutionOutcome::Applied, ExecutionOutcome::Duplicate] {
            let done = executor
                .execute::<Customer>(&context, id, register("Ada"), CommandSideEffects::default())
                .await;
            assert_eq!(done.expect("registered").outcome, outcome);
        }
        customers.push(id);
    }
    assert_ne!(customers[0], customers[1]);
    let events: Vec<_> = tenant.read_log(0, LogFilter::default()).try_collect().await.expect("reads");
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|event| event.metadata.command_id == key), "events name the key itself");

    // The id of a command of the product's own is nobody's key.
    let saga = Principal::system("saga:customer_onboarding");
    let own = CommandContext::new(tenant.id(), saga).with_command_id(key);
    let renamed =
        executor.execute::<Customer>(&own, customers[0], rename("Bo"), CommandSideEffects::default()).await;
    assert_eq!(renamed.expect("renamed").outcome, ExecutionOutcome::Applied);
}

#[tokio::test]
async fn a_registration_repeated_with_another_password_is_refused() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let executor = Executor::new(store, 1024 * 1024);
    let context = CommandContext::new(tenant.id(), Principal::Anonymous).with_command_id(ids::new_id());
    let register = |password: &str| {
        let digest =
            RequestDigest::new(executor.store().key(), "POST /v1/auth/register", "/v1/auth/register");
        let digest = digest.body(b"{}").secret("password", password.as_bytes()).finish();
        let (executor, mut context) = (executor.clone(), context.clone());
        context.request_digest = Some(digest);
        async move {
            let (address, member) = (email("ada@example.com"), vec![Role::Member]);
            register_user(&executor, &context, address, name("Ada"), member, bytes::Bytes::from_static(b"x"))
                .await
        }
    };
    let first = register("correct horse").await.expect("registered");
    let again = register("correct horse").await.expect("a repeat");
    assert_eq!((again.outcome, again.id), (ExecutionOutcome::Duplicate, first.id));
    assert!(matches!(register("battery staple").await, Err(ExecuteError::CommandIdReused)));
}

#[tokio::test]
async fn the_nil_uuid_is_no_command_id() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let executor = Executor::new(store, 1024 * 1024);
    let nil = by(tenant.id(), 1, Uuid::nil());
    let refused = executor
        .execute::<Customer>(&nil, ids::new_id(), register("Ada"), CommandSideEffects::default())
        .await;
    assert!(matches!(refused, Err(ExecuteError::Invalid(_))));
}

/// What one of several principals asks for under one of several keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Asked {
    principal: u128,
    key: Option<usize>,
    customer: usize,
    /// A name, or a suspension.
    name: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq)]
struct Answered {
    version: u64,
    position: u64,
    state: Customer,
}

const ROUNDS: usize = 60;
const AT_ONCE: usize = 6;
const KEYS: usize = 12;

/// Principals send commands under few keys, at once and over two processes, with and without effect, repeated with the
/// same and with other content, and others change the same customers in between.
#[tokio::test(flavor = "multi_thread")]
async fn for_any_interleaving_the_first_answer_is_given_again_and_nothing_acts_twice() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let database = Database::create().await;
    let (here, there) = (database.store().await, database.store().await);
    let tenant = open_tenant(&here, "acme").await;
    let processes = [Executor::new(here, 1024 * 1024), Executor::new(there, 1024 * 1024)];
    let customers = [
        registered(&processes[0], tenant.id(), "Ada").await.id,
        registered(&processes[0], tenant.id(), "Bo").await.id,
    ];
    let keys: Vec<Uuid> = (0..KEYS).map(|_| ids::random_id()).collect();
    let mut first: HashMap<(u128, usize), (Asked, Answered)> = HashMap::new();
    for _ in 0..ROUNDS {
        let asked: Vec<(usize, Asked)> = (0..AT_ONCE)
            .map(|_| {
                let asked = Asked {
                    principal: random.random_range(1..=2),
                    key: random.random_bool(0.8).then(|| random.random_range(0..KEYS)),
                    customer: random.random_range(0..2),
                    name: random.random_bool(0.9).then(|| ["Ada", "Bo"][random.random_range(0..2)]),
                };
                (random.random_range(0..2), asked)
            })
            .collect();
        let answers = join_all(asked.iter().map(|(process, asked)| {
            let (executor, id) = (&processes[*process], customers[asked.customer]);
            let caller = Principal::user(Uuid::from_u128(asked.principal), vec![Role::TenantAdmin]);
            let mut context = CommandContext::new(tenant.id(), caller);
            context.command_id = asked.key.map(|key| keys[key]);
            async move {
                if let Some(name) = asked.name {
                    executor
                        .execute::<Customer>(&context, id, rename(name), CommandSideEffects::default())
                        .await
                } else {
                    let suspend = CustomerCommand::SuspendCustomer { reason: None };
                    executor.execute::<Customer>(&context, id, suspend, CommandSideEffects::default()).await
                }
            }
        }))
        .await;
        let known = first.clone();
        for ((_, asked), answer) in asked.into_iter().zip(answers) {
            let Some(key) = asked.key else { continue };
            let place = (asked.principal, key);
            match answer {
                Ok(CommandResult { outcome, version, position, state, .. }) => {
                    let answered = Answered { version, position, state };
                    let (what, before) = first.entry(place).or_insert_with(|| (asked, answered.clone()));
                    assert_eq!((*what, &*before), (asked, &answered), "another answer than the first");
                    if known.contains_key(&place) {
                        assert_eq!(outcome, ExecutionOutcome::Duplicate, "{asked:?} acted again");
                    }
                }
                Err(ExecuteError::CommandIdReused) => {
                    // The first may be one of these that are answered at once.
                    assert!(
                        known.get(&place).is_none_or(|(what, _)| *what != asked),
                        "{asked:?} was the first"
                    );
                }
                Err(error) => panic!("{asked:?}: {error}"),
            }
        }
    }
    let events: Vec<_> = tenant.read_log(0, LogFilter::default()).try_collect().await.expect("reads");
    let mut acted: HashMap<(String, Uuid), usize> = HashMap::new();
    for event in events.iter().filter(|event| keys.contains(&event.metadata.command_id)) {
        let by = (event.metadata.actor.as_str().to_owned(), event.metadata.command_id);
        *acted.entry(by).or_default() += 1;
    }
    assert!(acted.values().all(|events| *events == 1), "{acted:?}");
    assert!(first.len() > acted.len(), "some commands had no effect");
}
