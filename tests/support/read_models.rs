//! Fixtures of the tests in `tests/projections`.

use access::Principal;
use std::collections::BTreeMap;
use std::time::Duration;

use commands::{CommandContext, CommandSideEffects, Customer, Executor, User};
use futures::{Stream, TryStreamExt};
use projections::{Batch, CustomerRow, Projection, StoredRow, UserRow};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use schemas::crm::customer::{CustomerCommand, CustomerDetails};
use schemas::engine::{Email, Event, Name, RecordedEvent, ids};
use schemas::identity::role::Role;
use schemas::identity::user::{UserCommand, UserDetails};
use store::feed::FeedSettings;
use store::{LogFilter, Store, TenantStore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// Nobody waits longer than this for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Keeps the read model `P` in the background for as long as the value lives.
pub fn keep<P: Projection>(
    store: &Store,
    followed: impl Stream<Item = Batch> + Send + 'static,
    settings: FeedSettings,
) -> AbortOnDropHandle<()> {
    let run = projections::run::<P>(store.clone(), followed, settings, CancellationToken::new());
    AbortOnDropHandle::new(tokio::spawn(run))
}

/// A source that never brings anything: the log alone must do.
pub fn no_notifications() -> impl Stream<Item = Batch> + Send + 'static {
    futures::stream::pending()
}

/// Compares with the heads often, so that tests need not wait a second.
pub fn frequent_comparison() -> FeedSettings {
    FeedSettings { compare_interval: Duration::from_millis(20), ..FeedSettings::default() }
}

/// Waits until the read model has reached the end of the tenant's log.
pub async fn caught_up<P: Projection>(tenant: &TenantStore) {
    let head = tenant.head().await.expect("the head reads");
    let name = P::MODEL.name;
    let reached = tenant.wait_for_checkpoint(name, head.log_id, head.position, PATIENCE).await;
    assert!(reached.expect("the checkpoint reads"), "{name} has not reached {}", head.position);
}

pub async fn log(tenant: &TenantStore) -> Vec<RecordedEvent> {
    let log = tenant.read_log(0, LogFilter::default()).try_collect().await.expect("the log reads");
    tenant.open(log).await.expect("personal data opens")
}

/// What the read model must hold: each of its streams folded.
pub async fn folded<P: Projection>(tenant: &TenantStore) -> BTreeMap<Uuid, StoredRow<P>> {
    let mut streams: BTreeMap<Uuid, Vec<RecordedEvent>> = BTreeMap::new();
    for event in log(tenant).await {
        let concerns = event.stream.category() == <P::Event as Event>::CATEGORY;
        if let Some(id) = event.stream.uuid().filter(|_| concerns) {
            streams.entry(id).or_default().push(event);
        }
    }
    streams
        .into_iter()
        .filter_map(|(id, events)| Some((id, projections::fold::<P>(&events).expect("the log folds")?)))
        .collect()
}

/// What the read model holds.
pub async fn rows<P: Projection>(tenant: &TenantStore) -> BTreeMap<Uuid, StoredRow<P>> {
    let transaction = tenant.begin_snapshot().await.expect("begins");
    let generation = transaction.generation(P::MODEL.name).await.expect("reads");
    let table = projections::table_at(P::MODEL, generation);
    let statement = format!("select id, row_to_json(t)::text from {table} t where tenant_id = $1");
    let rows = transaction.query(&statement, &[&tenant.id().0]).await.expect("reads");
    transaction.commit().await.expect("ends");
    rows.iter().map(|row| (row.get(0), serde_json::from_str(row.get(1)).expect("a row"))).collect()
}

pub async fn customers(tenant: &TenantStore) -> BTreeMap<Uuid, StoredRow<CustomerRow>> {
    rows::<CustomerRow>(tenant).await
}

pub async fn users(tenant: &TenantStore) -> BTreeMap<Uuid, StoredRow<UserRow>> {
    rows::<UserRow>(tenant).await
}

pub fn name(text: &str) -> Name {
    Name::parse(text).expect("a valid name")
}

pub fn email(text: &str) -> Email {
    Email::parse(text).expect("a valid address")
}

pub fn system(tenant: &TenantStore) -> CommandContext {
    CommandContext::new(tenant.id(), Principal::system("test"))
}

pub async fn register(executor: &Executor, tenant: &TenantStore, text: &str) -> Uuid {
    let command = CustomerCommand::RegisterCustomer {
        user_id: Some(ids::new_id()),
        details: CustomerDetails {
            name: name(text),
            email: email("Ada@Example.com"),
            company: Some(name("Engines & \"Söhne\"")),
            notes: None,
        },
    };
    let executed = executor
        .execute::<Customer>(&system(tenant), ids::new_id(), command, CommandSideEffects::default())
        .await;
    executed.expect("the customer is registered").id
}

pub async fn rename(executor: &Executor, tenant: &TenantStore, id: Uuid, text: &str) {
    let command = CustomerCommand::RenameCustomer { name: name(text) };
    executor
        .execute::<Customer>(&system(tenant), id, command, CommandSideEffects::default())
        .await
        .expect("renamed");
}

/// Random commands on a few customers and users; refused ones are part of the game.
pub async fn random_history(executor: &Executor, tenant: &TenantStore, commands: usize, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let ids: Vec<Uuid> = (0..12).map(|_| ids::new_id()).collect();
    let context = system(tenant);
    for n in 0..commands {
        let id = ids[random.random_range(0..ids.len())];
        let text = format!("Name {}", random.random_range(0..5));
        let none = CommandSideEffects::default;
        match random.random_range(0..8) {
            0 | 1 => {
                let command = CustomerCommand::RegisterCustomer {
                    user_id: None,
                    details: CustomerDetails {
                        name: name(&text),
                        email: email("ada@example.com"),
                        company: None,
                        notes: None,
                    },
                };
                drop(executor.execute::<Customer>(&context, id, command, none()).await);
            }
            2 => drop(
                executor
                    .execute::<Customer>(
                        &context,
                        id,
                        CustomerCommand::RenameCustomer { name: name(&text) },
                        none(),
                    )
                    .await,
            ),
            3 => drop(
                executor
                    .execute::<Customer>(
                        &context,
                        id,
                        CustomerCommand::SuspendCustomer { reason: None },
                        none(),
                    )
                    .await,
            ),
            4 if n % 3 == 0 => {
                drop(
                    executor
                        .execute::<Customer>(
                            &context,
                            id,
                            CustomerCommand::CloseCustomer { reason: None },
                            none(),
                        )
                        .await,
                );
            }
            5 => {
                let address = email(&format!("{n}@example.com"));
                let command = UserCommand::RegisterUser {
                    details: UserDetails { email: address, name: name(&text) },
                    roles: vec![Role::Member],
                };
                drop(executor.execute::<User>(&context, id, command, none()).await);
            }
            6 => drop(
                executor
                    .execute::<User>(&context, id, UserCommand::ChangeUserName { name: name(&text) }, none())
                    .await,
            ),
            7 if n % 2 == 0 => {
                drop(executor.execute::<User>(&context, id, UserCommand::ConfirmUserEmail {}, none()).await);
            }
            _ => drop(
                executor
                    .execute::<User>(&context, id, UserCommand::DeactivateUser { reason: None }, none())
                    .await,
            ),
        }
    }
}
