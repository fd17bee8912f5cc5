//! Fixtures of the tests in `tests/sagas`.

use access::Principal;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use commands::{CommandContext, Executor, register_user};
use futures::TryStreamExt;
use nats::StreamConsumer;
use sagas::{Process, RetrySettings, SagaSettings};
use schemas::engine::{Email, Name, RecordedEvent, TenantId, ids};
use schemas::identity::role::Role;
use store::{Store, TenantStore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::postgres::Database;
use crate::support::relay::{DEADLINE, Relay, connect};
use crate::support::{self, nats_server::NatsServer};

/// Retries that end soon.
pub const IMPATIENT: SagaSettings = SagaSettings {
    retry: RetrySettings {
        first: Duration::from_millis(5),
        factor: 2,
        cap: Duration::from_millis(50),
        max_attempts: 3,
    },
    max_concurrent_steps: 64,
    poll: Duration::from_millis(20),
};

/// A process of the product: relay, follower and sagas over one store.
pub struct Engine {
    pub store: Store,
    pub executor: Executor,
    pub relay: Relay,
    pub cancel: CancellationToken,
    pub sagas: JoinHandle<Result<(), sagas::SagaError>>,
}

impl Engine {
    pub async fn start(database: &Database, server: &NatsServer, processes: Vec<Arc<dyn Process>>) -> Self {
        Self::start_with(database, server, processes, IMPATIENT).await
    }

    pub async fn start_with(
        database: &Database,
        server: &NatsServer,
        processes: Vec<Arc<dyn Process>>,
        settings: SagaSettings,
    ) -> Self {
        let store = database.store().await;
        let executor = Executor::new(store.clone(), 1024 * 1024);
        let relay = Relay::start(&store, server).await;
        let cancel = CancellationToken::new();
        let follower = StreamConsumer::start(store.clone(), connect(server.url()).await, cancel.clone());
        let sagas = tokio::spawn(sagas::run(
            executor.clone(),
            processes,
            move || follower.batches(),
            settings,
            cancel.clone(),
        ));
        Self { store, executor, relay, cancel, sagas }
    }

    pub async fn stop(self) {
        self.cancel.cancel();
        self.sagas.await.expect("the sagas do not panic").expect("the sagas end well");
        self.relay.stop().await;
    }

    /// As by SIGKILL: in the middle of whatever it does.
    pub async fn abort(self) {
        self.sagas.abort();
        assert!(self.sagas.await.is_err_and(|error| error.is_cancelled()));
        self.relay.abort().await;
        self.cancel.cancel();
    }
}

/// Registers a user as a part of the platform would, again and again while the store is away; returns its id.
pub async fn register(executor: &Executor, tenant: TenantId, n: usize, roles: &[Role]) -> Uuid {
    let context = CommandContext::new(tenant, Principal::system("test"))
        .with_command_id(ids::derived_id(tenant.0, &n.to_string()));
    let email = Email::parse(&format!("user{n}@example.com")).expect("valid");
    let name = Name::parse(&format!("User {n}")).expect("valid");
    support::eventually("the user is registered", || async {
        let hash = Bytes::from_static(b"$argon2id$test");
        let registered =
            register_user(executor, &context, email.clone(), name.clone(), roles.to_vec(), hash).await;
        match registered {
            Ok(user) => Some(user.id),
            Err(error) if error.is_retryable() => None,
            Err(error) => panic!("{error}"),
        }
    })
    .await
}

/// Waits until the saga has reacted to everything in the tenant's log and no step is left.
pub async fn settled(database: &Database, tenant: &TenantStore, process: &str) {
    let owner = database.connect("postgres").await;
    let checkpoint = format!("saga.{process}");
    let waiting = async {
        loop {
            let head = tenant.head().await.expect("a head");
            let reached = tenant.wait_for_checkpoint(&checkpoint, head.log_id, head.position, DEADLINE).await;
            assert!(reached.expect("the checkpoint reads"), "{checkpoint} reaches {}", head.position);
            let sql =
                "select count(*) from saga_steps where tenant_id = $1 and saga = $2 and status = 'pending'";
            let steps: i64 = owner
                .query_one(sql, &[&tenant.id().0 as &(dyn tokio_postgres::types::ToSql + Sync), &process])
                .await
                .expect("counts")
                .get(0);
            // Taking a step appends, so the log must not have moved either.
            if steps == 0 && tenant.head().await.expect("a head") == head {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.expect("the saga settles");
}

/// The types of a stream's events.
pub async fn types(tenant: &TenantStore, stream: &schemas::engine::StreamName) -> Vec<String> {
    let events: Vec<RecordedEvent> =
        tenant.read_stream(stream, 1).try_collect().await.expect("the stream reads");
    events.iter().map(|event| event.event_type.to_string()).collect()
}
