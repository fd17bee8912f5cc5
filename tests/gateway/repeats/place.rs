//! A tenant with two administrators, how they ask, and what can be seen of the tenant from outside.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::integrator::Integrator;
use crate::support::product::{PASSWORD, Product, Tenant, send};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// The administrator whose requests are repeated.
    First,
    /// The administrator who changes things in between.
    Second,
    /// The platform's administrator.
    Platform,
    /// Somebody who is not signed in.
    Stranger,
    /// The administrator of a tenant that a case registers.
    AdministratorOf(String),
}

/// What stands in the body.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    None,
    Json(Value),
    /// What need not be JSON.
    Text(&'static str),
}

/// A request without its key.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub caller: Caller,
    pub method: Method,
    pub path: String,
    pub content: Content,
}

impl Asked {
    /// A request of the first administrator without a body.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { caller: Caller::First, method, path: path.into(), content: Content::None }
    }

    /// The same with a body.
    pub fn json(method: Method, path: impl Into<String>, body: Value) -> Self {
        Self { content: Content::Json(body), ..Self::new(method, path) }
    }

    /// A mutation by name, input type and input. Its command id is set when it is sent.
    pub fn mutation(name: &str, input: Value) -> Self {
        let (mut initial, rest) = (name[..1].to_uppercase(), &name[1..]);
        initial.push_str(rest);
        let target =
            if name.contains("Customer") { "customer { id name status }" } else { "user { id name status }" };
        let query = format!(
            "mutation ($input: {initial}Input!) {{ done: {name}(input: $input) {{
                 outcome commandId version position consistencyToken userErrors {{ code }} {target} }} }}"
        );
        Self::json(Method::POST, "/graphql", json!({"query": query, "variables": {"input": input}}))
    }

    /// The same request of somebody else.
    pub fn by(self, caller: Caller) -> Self {
        Self { caller, ..self }
    }

    /// The same request with something else in its body.
    pub fn with(&self, content: Content) -> Self {
        Self { content, ..self.clone() }
    }

    pub fn is_mutation(&self) -> bool {
        self.path == "/graphql"
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
}

impl Answer {
    fn payload(&self) -> Option<&Value> {
        self.body.pointer("/data/done")
    }

    pub fn outcome(&self) -> Option<&str> {
        self.payload()?["outcome"].as_str()
    }

    /// Whether the request was accepted.
    pub fn is_success(&self) -> bool {
        match self.payload() {
            Some(payload) => payload["outcome"] == "APPLIED" || payload["outcome"] == "DUPLICATE",
            None => self.status.is_success() && self.body.get("errors").is_none(),
        }
    }

    /// Whether this says that the key came with another request before.
    pub fn is_reuse(&self) -> bool {
        match self.payload() {
            Some(payload) => {
                payload["outcome"] == "REJECTED" && payload["userErrors"][0]["code"] == "COMMAND_ID_REUSED"
            }
            None => self.status == StatusCode::CONFLICT && self.body["code"] == "command_id_reused",
        }
    }

    /// Whether this says that what was sent does not read as a request.
    pub fn is_invalid(&self) -> bool {
        match self.payload() {
            Some(payload) => {
                payload["outcome"] == "REJECTED" && payload["userErrors"][0]["code"] == "INVALID"
            }
            None => !self.is_success(),
        }
    }

    /// Whether a stored answer holds a secret. A service token is none of these: it is made again for each answer.
    pub fn holds_secret(&self) -> bool {
        ["secret", "credentials", "ticket"].iter().any(|member| self.body.get(member).is_some())
    }

    /// Whether this says that the answer held a secret and is kept no longer.
    pub fn is_expiry(&self) -> bool {
        self.status == StatusCode::CONFLICT && self.body["code"] == "answer_expired"
    }

    /// What a repeat is answered. A mutation says that it is one.
    pub fn repeated(&self) -> Self {
        let mut repeated = self.clone();
        if let Some(payload) = repeated.body.pointer_mut("/data/done") {
            payload["outcome"] = "DUPLICATE".into();
        }
        repeated
    }
}

/// What is looked at beside the tenant's lists.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    /// Webhooks with dead letters.
    pub webhooks: Vec<String>,
    /// A tenant that the case registers.
    pub tenant: Option<String>,
    /// The answer with the newest credentials file of the second administrator.
    pub file: Option<Value>,
}

