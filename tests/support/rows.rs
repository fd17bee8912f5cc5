//! Fixtures of the tests in `tests/queries`.

use access::Principal;
use std::time::Duration;

use bytes::Bytes;
use commands::{CommandContext, CommandSideEffects, Customer, Executor, register_user};
use projections::{CustomerRow, UserRow};
use schemas::crm::customer::{CustomerCommand, CustomerDetails};
use schemas::engine::{Email, Name, ids};
use schemas::identity::role::Role;
use store::feed::FeedSettings;
use store::{Store, TenantStore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::support::postgres::{Database, open_tenant};

/// A tenant, what commands it, and its read models kept in the background.
pub struct Setup {
    pub store: Store,
    pub tenant: TenantStore,
    pub executor: Executor,
    pub _kept: AbortOnDropHandle<()>,
}

impl Setup {
    pub async fn new() -> Self {
        Self::over(Database::create().await.store().await).await
    }

    /// Over a store without tenants.
    pub async fn over(store: Store) -> Self {
        let tenant = open_tenant(&store, "acme").await;
        let executor = Executor::new(store.clone(), 1024 * 1024);
        let kept = keep_all(&store);
        Self { store, tenant, executor, _kept: kept }
    }

    pub async fn register(&self, name: &str, email: &str, user_id: Option<Uuid>) -> Uuid {
        let command = CustomerCommand::RegisterCustomer {
            user_id,
            details: CustomerDetails {
                name: Name::parse(name).expect("a valid name"),
                email: Email::parse(email).expect("a valid address"),
                company: None,
                notes: None,
            },
        };
        let context = system(&self.tenant);
        let executed = self
            .executor
            .execute::<Customer>(&context, ids::new_id(), command, CommandSideEffects::default())
            .await;
        executed.expect("the customer is registered").id
    }

    pub async fn suspend(&self, id: Uuid) {
        let command = CustomerCommand::SuspendCustomer { reason: None };
        let context = system(&self.tenant);
        self.executor
            .execute::<Customer>(&context, id, command, CommandSideEffects::default())
            .await
            .expect("suspended");
    }

    pub async fn close(&self, id: Uuid) {
        let command = CustomerCommand::CloseCustomer { reason: None };
        let context = system(&self.tenant);
        self.executor
            .execute::<Customer>(&context, id, command, CommandSideEffects::default())
            .await
            .expect("closed");
    }

    pub async fn register_user(&self, name: &str, email: &str) -> Uuid {
        let name = Name::parse(name).expect("a valid name");
        let email = Email::parse(email).expect("a valid address");
        let hash = Bytes::from_static(b"$argon2id$");
        let roles = vec![Role::Member, Role::TenantAdmin];
        let context = system(&self.tenant);
        register_user(&self.executor, &context, email, name, roles, hash).await.expect("registered").id
    }

    /// Waits until the read models show everything.
    pub async fn settled(&self) {
        let head = self.tenant.head().await.expect("the head reads");
        for name in projections::checkpoints() {
            let patience = Duration::from_secs(20);
            let reached = self.tenant.wait_for_checkpoint(name, head.log_id, head.position, patience).await;
            assert!(reached.expect("the checkpoint reads"));
        }
    }
}

pub fn system(tenant: &TenantStore) -> CommandContext {
    CommandContext::new(tenant.id(), Principal::system("test"))
}

/// Keeps all read models for as long as the value lives.
pub fn keep_all(store: &Store) -> AbortOnDropHandle<()> {
    let settings = FeedSettings { compare_interval: Duration::from_millis(20), ..FeedSettings::default() };
    let store = store.clone();
    AbortOnDropHandle::new(tokio::spawn(async move {
        let cancel = CancellationToken::new();
        tokio::join!(
            projections::run::<CustomerRow>(
                store.clone(),
                futures::stream::pending(),
                settings,
                cancel.clone()
            ),
            projections::run::<UserRow>(store, futures::stream::pending(), settings, cancel),
        );
    }))
}
