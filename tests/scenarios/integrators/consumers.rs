//! The three followers, as integrators write them: a stock NATS client with a credentials file, server-sent events, a
//! webhook receiver. Each keeps a record and goes on from it, whatever ends what it listens to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::{ConnectOptions, Event, jetstream};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use futures::StreamExt;
use reqwest::Client;
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::consumer_record::{Arrival, Record};
use crate::support::dice::Dice;

/// Between two attempts to go on.
const PAUSE: Duration = Duration::from_millis(100);
/// Signatures are verified of one delivery in so many: all of them would be most of the test's work.
const VERIFIED: u64 = 32;
/// One delivery in so many is answered 500.
const FAILING: u64 = 2_500;

fn place_of(event: &Value) -> Option<(u64, Uuid)> {
    Some((event["position"].as_str()?.parse().ok()?, event["id"].as_str()?.parse().ok()?))
}

/// Follows JetStream for ever, and nothing else: what JetStream does not give it is missing. What comes early is held and
/// acknowledged when it is written down.
pub async fn follow_jetstream(record: Arc<Record>, credential: Value, file: PathBuf) {
    let text = |key: &str| credential[key].as_str().expect("a text").to_owned();
    std::fs::write(&file, text("credentials")).expect("the credentials are written");
    let follower = JetStream {
        file,
        server: credential["servers"][0].as_str().expect("an address").to_owned(),
        inbox_prefix: text("inbox_prefix"),
        api_prefix: text("api_prefix"),
        stream: text("stream"),
        consumer: text("consumer"),
        record,
    };
    let mut pauses = tokio::time::interval(PAUSE);
    loop {
        pauses.tick().await;
        follower.record.resume();
        // Whatever ends it, the next connection goes on.
        drop(Box::pin(follower.consume()).await);
    }
}

struct JetStream {
    file: PathBuf,
    server: String,
    inbox_prefix: String,
    api_prefix: String,
    stream: String,
    consumer: String,
    record: Arc<Record>,
}

impl JetStream {
    async fn consume(&self) -> Result<(), async_nats::Error> {
        let (lost, mut is_lost) = watch::channel(false);
        let client = ConnectOptions::with_credentials_file(&self.file)
            .await?
            .custom_inbox_prefix(&self.inbox_prefix)
            .request_timeout(Some(Duration::from_secs(2)))
            .event_callback(move |event| {
                if matches!(event, Event::Disconnected) {
                    lost.send_replace(true);
                }
                std::future::ready(())
            })
            .connect(&self.server)
            .await?;
        let context = jetstream::with_prefix(client.clone(), &self.api_prefix);
        let consumer: PullConsumer = context.get_consumer_from_stream(&self.consumer, &self.stream).await?;
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(500)
            .heartbeat(Duration::from_secs(1))
            .expires(Duration::from_secs(10))
            .messages()
            .await?;
        // An acknowledgement names a place, which another life of the stream gives to another message: what is held when
        // the connection is lost is forgotten, and comes again.
        let mut held = BTreeMap::new();
        loop {
            let message = tokio::select! {
                _ = is_lost.changed() => return Ok(()),
                message = messages.next() => message,
            };
            let Some(message) = message.transpose()? else { return Ok(()) };
            let header =
                |name: &str| message.headers.as_ref()?.get(name).map(async_nats::HeaderValue::as_str);
            let position = header("ce-position").and_then(|text| text.parse().ok());
            let Some((position, id)) = position.zip(header("ce-id").and_then(|id| id.parse().ok())) else {
                self.record.violation(format!("a message without attributes on {}", message.subject));
                continue;
            };
            match self.record.take(position, id) {
                Arrival::Early => drop(held.insert(position, (id, message))),
                Arrival::Repeated => message.ack().await?,
                Arrival::Written => {
                    message.ack().await?;
                    self.write_held(&mut held).await?;
                }
            }
        }
    }