/// What can be seen from outside. What the product does by itself in the background is left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// How many events each person or service caused.
    pub events: BTreeMap<String, usize>,
    pub lists: BTreeMap<String, Vec<Value>>,
    /// Whether the newest file of the second administrator opens a connection.
    pub file_opens: Option<bool>,
}

/// A tenant of its own with two administrators.
pub struct Place {
    client: Client,
    tenant: Tenant<'static>,
    second: String,
    /// The first administrator's id.
    pub first_id: String,
    names: AtomicUsize,
}

impl Place {
    pub async fn new(client: &Client) -> Self {
        let tenant = Product::shared().tenant().await;
        let email = format!("second@{}.example", tenant.slug);
        let body = json!({"email": email, "name": "Second", "roles": ["tenant_admin"], "password": PASSWORD});
        let (status, answer) = send(tenant.admin(Method::POST, "/v1/users").json(&body)).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        let (_, me) = send(tenant.admin(Method::GET, "/v1/auth/me")).await;
        let first_id = text(&me["user"]["id"]);
        let second = tenant.login(&email).await;
        Self { client: client.clone(), tenant, second, first_id, names: AtomicUsize::new(0) }
    }

    pub fn slug(&self) -> &str {
        &self.tenant.slug
    }

    /// A name that nothing else of the tenant has.
    pub fn name(&self, prefix: &str) -> String {
        format!("{prefix}-{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// Sends a request, under a key where one is given.
    pub async fn send(&self, asked: &Asked, key: Option<Uuid>) -> Answer {
        self.send_written(asked, key, false).await
    }

    /// The same, with other white space in the body.
    pub async fn send_written(&self, asked: &Asked, key: Option<Uuid>, spaced: bool) -> Answer {
        let url = self.tenant.product.url(&asked.path);
        let mut request = self.client.request(asked.method.clone(), url);
        let mut content = asked.content.clone();
        if let Some(key) = key.map(|key| key.to_string()) {
            match &mut content {
                Content::Json(body) if asked.is_mutation() => {
                    body["variables"]["input"]["commandId"] = key.into();
                }
                _ => request = request.header("idempotency-key", key),
            }
        }
        request = match &asked.caller {
            Caller::First => request.bearer_auth(&self.tenant.token),
            Caller::Second => request.bearer_auth(&self.second),
            Caller::Platform => request.bearer_auth(self.tenant.product.admin_token()),
            Caller::Stranger => request.header("x-tenant-id", &self.tenant.slug),
            Caller::AdministratorOf(slug) => {
                request.bearer_auth(self.login(slug).await.expect("the tenant has an administrator"))
            }
        };
        let body = match content {
            Content::None => None,
            Content::Json(body) if spaced => Some(format!("{body:#}")),
            Content::Json(body) => Some(body.to_string()),
            Content::Text(text) => Some(text.to_owned()),
        };
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let (status, body) = send(request).await;
        Answer { status, body }
    }

    /// Sends what prepares a case and must be accepted.
    pub async fn done(&self, asked: Asked) -> Value {
        let answer = self.send(&asked, None).await;
        assert!(answer.is_success(), "{asked:?}: {answer:?}");
        answer.body
    }

    /// Whether a ticket opens a stream of events.
    pub async fn ticket_opens(&self, ticket: &str) -> bool {
        let url = self.tenant.product.url(&format!("/v1/events/stream?ticket={ticket}"));
        self.client.get(url).send().await.expect("the product answers").status().is_success()
    }

    /// Has a delivery given up. Through the API that takes three days.
    pub async fn dead_letter(&self, webhook: &str, position: u64) {
        let insert = "insert into webhook_failures (tenant_id, webhook_id, position, event_id, event_type, status,
                                                    attempts, first_at, last_at, next_attempt_at, error)
                      select tenant_id, webhook_id, $2::text::bigint, gen_random_uuid(), 'ext.absent.thing.lost.v1', 'dead',
                             9, now(), now(), now(), 'http_400'
                      from webhooks where webhook_id = $1::text::uuid
                      on conflict (tenant_id, webhook_id, position) do update set status = 'dead'";
        let database = self.database().await;
        database.execute(insert, &[&webhook, &position.to_string()]).await.expect("inserted");
    }

    /// Has what is kept of the tenant's requests end a day earlier.
    pub async fn day_passes(&self) {
        let database = self.database().await;
        for table in ["receipts", "request_answers"] {
            let shorten = format!(
                "update {table} set expires_at = expires_at - interval '24 hours'
                 where tenant_id = (select tenant_id from tenants where slug = $1)"
            );
            database.execute(&shorten, &[&self.tenant.slug]).await.expect("changed");
        }
    }

    async fn database(&self) -> tokio_postgres::Client {
        let url = self.tenant.product.annals.text("database_url");
        let (client, connection) =
            tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("connects");
        tokio::spawn(connection);
        client
    }

    async fn get(&self, token: &str, path: &str) -> Value {
        let url = self.tenant.product.url(path);
        let (status, body) = send(self.client.get(url).bearer_auth(token)).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    /// The token of the administrator of a tenant that a case registers, where there is one.
    async fn login(&self, slug: &str) -> Option<String> {
        let url = self.tenant.product.url("/v1/auth/login");
        let body = json!({"email": address(slug), "password": PASSWORD});
        let (status, body) = send(self.client.post(url).header("x-tenant-id", slug).json(&body)).await;
        (status == StatusCode::OK).then(|| text(&body["access_token"]))
    }

    /// What can be seen.
    pub async fn look(&self, watched: &Watched) -> Seen {
        let mut paths: Vec<String> =
            ["webhooks", "integrations/credentials", "service-tokens", "event-types"]
                .map(|list| format!("/v1/{list}?limit=100"))
                .into();
        paths.extend(watched.webhooks.iter().map(|id| format!("/v1/webhooks/{id}/dead-letters?limit=100")));
        let pages = join_all(paths.iter().map(|path| self.get(&self.tenant.token, path))).await;
        let lists = paths.into_iter().zip(pages).map(|(path, page)| (path, rows(page))).collect();
        let mut events = BTreeMap::new();
        self.count_events(&self.tenant.token, "", &mut events).await;
        if let Some(slug) = &watched.tenant
            && let Some(token) = self.login(slug).await
        {
            self.count_events(&token, slug, &mut events).await;
        }
        let file_opens = match &watched.file {
            Some(file) => Some(Integrator::new(file.clone()).connect().await.is_ok()),
            None => None,
        };
        Seen { events, lists, file_opens }
    }

    /// How many events a caller caused in the tenant.
    pub fn events_of(&self, seen: &Seen, caller: &Caller) -> Option<usize> {
        let who = match caller {
            Caller::First => format!(" user:{}", self.first_id),
            Caller::Stranger => " anonymous".to_owned(),
            _ => return None,
        };
        seen.events.get(&who).copied()
    }

    async fn count_events(&self, token: &str, tenant: &str, counts: &mut BTreeMap<String, usize>) {
        let mut after = Value::from("0");
        loop {
            let position = after.as_str().map_or_else(|| after.to_string(), str::to_owned);
            let page = self.get(token, &format!("/v1/events?limit=1000&after={position}")).await;
            for event in page["events"].as_array().expect("events") {
                let actor = event["actor"].as_str().expect("an actor");
                if !actor.starts_with("saga:") && !actor.starts_with("system:") {
                    *counts.entry(format!("{tenant} {actor}")).or_default() += 1;
                }
            }
            if page["next_after"] == page["head"] {
                return;
            }
            after = page["next_after"].clone();
        }
    }
}

/// The address of the administrator of a tenant that a case registers.
pub fn address(slug: &str) -> String {
    format!("admin@{slug}.example")
}

/// A text that must be there.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// The rows of a list that fits one page, without what changes by itself.
fn rows(page: Value) -> Vec<Value> {
    assert!(page["next_after"].is_null(), "the list fits one page: {page}");
    let Value::Object(members) = page else { panic!("{page} is no page") };
    let list = members.into_iter().find_map(|(_, member)| match member {
        Value::Array(rows) => Some(rows),
        _ => None,
    });
    let mut rows = list.expect("a list");
    for row in rows.iter_mut().filter_map(Value::as_object_mut) {
        row.remove("in_effect");
        if row.get("status").is_some_and(|status| status == "active") {
            // An active webhook goes on by itself.
            row.remove("position");
        }
    }
    rows
}
