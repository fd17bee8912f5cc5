//! Fixtures of the tests in `tests/restore`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use futures::StreamExt;
use nix::sys::signal::Signal;
use proofs::{Checkpoint, VerifierKey};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::deployment::{Account, Answer, Deployment, Process};
use crate::support::eventually;
use crate::support::key_stores::KeyStoreKind;
use crate::support::nats_server::NatsServer;
use crate::support::postgres_server::PostgresServer;
use crate::support::product::PASSWORD;

pub const EVERYTHING: &str = "gateway,relay,projections,sagas";

/// The product over servers of its own, with a tenant that goes on and one that does nothing.
pub struct Site {
    pub postgres: PostgresServer,
    pub nats: NatsServer,
    pub deployment: Deployment,
    pub processes: Vec<Process>,
    pub busy: Account,
    pub quiet: Account,
}

/// A message on JetStream, as an integrator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub log: String,
    pub position: u64,
    pub id: String,
}

impl Site {
    /// Starts a process for each list of roles, the first of which has a gateway.
    pub async fn start(roles: &[&str]) -> Self {
        Self::with_keys(roles, KeyStoreKind::File).await
    }

    /// The same with keys in one of the stores.
    pub async fn with_keys(roles: &[&str], keys: KeyStoreKind) -> Self {
        let postgres = PostgresServer::start(&[]).await;
        let nats = NatsServer::start().await;
        let deployment = Deployment::with_keys(postgres.port(), &nats.url(), keys).await;
        let processes: Vec<Process> = roles.iter().map(|roles| deployment.serve(roles)).collect();
        for process in &processes {
            process.started().await;
        }
        let busy = deployment.tenant(&processes[0], "busy").await;
        let quiet = deployment.tenant(&processes[0], "quiet").await;
        let site = Self { postgres, nats, deployment, processes, busy, quiet };
        for name in ["ada", "bob"] {
            site.register(name).await;
        }
        site
    }

    pub fn gateway(&self) -> &Process {
        &self.processes[0]
    }

    /// A registration that succeeds, of a name of at least two letters; returns its token.
    pub async fn register(&self, name: &str) -> String {
        self.register_at(self.gateway(), name).await
    }

    pub async fn register_at(&self, process: &Process, name: &str) -> String {
        let body = json!({"email": format!("{name}@example.com"), "password": PASSWORD, "name": name});
        let answer = eventually("a registration", || async {
            let request = process.request(Method::POST, "/v1/auth/register");
            let answer = Answer::of(request.header("X-Tenant-ID", &self.busy.slug).json(&body)).await;
            assert!(answer.status == StatusCode::CREATED || answer.is_unavailable(), "{answer:?}");
            (answer.status == StatusCode::CREATED).then_some(answer)
        })
        .await;
        answer.body["consistency_token"].as_str().expect("a token").to_owned()
    }

    /// The whole log of a tenant as REST tells it.
    pub async fn log(&self, account: &Account) -> Value {
        let path = "/v1/events?limit=1000";
        let answer = eventually("the log", || async {
            let answer =
                Answer::of(self.gateway().request(Method::GET, path).bearer_auth(&account.token)).await;
            (answer.status == StatusCode::OK).then_some(answer)
        })
        .await;
        answer.body
    }

    /// Asks for the customers of the busy tenant behind a token, and returns the answer.
    pub async fn customers(&self, token: Option<&str>) -> Answer {
        let query = "{ customers(first: 100) { totalCount nodes { name } } }";
        let request = self.gateway().request(Method::POST, "/graphql").bearer_auth(&self.busy.token);
        let request = match token {
            Some(token) => request.header("X-Consistency-Token", token),
            None => request,
        };
        Answer::of(request.json(&json!({ "query": query }))).await
    }

    /// Waits until the busy tenant's sagas and read models have done what the log asks for; returns the log.
    pub async fn at_rest(&self) -> Value {
        eventually("each member has a customer", || async {
            let page = self.log(&self.busy).await;
            let count = |event_type: &str| {
                events(&page).iter().filter(|event| event["type"] == event_type).count() as u64
            };
            // The administrator is no member.
            let members = count("identity.user.registered.v1") - 1;
            let done = count("saga.customer_onboarding.step_completed.v1");
            let answer = self.customers(None).await;
            let shown = answer.body["data"]["customers"]["totalCount"].as_u64()?;
            (members == done && members == count("crm.customer.registered.v1") && members == shown)
                .then_some(page)
        })
        .await
    }

