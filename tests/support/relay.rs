//! Fixtures of the tests in `tests/nats`.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::{self, consumer};
use futures::TryStreamExt;
use nats::{Nats, NatsConfig};
use schemas::engine::{RecordedEvent, StreamName};
use store::{ExpectedVersion, Store, StreamAppend, TenantStore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::postgres::{event, metadata};
use crate::support::{self, nats_server::NatsServer};

/// Everything that a condition waits for happens well within it.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until the condition holds.
pub async fn wait_until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    support::eventually(what, || {
        let holds = condition();
        async { holds.await.then_some(()) }
    })
    .await;
}

pub async fn connect(url: String) -> Nats {
    Nats::connect(NatsConfig {
        url,
        credentials_file: None,
        tls: nats::NatsTls::default(),
        replicas: 1,
        allow_unauthenticated: true,
    })
    .await
    .expect("NATS can be used")
}

/// One relay: started, and stopped when asked to.
pub struct Relay {
    pub cancel: CancellationToken,
    pub task: JoinHandle<Result<(), nats::NatsError>>,
}

impl Relay {
    pub async fn start(store: &Store, server: &NatsServer) -> Self {
        let cancel = CancellationToken::new();
        let nats = connect(server.url()).await;
        let task = tokio::spawn(nats::relay::run(store.clone(), nats, cancel.clone()));
        Self { cancel, task }
    }

    pub async fn stop(self) {
        self.cancel.cancel();
        self.task.await.expect("the relay does not panic").expect("the relay ends well");
    }

    /// As by SIGKILL: in the middle of whatever it does.
    pub async fn abort(self) {
        self.task.abort();
        assert!(self.task.await.is_err_and(|error| error.is_cancelled()));
    }
}

/// Waits until the relay has stored that everything in the logs is on JetStream.
pub async fn relayed(store: &Store) {
    wait_until("every log is relayed", || async {
        let progress = nats::relay::progress::all(store).await.unwrap_or_default();
        !progress.is_empty() && progress.iter().all(|tenant| tenant.acked == tenant.head)
    })
    .await;
}

/// A message as a stock client sees it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub subject: String,
    pub headers: HeaderMap,
    pub payload: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.as_str())
    }

    pub fn position(&self) -> u64 {
        self.header("ce-position").parse().expect("ce-position is a number")
    }
}

/// Every message of `EVENTS` in stream order.
pub async fn read_events(server: &NatsServer, filter: &str) -> Vec<Seen> {
    let client = async_nats::connect(server.url()).await.expect("a stock client connects");
    let stream = jetstream::new(client).get_stream("EVENTS").await.expect("the stream exists");
    let config = consumer::pull::Config {
        deliver_policy: consumer::DeliverPolicy::All,
        ack_policy: consumer::AckPolicy::None,
        filter_subject: filter.to_owned(),
        ..consumer::pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await.expect("a consumer");
    let pending = consumer.cached_info().num_pending as usize;
    if pending == 0 {
        return Vec::new();
    }
    let messages =
        consumer.fetch().max_messages(pending).expires(DEADLINE).messages().await.expect("messages");
    messages
        .map_ok(|message| Seen {
            subject: message.subject.to_string(),
            headers: message.headers.clone().unwrap_or_default(),
            payload: message.payload.to_vec(),
        })
        .try_collect()
        .await
        .expect("every message arrives")
}

/// Appends so many events to streams of a tenant, many at once.
pub async fn append_many(tenant: &TenantStore, count: usize) {
    let append = |n: usize| {
        StreamAppend::new(
            StreamName::new("test.thing", Uuid::from_u128((n % 50) as u128)),
            ExpectedVersion::Any,
            vec![event("test.thing.happened.v1", &format!("{{\"n\":{n}}}"))],
            metadata(),
        )
    };
    for receipt in tenant.append_all((0..count).map(append).collect()).await {
        receipt.expect("the append succeeds");
    }
}

/// The whole log of a tenant.
pub async fn read_log(tenant: &TenantStore) -> Vec<RecordedEvent> {
    tenant.read_log(0, store::LogFilter::default()).try_collect().await.expect("the log reads")
}

/// Asserts that the messages hold exactly the tenant's log, each event once and in position order.
pub async fn assert_holds_the_log(seen: &[Seen], tenant: &TenantStore) {
    let log = read_log(tenant).await;
    let of_log: Vec<&Seen> =
        seen.iter().filter(|message| message.header("ce-logid") == log[0].log_id.to_string()).collect();
    let positions: Vec<u64> = of_log.iter().map(|message| message.position()).collect();
    assert_eq!(positions, (1..=log.len() as u64).collect::<Vec<_>>(), "each position once, in order");
    for (message, event) in of_log.iter().zip(&log) {
        assert_eq!(message.header("ce-id"), event.event_id.to_string());
        assert_eq!(message.payload, event.payload);
    }
}
