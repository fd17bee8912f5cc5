//! The product under the stories of live streams and webhooks, with short times and endpoints of this machine allowed, and
//! how they follow it: server-sent events and WebSockets.

use std::sync::OnceLock;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use gateway::auth::{Audience, Grant, SigningKey, Tokens};
use keyring::{Keyring, RootKey};
use reqwest::{Client, Response, StatusCode};
use schemas::engine::{StreamName, TenantSlug, ids};
use schemas::identity::role::Role;
use schemas::identity::tenant::Tier;
use serde_json::{Value, json};
use store::{DeploymentKey, ExpectedVersion, Store, StoreConfig, StreamAppend};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::support::postgres::{event, metadata};
use crate::support::product::Tenant;
use crate::support::{Annals, Product, process};

/// How often streams show that they are alive.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// What a stream may keep a story waiting for.
async fn bounded<F: Future>(next: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), next).await.expect("a stream that should go on is silent")
}

/// The product under these stories.
pub struct Site {
    pub product: Product,
    settings: toml::Table,
}

impl Site {
    /// The one that they share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Site> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[]))
    }

    /// One of its own, with further settings.
    pub fn start(settings: &[(&str, &str)]) -> Self {
        let mut command = process::command();
        command.args(["dev", "--ephemeral"]).envs([
            ("ANNALS__GATEWAY__HEARTBEAT_INTERVAL_SECONDS", "1"),
            ("ANNALS__GATEWAY__SLOW_CONSUMER_TIMEOUT_SECONDS", "1"),
            ("ANNALS__WEBHOOKS__ALLOW_PRIVATE_ADDRESSES", "true"),
            ("ANNALS__WEBHOOKS__REQUEST_TIMEOUT_SECONDS", "1"),
            ("ANNALS__WEBHOOKS__INITIAL_DELAY_MS", "100"),
            ("ANNALS__WEBHOOKS__MAX_DELAY_MS", "400"),
            ("ANNALS__WEBHOOKS__MAX_RETRY_SECONDS", "3"),
            ("ANNALS__WEBHOOKS__DISABLE_AFTER_SECONDS", "5"),
        ]);
        command.envs(settings.iter().copied());
        let product = Product { annals: Annals::spawn(command) };
        let settings = std::fs::read_to_string(product.annals.settings()).expect("the settings are there");
        Self { product, settings: settings.parse().expect("TOML") }
    }

    fn setting(&self, section: &str, key: &str) -> String {
        match &self.settings[section][key] {
            toml::Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    fn secret(&self, section: &str, key: &str) -> String {
        let path = self.setting(section, &format!("{key}_file"));
        std::fs::read_to_string(path).expect("the secret is there").trim().to_owned()
    }

    /// The database as its superuser.
    pub async fn database(&self) -> tokio_postgres::Client {
        let url = self.product.annals.text("database_url");
        let (client, connection) =
            tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("connects");
        tokio::spawn(connection);
        client
    }

    /// The deployment's keys of personal data.
    pub fn keyring(&self) -> Keyring {
        let folder = self.setting("privacy", "keys_folder");
        let root = RootKey::from_hex(&self.secret("privacy", "root_key")).expect("a key");
        Keyring::open(folder.as_ref(), root.into(), Duration::from_secs(5)).expect("the keys open")
    }

    /// A store over the same database.
    pub async fn store(&self) -> Store {
        let config = StoreConfig {
            host: "127.0.0.1".to_owned(),
            port: self.setting("database", "port").parse().expect("a port"),
            database: self.setting("database", "name"),
            runtime_password: self.secret("database", "runtime_password"),
            keyring: Some(self.keyring()),
            key: DeploymentKey::from_hex(&self.secret("secrets", "deployment_key")).expect("a key"),
            append_workers: 1,
            pool_size: 4,
            tls: store::TlsConfig::default(),
            idle_timeout: std::time::Duration::from_mins(1),
        };
        Store::connect(config).await.expect("the store connects")
    }

    /// A token for this tenant with these roles and this lifetime.
    pub async fn token(&self, slug: &str, roles: Vec<Role>, lifetime: Duration) -> String {
        let key = SigningKey::from_pem(&self.secret("identity", "signing_key")).expect("a key");
        let slug = TenantSlug::parse(slug).expect("a slug");
        let record =
            self.store().await.tenant_by_slug(&slug).await.expect("the store answers").expect("it is there");
        let grant = Grant {
            user_id: ids::new_id(),
            tenant: record.id,
            tenant_slug: slug,
            tier: Tier::Free,
            email: "somebody@example.com".to_owned(),
            name: "Somebody".to_owned(),
            roles,
            audiences: vec![Audience::Public],
        };
        let tokens = Tokens::new(key, "annals".to_owned(), lifetime);
        tokens.issue(&grant).expect("signed").access_token
    }

    /// Appends events of this size to the tenant's log, each to a stream of its own.
    pub async fn append(&self, store: &Store, slug: &str, number: usize, bytes: usize) {
        let slug = TenantSlug::parse(slug).expect("a slug");
        let record = store.tenant_by_slug(&slug).await.expect("the store answers").expect("it is there");
        let payload = json!({"filler": "x".repeat(bytes)}).to_string();
        let appends = (0..number).map(|_| {
            StreamAppend::new(
                StreamName::new("ext.load", ids::new_id()),
                ExpectedVersion::NoStream,
                vec![event("ext.load.recorded.v1", &payload)],
                metadata(),
            )
        });
        for receipt in store.tenant(record.id).append_all(appends.collect()).await {
            receipt.expect("appended");
        }
    }
}

/// A WebSocket of the stories.
pub struct Socket(pub WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    /// Opens one; the answer's status where it is refused.
    pub async fn open(
        site: &Site,
        query: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, StatusCode> {
        let url = site.product.url(&format!("/v1/events/ws{query}")).replacen("http", "ws", 1);
        let mut request = url.into_client_request().expect("a URL");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a header"));
        }
        match tokio_tungstenite::connect_async(request).await {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(tungstenite::Error::Http(answer)) => Err(answer.status()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Opens one with a token.
    pub async fn with_token(site: &Site, query: &str, token: &str) -> Self {
        let bearer = format!("Bearer {token}");
        Self::open(site, query, &[("authorization", &bearer)]).await.expect("accepted")
    }

    pub async fn say(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.expect("sent");
    }

    /// The next message that is text.
    pub async fn hear(&mut self) -> Value {
        loop {
            match bounded(self.0.next()).await.expect("the socket is open").expect("a message") {
                Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next event.
    pub async fn event(&mut self) -> Value {
        loop {
            let mut message = self.hear().await;
            match message["type"].as_str() {
                Some("event") => return message["event"].take(),
                Some("open") => {}
                _ => panic!("{message}"),
            }
        }
    }

    /// The events up to the last message and the code of the close frame.
    pub async fn until_closed(mut self) -> (Vec<Value>, Value, u16) {
        let mut events = Vec::new();
        loop {
            let mut message = self.hear().await;
            match message["type"].as_str() {
                Some("event") => events.push(message["event"].take()),
                Some("open") => {}
                Some("closed") => {
                    let close = loop {
                        match bounded(self.0.next()).await.expect("a close frame").expect("a message") {
                            Message::Close(Some(close)) => break close,
                            Message::Ping(_) => {}
                            other => panic!("{other:?}"),
                        }
                    };
                    assert_eq!(close.reason.as_str(), message["code"], "the reason is the code");
                    return (events, message, close.code.into());
                }
                _ => panic!("{message}"),
            }
        }
    }
}

/// A stream of server-sent events.
pub struct Sse {
    answer: Response,
    text: String,
}

impl Sse {
    /// Opens one that must be accepted.
    pub async fn open(tenant: &Tenant<'_>, query: &str, token: Option<&str>, last: Option<&str>) -> Self {
        // A connection of its own, which is closed with it.
        let mut request = Client::new().get(tenant.product.url(&format!("/v1/events/stream{query}")));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let answer = request.send().await.expect("answers");
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { answer, text: String::new() }
    }

    /// The next block: its lines. `None` at the end.
    pub async fn block(&mut self) -> Option<Vec<String>> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block = self.text[..end].lines().map(str::to_owned).collect();
                self.text.drain(..end + 2);
                return Some(block);
            }
            let chunk = bounded(self.answer.chunk()).await.expect("the stream goes on or ends in order")?;
            self.text.push_str(std::str::from_utf8(&chunk).expect("text"));
        }
    }

    /// The next event.
    pub async fn event(&mut self) -> Value {
        loop {
            let block = self.block().await.expect("the stream goes on");
            if let Some(event) = event_of(&block) {
                return event;
            }
        }
    }

    /// The events up to the end and the last block.
    pub async fn until_closed(mut self) -> (Vec<Value>, Vec<String>) {
        let (mut events, mut last) = (Vec::new(), Vec::new());
        while let Some(block) = self.block().await {
            events.extend(event_of(&block));
            last = block;
        }
        (events, last)
    }
}

fn event_of(block: &[String]) -> Option<Value> {
    let field = |name: &str| block.iter().find_map(|line| line.strip_prefix(name));
    let event: Value = serde_json::from_str(field("data: ")?).expect("a CloudEvent");
    assert_eq!(field("id: "), event["position"].as_str());
    Some(event)
}

/// The positions of events.
pub fn positions(events: &[Value]) -> Vec<u64> {
    events
        .iter()
        .map(|event| event["position"].as_str().and_then(|at| at.parse().ok()).expect("a position"))
        .collect()
}

/// Reads both until they are closed, at the same time: a socket that nobody reads answers no ping, and counts as slow.
pub async fn until_both_are_closed(
    stream: Sse,
    socket: Socket,
) -> ((Vec<Value>, Vec<String>), (Vec<Value>, Value, u16)) {
    tokio::join!(stream.until_closed(), socket.until_closed())
}