    /// Everything that JetStream holds of a tenant.
    pub async fn stream(&self, account: &Account) -> Vec<Message> {
        use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
        let client = async_nats::connect(self.nats.url()).await.expect("NATS answers");
        let stream = async_nats::jetstream::new(client).get_stream("EVENTS").await.expect("the stream");
        let config = pull::Config {
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::None,
            filter_subject: format!("events.{}.>", account.slug),
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.expect("a consumer");
        let mut found = Vec::new();
        if consumer.cached_info().num_pending == 0 {
            return found;
        }
        let mut messages = consumer.messages().await.expect("messages");
        loop {
            let message = messages.next().await.expect("more").expect("a message");
            let headers = message.headers.as_ref().expect("headers");
            let text = |name: &str| headers.get(name).expect("a header").as_str().to_owned();
            let position = text("ce-position").parse().expect("a number");
            found.push(Message { log: text("ce-logid"), position, id: text("ce-id") });
            if message.info().expect("of JetStream").pending == 0 {
                return found;
            }
        }
    }

    /// Waits until JetStream holds the whole of a tenant's log, in order and each event once, and returns all it holds.
    pub async fn published(&self, account: &Account, page: &Value) -> Vec<Message> {
        let wanted: Vec<Message> = events(page).iter().map(message).collect();
        eventually("a latecomer finds the whole log", || async {
            let all = self.stream(account).await;
            let ours: Vec<Message> =
                all.iter().filter(|message| page["log_id"] == message.log.as_str()).cloned().collect();
            assert!(ours.len() <= wanted.len(), "repeated: {ours:#?}");
            assert_eq!(ours[..], wanted[..ours.len()], "the stream tells other facts than the log");
            (ours.len() == wanted.len()).then_some(all)
        })
        .await
    }

    /// In good order, so that their work is given back and those that come after need not wait for it.
    pub async fn stop_processes(&mut self) {
        for process in &mut self.processes {
            stop(process).await;
        }
    }

    pub async fn start_processes(&mut self) {
        self.processes.iter_mut().for_each(Process::spawn);
        for process in &self.processes {
            process.started().await;
        }
    }

    /// Copies the database as it is.
    pub async fn back_up(&mut self) -> PathBuf {
        self.postgres.stop(Signal::SIGINT);
        let backup = self.postgres.back_up();
        self.postgres.restart().await;
        backup
    }

    /// Puts the database back to what it was.
    pub async fn restore(&mut self, backup: &std::path::Path) {
        self.postgres.stop(Signal::SIGINT);
        self.postgres.restore(backup);
        self.postgres.restart().await;
    }

    /// Waits until everything of the busy tenant's log is signed; returns the note and the public key.
    pub async fn signed(&self, page: &Value) -> (String, VerifierKey) {
        let ask = async |path: &str| {
            let request = self.gateway().request(Method::GET, path).bearer_auth(&self.busy.token);
            let answer = request.send().await.ok()?.error_for_status().ok()?;
            answer.text().await.ok()
        };
        eventually("the log is signed", || async {
            let note = ask("/v1/audit/checkpoint").await?;
            let size = Checkpoint::unverified(&note).expect("a checkpoint").size;
            let key = ask("/v1/audit/key").await?.parse().expect("a key");
            (size >= number(&page["head"])).then_some((note, key))
        })
        .await
    }

    /// Empties NATS: nobody knows what the database has lost. No process may run meanwhile.
    pub async fn wipe_nats(&mut self) {
        self.nats.kill();
        self.nats.wipe();
        self.nats.restart().await;
    }

    /// The status of a request for events of the busy tenant, and the problem's code.
    pub async fn asked(&self, path: &str, last_event_id: Option<u64>) -> (StatusCode, String) {
        let mut request = self.gateway().request(Method::GET, path).bearer_auth(&self.busy.token);
        if let Some(last) = last_event_id {
            request = request.header("Last-Event-ID", last.to_string());
        }
        let answer = Answer::of(request).await;
        (answer.status, answer.body["code"].as_str().unwrap_or_default().to_owned())
    }

    /// The busy tenant's log was replaced behind the events of `before`: what was known of `lost` is refused, what stands
    /// behind is told under the new log id, and the stream holds one fact a position of each log.
    pub async fn assert_replaced(&self, before: &Value, lost: &Value, token: &str) -> Value {
        let old = lost["log_id"].as_str().expect("an id");
        let fresh = self.register("carl").await;
        let page = self.at_rest().await;
        assert_ne!(page["log_id"], old);
        let (kept, behind) = events(&page).split_at(events(before).len());
        for (now, then) in kept.iter().zip(events(before)) {
            assert_eq!(
                (&now["id"], &now["data"]),
                (&then["id"], &then["data"]),
                "the kept prefix is the same"
            );
            assert_eq!(now["logid"], page["log_id"], "under the new log id");
        }
        assert_eq!(behind[0]["type"], "platform.log.replaced.v1");
        assert_eq!(behind[0]["data"]["old_log_id"], old);
        assert_eq!(behind[0]["data"]["new_log_id"], page["log_id"]);
        assert_eq!(behind[0]["data"]["kept_to"], kept.len());

        let answer = self.customers(Some(token)).await;
        assert_eq!(answer.body["errors"][0]["extensions"]["code"], "BAD_REQUEST", "{answer:?}");
        assert!(self.customers(Some(&fresh)).await.body["errors"].is_null());
        let gone = (StatusCode::GONE, "log_replaced".to_owned());
        assert_eq!(self.asked(&format!("/v1/events?after=1&log={old}"), None).await, gone);
        assert_eq!(self.asked(&format!("/v1/events/stream?after=1&log={old}"), None).await, gone);
        let beyond = number(&page["head"]) + 1;
        assert_eq!(self.asked("/v1/events/stream", Some(beyond)).await, gone);

        let messages = self.published(&self.busy, &page).await;
        let mut facts: BTreeMap<(String, u64), String> = BTreeMap::new();
        for message in messages {
            let place = (message.log, message.position);
            let known = facts.entry(place.clone()).or_insert_with(|| message.id.clone());
            assert_eq!(*known, message.id, "two facts at {place:?}");
        }
        let names = |page: &Value| {
            let registered =
                events(page).iter().filter(|event| event["type"] == "crm.customer.registered.v1").cloned();
            let mut names: Vec<String> = registered.map(|event| text(&event["data"]["name"])).collect();
            names.sort();
            names
        };
        let shown = self.customers(None).await.body;
        let nodes = shown["data"]["customers"]["nodes"].as_array().expect("rows").clone();
        let mut shown: Vec<String> = nodes.iter().map(|row| text(&row["name"])).collect();
        shown.sort();
        assert_eq!(shown, names(&page), "the read model is the fold of the log");
        page
    }
}

pub async fn stop(process: &mut Process) {
    process.signal(Signal::SIGTERM);
    eventually("a process stops", || async { (!process.is_running()).then_some(()) }).await;
    process.kill();
}

pub fn events(page: &Value) -> &[Value] {
    page["events"].as_array().expect("events")
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is a text")).to_owned()
}

pub fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is a number"))
}

