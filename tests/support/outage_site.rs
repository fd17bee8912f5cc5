//! Fixtures of the tests in `tests/outages`.

use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::deployment::{Account, Answer, Deployment, Process};
use crate::support::eventually;
use crate::support::product::PASSWORD;

/// What a request may take in an outage.
pub const BOUND: Duration = Duration::from_secs(5);
/// Registrations at once in an outage.
pub const BURST: u128 = 40;

/// One process with every role, and a tenant.
pub struct Site {
    pub process: Process,
    pub tenant: Account,
}

impl Site {
    /// Over a database and a NATS server that are up.
    pub async fn start(database_port: u16, nats_url: &str) -> Self {
        let deployment = Deployment::new(database_port, nats_url);
        let process = deployment.serve("gateway,relay,projections,sagas");
        process.started().await;
        let tenant = deployment.tenant(&process, "acme").await;
        Self { process, tenant }
    }

    pub fn register(&self, name: &str, key: u128) -> RequestBuilder {
        self.process
            .request(Method::POST, "/v1/auth/register")
            .header("X-Tenant-ID", &self.tenant.slug)
            .header("Idempotency-Key", Uuid::from_u128(0x8000_0000 + key).to_string())
            .json(&json!({"email": format!("{name}@example.com"), "password": PASSWORD, "name": name}))
    }

    pub fn graphql(&self, query: &str) -> RequestBuilder {
        self.process
            .request(Method::POST, "/graphql")
            .bearer_auth(&self.tenant.token)
            .json(&json!({ "query": query }))
    }

    pub fn events(&self) -> RequestBuilder {
        self.process.request(Method::GET, "/v1/events?limit=1000").bearer_auth(&self.tenant.token)
    }

    pub fn login(&self) -> RequestBuilder {
        self.process
            .request(Method::POST, "/v1/auth/login")
            .header("X-Tenant-ID", &self.tenant.slug)
            .json(&json!({"email": format!("admin@{}.example", self.tenant.slug), "password": PASSWORD}))
    }

    /// A registration that succeeds.
    pub async fn registered(&self, name: &str, key: u128) {
        eventually("a registration", || async {
            let answer = Answer::of(self.register(name, key)).await;
            assert!(answer.status == StatusCode::CREATED || answer.is_unavailable(), "{answer:?}");
            (answer.status == StatusCode::CREATED).then_some(())
        })
        .await;
    }

    /// Every kind of write is refused, in time and in form.
    pub async fn assert_writes_refused(&self) {
        let customer =
            "mutation { registerCustomer(input: {name: \"X\", email: \"x@example.com\"}) { outcome } }";
        let asked = [self.register("nobody", 0), self.graphql(customer)];
        assert_unavailable(&self.process, asked).await;
    }

    /// Every kind of request is refused, in time and in form; a burst of registrations as well.
    pub async fn assert_everything_refused(&self) {
        let list = "{ customers { totalCount } }";
        tokio::join!(
            self.assert_writes_refused(),
            assert_unavailable(&self.process, [self.login(), self.events(), self.graphql(list)]),
            assert_unavailable(
                &self.process,
                (1..=BURST).map(|key| self.register(&format!("burst-{key}"), key))
            ),
            self.assert_not_ready("database"),
        );
    }

    /// The process lives and says that it is not ready, because of this.
    pub async fn assert_not_ready(&self, check: &str) {
        let (alive, ready) = tokio::join!(self.process.probe("/livez"), self.process.operations("/readyz"));
        assert_eq!(alive, Some(StatusCode::OK));
        let (status, body) = ready.expect("the probe answers");
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(body["checks"][check], false, "{body}");
    }

    pub async fn ready(&self) {
        eventually("the process is ready", || async {
            (self.process.probe("/readyz").await == Some(StatusCode::OK)).then_some(())
        })
        .await;
    }

    /// The process that lived through it is ready again; what was refused succeeds under the same key and is there once;
    /// everything behind the log goes on.
    pub async fn assert_resumed(&self) {
        self.ready().await;
        let answers = join_all((1..=BURST).map(|key| {
            eventually("a repeated registration succeeds", move || async move {
                let answer = Answer::of(self.register(&format!("burst-{key}"), key)).await;
                assert!(answer.status == StatusCode::CREATED || answer.is_unavailable(), "{answer:?}");
                (answer.status == StatusCode::CREATED).then_some(answer)
            })
        }));
        let answers = answers.await;
        let page = Answer::of(self.events()).await.body;
        let events = page["events"].as_array().expect("events");
        for (answer, key) in answers.iter().zip(1..=BURST) {
            let email = format!("burst-{key}@example.com");
            let recorded: Vec<&Value> = events
                .iter()
                .filter(|event| {
                    event["type"] == "identity.user.registered.v1" && event["data"]["email"] == email
                })
                .collect();
            assert_eq!(recorded.len(), 1, "{email} is recorded once");
            let user = answer.body["user"]["id"].as_str().expect("an id");
            assert_eq!(recorded[0]["subject"], format!("identity.user/{user}"));
        }
        self.customers_are(BURST as u64).await;
    }

    /// The saga and the read model have come as far as all members having their customers.
    pub async fn customers_are(&self, at_least: u64) {
        eventually("each member has a customer", || async {
            let answer = Answer::of(self.graphql("{ customers { totalCount } }")).await;
            let count = answer.body["data"]["customers"]["totalCount"].as_u64()?;
            (count >= at_least).then_some(())
        })
        .await;
    }
}

/// Sends all of the requests at once; each is refused in time. How long the process takes to answer what needs no server
/// is the machine's affair and not counted.
pub async fn assert_unavailable(process: &Process, requests: impl IntoIterator<Item = RequestBuilder>) {
    let answered = join_all(requests.into_iter().map(Answer::of));
    let (answers, busy) = while_probing(process, answered).await;
    for answer in answers {
        assert!(answer.is_unavailable(), "{answer:?}");
        assert!(answer.took <= BOUND + busy, "{answer:?}, on a machine that is busy for {busy:?}");
    }
}

/// Does the work, and tells the longest that `/livez` took meanwhile.
pub async fn while_probing<T>(process: &Process, work: impl Future<Output = T>) -> (T, Duration) {
    let mut work = std::pin::pin!(work);
    let mut longest = Duration::ZERO;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    loop {
        let begun = Instant::now();
        let probe = async {
            ticks.tick().await;
            process.probe("/livez").await
        };
        tokio::select! {
            done = &mut work => return (done, longest.max(begun.elapsed())),
            _ = probe => longest = longest.max(begun.elapsed()),
        }
    }
}