    /// Writes down what is held and is not early any more.
    async fn write_held(
        &self,
        held: &mut BTreeMap<u64, (Uuid, jetstream::Message)>,
    ) -> Result<(), async_nats::Error> {
        while let Some(entry) = held.first_entry()
            && *entry.key() <= self.record.last() + 1
        {
            let (position, (id, message)) = entry.remove_entry();
            self.record.take(position, id);
            message.ack().await?;
        }
        Ok(())
    }
}

/// Follows server-sent events for ever; hangs up after a number of events that the dice say, `hang_up` at most.
/// The token is renewed meanwhile.
pub async fn follow_sse(
    record: Arc<Record>,
    url: String,
    token: watch::Receiver<String>,
    mut dice: Dice,
    hang_up: u64,
) {
    let mut pauses = tokio::time::interval(PAUSE);
    loop {
        pauses.tick().await;
        let after = record.resume();
        let request = Client::new().get(&url).bearer_auth(&*token.borrow());
        let request = request.header("Last-Event-ID", after.to_string());
        let Ok(answer) = request.send().await else { continue };
        if !answer.status().is_success() {
            continue;
        }
        let until = after + 1 + dice.below(hang_up);
        let (mut stream, mut read) = (answer.bytes_stream(), Vec::new());
        while record.last() < until
            && let Some(Ok(chunk)) = stream.next().await
        {
            read.extend_from_slice(&chunk);
            let whole = read.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            for line in read[..whole].split(|byte| *byte == b'\n') {
                let Some(data) = line.strip_prefix(b"data: ") else { continue };
                let Some((position, id)) = serde_json::from_slice(data).ok().as_ref().and_then(place_of)
                else {
                    record.violation(format!("not an event: {}", String::from_utf8_lossy(data)));
                    continue;
                };
                // Neither a gap nor a repeat, on whichever connection.
                let arrival = record.take(position, id);
                if arrival != Arrival::Written {
                    record.violation(format!("{arrival:?}: {position} behind {}", record.last()));
                }
            }
            read.drain(..whole);
        }
    }
}

/// An endpoint that keeps a record. Some deliveries are answered 500, half of them after they were written down.
pub struct Endpoint {
    pub url: String,
    state: Arc<EndpointState>,
    _serving: AbortOnDropHandle<()>,
}

struct EndpointState {
    record: Arc<Record>,
    dice: Mutex<Dice>,
    signed_with: Mutex<Option<Webhook>>,
}

impl Endpoint {
    pub async fn start(record: Arc<Record>, dice: Dice) -> Self {
        let state = Arc::new(EndpointState { record, dice: Mutex::new(dice), signed_with: Mutex::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/hooks", listener.local_addr().expect("bound"));
        let router = Router::new().fallback(deliver).with_state(Arc::clone(&state));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
        Self { url, state, _serving: AbortOnDropHandle::new(serving) }
    }

    /// Verifies deliveries from now on.
    pub fn verify(&self, secret: &str) {
        let webhook = Webhook::new(secret).expect("a secret");
        *self.state.signed_with.lock().unwrap_or_else(PoisonError::into_inner) = Some(webhook);
    }
}

async fn deliver(State(endpoint): State<Arc<EndpointState>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let record = &endpoint.record;
    let event = serde_json::from_slice(&body).ok();
    let Some((position, id)) = event.as_ref().and_then(place_of) else {
        record.violation("a delivery that is no event".to_owned());
        return StatusCode::BAD_REQUEST;
    };
    if position.is_multiple_of(VERIFIED)
        && let Some(webhook) = &*endpoint.signed_with.lock().unwrap_or_else(PoisonError::into_inner)
        && webhook.verify(&body, &headers).is_err()
    {
        record.violation(format!("the signature at {position} is wrong"));
    }
    let fails = {
        let mut dice = endpoint.dice.lock().unwrap_or_else(PoisonError::into_inner);
        (dice.below(FAILING) == 0).then(|| dice.below(2) == 0)
    };
    if fails == Some(false) {
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    if record.take(position, id) == Arrival::Early {
        record.violation(format!("{position} was delivered behind {}", record.last()));
    }
    if fails.is_some() { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::NO_CONTENT }
}