pub fn message(event: &Value) -> Message {
    let position = text(&event["position"]).parse().expect("a number");
    Message { log: text(&event["logid"]), position, id: text(&event["id"]) }
}

pub async fn users(site: &Site) -> Vec<Value> {
    let query = "{ users(first: 100) { nodes { id name erased } } }";
    let request = site.gateway().request(Method::POST, "/graphql").bearer_auth(&site.busy.token);
    let answer = Answer::of(request.json(&json!({ "query": query }))).await;
    answer.body["data"]["users"]["nodes"].as_array().cloned().unwrap_or_default()
}

pub fn named<'a>(users: &'a [Value], name: &str) -> Option<&'a Value> {
    users.iter().find(|user| user["name"] == name)
}

pub async fn erase(site: &Site, user: &Value) {
    let request = site.gateway().request(Method::POST, "/v1/erasures").bearer_auth(&site.busy.token);
    let asked = Answer::of(request.json(&json!({"user_id": user}))).await;
    assert_eq!(asked.status, StatusCode::ACCEPTED, "{asked:?}");
    eventually("the person is erased", || async {
        let path = format!("/v1/erasures/{}", user.as_str().expect("an id"));
        let shown =
            Answer::of(site.gateway().request(Method::GET, &path).bearer_auth(&site.busy.token)).await;
        (shown.body["status"] == "erased").then_some(())
    })
    .await;
}
