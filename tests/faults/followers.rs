//! Integrators: one follows JetStream with a stock client, one follows SSE. Each keeps a contiguous mark for each tenant
//! and fills holes from `/v1/events`, as the contract tells them to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use futures::StreamExt;
use serde_json::Value;

use super::load::World;

/// How long a hole may stay before it is filled from the log.
const HOLE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(200);

/// What a follower has of one tenant.
#[derive(Debug, Default)]
pub struct Followed {
    /// Event ids without a gap from position 1 on.
    pub ids: Vec<String>,
    ahead: BTreeMap<u64, String>,
    pub repeated: u64,
    pub filled: u64,
}

pub struct Followers {
    pub name: &'static str,
    world: Arc<World>,
    tenants: Vec<Mutex<Followed>>,
}

impl Followers {
    pub fn new(name: &'static str, world: &Arc<World>) -> Arc<Self> {
        let tenants = world.tenants.iter().map(|_| Mutex::default()).collect();
        Arc::new(Self { name, world: Arc::clone(world), tenants })
    }

    pub fn of(&self, tenant: usize) -> MutexGuard<'_, Followed> {
        self.tenants[tenant].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn saw(&self, tenant: usize, position: u64, id: &str) {
        let mut followed = self.of(tenant);
        let known = match position.checked_sub(1).and_then(|index| followed.ids.get(index as usize)) {
            Some(known) => Some(known.clone()),
            None => followed.ahead.insert(position, id.to_owned()),
        };
        if let Some(known) = known {
            followed.repeated += 1;
            if known != id {
                let name = self.name;
                self.world.tally.violation(format!("{name}: position {position} is {known} and {id}"));
            }
        }
        let mut next = followed.ids.len() as u64 + 1;
        while let Some(id) = followed.ahead.remove(&next) {
            followed.ids.push(id);
            next += 1;
        }
    }

    /// Fills holes that stay, until cancelled.
    pub async fn fill(self: Arc<Self>) {
        let mut looks = tokio::time::interval(HOLE);
        let mut marks = vec![0; self.tenants.len()];
        loop {
            looks.tick().await;
            for (tenant, before) in marks.iter_mut().enumerate() {
                let (mark, hole) = {
                    let followed = self.of(tenant);
                    (followed.ids.len(), !followed.ahead.is_empty())
                };
                if hole && mark == *before {
                    self.read_log(tenant).await;
                }
                *before = mark;
            }
        }
    }

    /// Reads what is behind the mark from the log.
    pub async fn read_log(&self, tenant: usize) {
        let after = self.of(tenant).ids.len();
        let account = &self.world.tenants[tenant];
        let make = |client: &reqwest::Client, gateway: &str| {
            client.get(format!("{gateway}/v1/events?after={after}&limit=1000")).bearer_auth(&account.token)
        };
        let Some(answer) = self.world.insist(make, after as u64).await else { return };
        for event in answer.body["events"].as_array().into_iter().flatten() {
            self.of(tenant).filled += 1;
            self.saw_event(tenant, event);
        }
    }

    fn saw_event(&self, tenant: usize, event: &Value) {
        let position = event["position"].as_str().and_then(|text| text.parse().ok());
        if let (Some(position), Some(id)) = (position, event["id"].as_str()) {
            if event["tenantid"] != self.world.tenants[tenant].slug.as_str() {
                self.world.tally.violation(format!("{}: an event of another tenant: {event}", self.name));
            }
            self.saw(tenant, position, id);
        } else {
            self.world.tally.violation(format!("{}: not an event: {event}", self.name));
        }
    }

    /// Follows a tenant by SSE for ever.
    pub async fn follow_sse(self: Arc<Self>, tenant: usize) {
        let mut pauses = tokio::time::interval(PAUSE);
        for attempt in tenant.. {
            pauses.tick().await;
            let mark = self.of(tenant).ids.len();
            let url = format!("{}/v1/events/stream", self.world.gateways[attempt % 2]);
            let request = self.world.client.get(url).bearer_auth(&self.world.tenants[tenant].token);
            let Ok(answer) = request.header("Last-Event-ID", mark.to_string()).send().await else { continue };
            if !answer.status().is_success() {
                continue;
            }
            let (mut stream, mut read) = (answer.bytes_stream(), Vec::new());
            while let Some(Ok(chunk)) = stream.next().await {
                read.extend_from_slice(&chunk);
                while let Some(end) = read.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = read.drain(..=end).collect();
                    if let Some(data) = line.strip_prefix(b"data:") {
                        let event = serde_json::from_slice(data).unwrap_or(Value::Null);
                        self.saw_event(tenant, &event);
                    }
                }
            }
        }
    }

    /// Follows all tenants by JetStream for ever, with a new consumer after each interruption.
    pub async fn follow_jetstream(self: Arc<Self>, nats_url: String) {
        let mut pauses = tokio::time::interval(PAUSE);
        loop {
            pauses.tick().await;
            // Whatever ends a consumer, the next one begins at the stream's beginning: at least once is all that counts.
            drop(self.consume(&nats_url).await);
        }
    }

    async fn consume(&self, nats_url: &str) -> Result<(), async_nats::Error> {
        let client = async_nats::connect(nats_url).await?;
        let stream = async_nats::jetstream::new(client).get_stream("EVENTS").await?;
        let config = pull::Config {
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::None,
            filter_subject: "events.>".to_owned(),
            memory_storage: true,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await?;
        let heartbeat = Duration::from_secs(1);
        let mut messages = consumer.stream().heartbeat(heartbeat).expires(heartbeat * 10).messages().await?;
        while let Some(message) = messages.next().await {
            let message = message?;
            let header =
                |name: &str| message.headers.as_ref()?.get(name).map(|value| value.as_str().to_owned());
            let slug = message.subject.split('.').nth(1).unwrap_or_default();
            // The platform's own tenant is on the stream as well.
            let Some(tenant) = self.world.tenants.iter().position(|account| account.slug == slug) else {
                continue;
            };
            let position = header("ce-position").and_then(|text| text.parse().ok());
            match (position, header("ce-id")) {
                (Some(position), Some(id)) => self.saw(tenant, position, &id),
                _ => self.world.tally.violation(format!("a message without attributes: {}", message.subject)),
            }
        }
        Ok(())
    }
}
