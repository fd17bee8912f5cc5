//! Fixtures of the tests in `tests/credentials`.

use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::{self, Message};
use async_nats::{Client, ConnectOptions};
use futures::StreamExt;
use nats::integrators::IntegratorConnection;
use serde_json::{Value, json};

/// Far longer than a message that is there takes, and short enough to find out that none is.
pub const NOTHING_MORE: Duration = Duration::from_millis(400);

/// A stock NATS client with what the product has given it.
#[derive(Debug, Clone)]
pub struct Integrator(Value);

impl Integrator {
    /// From the answer of the API.
    pub fn new(answer: Value) -> Self {
        Self(answer)
    }

    /// From what the engine issued.
    pub fn issued(connection: &IntegratorConnection) -> Self {
        Self(json!(connection))
    }

    pub fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_else(|| panic!("{key} is a text"))
    }

    /// Where it is told to connect.
    pub fn server(&self) -> &str {
        self.0["servers"][0].as_str().expect("an address")
    }

    /// Connects the way the documentation tells.
    pub async fn connect(&self) -> Result<Client, async_nats::ConnectError> {
        let options =
            ConnectOptions::with_credentials(self.text("credentials")).expect("the credentials read");
        let options = options
            .custom_inbox_prefix(self.text("inbox_prefix"))
            .request_timeout(Some(Duration::from_secs(5)));
        Box::pin(options.connect(self.server())).await
    }

    /// Its consumer, by a client.
    pub async fn consumer(&self, client: &Client) -> PullConsumer {
        let context = jetstream::with_prefix(client.clone(), self.text("api_prefix"));
        context
            .get_consumer_from_stream(self.text("consumer"), self.text("stream"))
            .await
            .expect("its consumer is there")
    }

    /// Pulls and acknowledges so many messages with a connection of its own; returns their positions.
    pub async fn read(&self, count: usize) -> Vec<u64> {
        let client = self.connect().await.expect("it connects");
        let consumer = self.consumer(&client).await;
        let messages = pull(&consumer, count, Duration::from_secs(10)).await;
        assert_eq!(messages.len(), count, "as many messages as there should be");
        for message in &messages {
            message.double_ack().await.expect("acknowledged");
        }
        messages.iter().map(position).collect()
    }

    /// The positions of everything that is there now, acknowledged.
    pub async fn drain(&self) -> Vec<u64> {
        let client = self.connect().await.expect("it connects");
        let consumer = self.consumer(&client).await;
        let mut positions = Vec::new();
        loop {
            let messages = pull(&consumer, 1_000, NOTHING_MORE).await;
            if messages.is_empty() {
                return positions;
            }
            for message in &messages {
                message.double_ack().await.expect("acknowledged");
                positions.push(position(message));
            }
        }
    }
}

/// Up to `count` messages, waited for at most so long.
pub async fn pull(consumer: &PullConsumer, count: usize, expires: Duration) -> Vec<Message> {
    let messages = consumer.fetch().max_messages(count).expires(expires).messages().await.expect("it pulls");
    messages.map(|message| message.expect("a message")).collect().await
}

pub fn position(message: &Message) -> u64 {
    let headers = message.headers.as_ref().expect("headers");
    headers.get("ce-position").expect("a position").as_str().parse().expect("a number")
}
