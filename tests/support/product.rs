//! The running product and what stories do with it: tenants, users, requests.

use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gateway::auth::{Claims, Grant, SigningKey, Tokens};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use schemas::identity::role::Role;
use serde_json::{Value, json};

use super::{Annals, unique};

/// The password of every user that the stories register.
pub const PASSWORD: &str = "correct horse battery staple";

/// A running product.
pub struct Product {
    /// Its process.
    pub annals: Annals,
}

impl Product {
    /// The product that most stories of this run share; each makes tenants of its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Product> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&["--ephemeral"]))
    }

    /// A product of one's own, for stories that stop or break it.
    pub fn start(arguments: &[&str]) -> Self {
        Self { annals: Annals::start(arguments) }
    }

    /// The address of a path on the public listener.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.annals.text("gateway_url"))
    }

    /// The token of the demo tenant's administrator.
    pub fn access_token(&self) -> &str {
        self.annals.text("access_token")
    }

    /// The token of the platform administrator.
    pub fn admin_token(&self) -> &str {
        self.annals.text("admin_token")
    }

    /// A connection to its NATS as the application itself.
    pub async fn nats(&self) -> async_nats::Client {
        let options = async_nats::ConnectOptions::with_credentials_file(self.annals.text("nats_credentials"));
        let options = options.await.expect("the credentials file reads");
        options.connect(self.annals.text("nats_url")).await.expect("NATS answers")
    }

    /// A request without tenant or token.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        client().request(method, self.url(path))
    }

    /// A tenant that no other story has, with open registration and an administrator.
    pub async fn tenant(&self) -> Tenant<'_> {
        let slug = unique("t");
        let email = format!("admin@{slug}.example");
        let body = json!({
            "slug": slug, "name": slug, "tier": "pro", "registration": "open",
            "admin": {"email": email, "password": PASSWORD, "name": "Admin"},
        });
        let request = self.request(Method::POST, "/v1/tenants").bearer_auth(self.admin_token()).json(&body);
        let (status, answer) = send(request).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        let mut tenant = Tenant { product: self, slug, token: String::new() };
        tenant.token = tenant.login(&email).await;
        tenant
    }

    /// The demo tenant.
    pub fn demo(&self) -> Tenant<'_> {
        Tenant { product: self, slug: "demo".to_owned(), token: self.access_token().to_owned() }
    }
}

/// A tenant of the product and its administrator's token.
#[derive(Clone)]
pub struct Tenant<'a> {
    /// Where it is.
    pub product: &'a Product,
    /// Its public name.
    pub slug: String,
    /// The token of its administrator.
    pub token: String,
}

impl Tenant<'_> {
    /// A request that names the tenant, without a token.
    pub fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.product.request(method, path).header("X-Tenant-ID", &self.slug)
    }

    /// A request of the administrator.
    pub fn admin(&self, method: Method, path: &str) -> RequestBuilder {
        self.product.request(method, path).bearer_auth(&self.token)
    }

    /// Registers a user and returns the answer.
    pub async fn register(&self, email: &str, name: &str) -> Value {
        let body = json!({"email": email, "password": PASSWORD, "name": name});
        let (status, answer) = send(self.anonymous(Method::POST, "/v1/auth/register").json(&body)).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        answer
    }

    /// Signs a user in and returns its token.
    pub async fn login(&self, email: &str) -> String {
        let body = json!({"email": email, "password": PASSWORD});
        let (status, answer) = send(self.anonymous(Method::POST, "/v1/auth/login").json(&body)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["access_token"].as_str().expect("a login answers with a token").to_owned()
    }

    /// Asks GraphQL as the holder of `token` and returns the whole answer.
    pub async fn graphql_as(&self, token: &str, query: &str, variables: Value) -> Value {
        let body = json!({"query": query, "variables": variables});
        let (status, answer) =
            send(self.product.request(Method::POST, "/graphql").bearer_auth(token).json(&body)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    /// Asks GraphQL as the administrator; the answer must hold no error.
    pub async fn graphql(&self, query: &str, variables: Value) -> Value {
        let mut answer = self.graphql_as(&self.token, query, variables).await;
        assert!(answer.get("errors").is_none(), "{answer}");
        answer["data"].take()
    }

    /// The token of a service with these scopes.
    pub async fn service(&self, scopes: &[&str]) -> String {
        let body = json!({"name": "reader", "scopes": scopes, "expires_days": 1});
        let (status, answer) = send(self.admin(Method::POST, "/v1/service-tokens").json(&body)).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        answer["access_token"].as_str().expect("a token").to_owned()
    }

    /// All events of the tenant as they are stored, personal data sealed: what JetStream holds.
    pub async fn stored_events(&self) -> Vec<Value> {
        Tenant { token: self.auditor(), ..self.clone() }.events().await
    }

    /// The token of an auditor, who reads events but no personal data.
    fn auditor(&self) -> String {
        let settings = std::fs::read_to_string(self.product.annals.settings()).expect("the settings");
        let settings: toml::Table = settings.parse().expect("TOML");
        let file = settings["identity"]["signing_key_file"].as_str().expect("a path");
        let key = SigningKey::from_pem(&std::fs::read_to_string(file).expect("the key")).expect("a key");
        let claims = self.token.split('.').nth(1).expect("claims");
        let claims = URL_SAFE_NO_PAD.decode(claims).expect("base64");
        let claims: Claims = serde_json::from_slice(&claims).expect("claims");
        let grant = Grant {
            user_id: claims.sub,
            tenant: claims.tid,
            tenant_slug: claims.tenant,
            tier: claims.subscription_tier,
            email: claims.email,
            name: claims.name,
            roles: vec![Role::Auditor],
            audiences: claims.aud,
        };
        let tokens = Tokens::new(key, claims.iss, Duration::from_hours(1));
        tokens.issue(&grant).expect("signed").access_token
    }

    /// All events of the tenant from position 1 on, over REST.
    pub async fn events(&self) -> Vec<Value> {
        let mut events = Vec::new();
        self.more_events(&mut events).await;
        events
    }

    /// The same, where some of them were read before.
    pub async fn more_events(&self, events: &mut Vec<Value>) {
        loop {
            let path = format!("/v1/events?after={}&limit=1000", events.len());
            let (status, mut page) = send(self.admin(Method::GET, &path)).await;
            assert_eq!(status, StatusCode::OK, "{page}");
            let Value::Array(more) = page["events"].take() else { panic!("no events in {page}") };
            events.extend(more);
            if page["next_after"] == page["head"] {
                return;
            }
        }
    }
}

/// One client for all: it keeps connections.
pub fn client() -> Client {
    // A client is bound to the runtime that made its connections, and each test has a runtime of its own.
    Client::new()
}

/// Sends a request; the answer's body as JSON, or as a text where it is none.
pub async fn send(request: RequestBuilder) -> (StatusCode, Value) {
    let answer = request.send().await.expect("the product answers");
    let status = answer.status();
    let body = answer.text().await.expect("the body arrives");
    (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}
