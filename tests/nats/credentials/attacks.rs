//! Attempts with issued credentials, on a real server: each is refused or without effect, while the victim goes on
//! receiving.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::{self, Context, stream};
use async_nats::{Client, HeaderMap, Subscriber};
use futures::future::join_all;
use futures::{FutureExt, StreamExt};
use nats::accounts::{EDGE_PAYLOAD_BYTES_MAX, EDGE_USER_SUBSCRIPTIONS_MAX};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::integrator::{Integrator, position, pull};
use crate::support::nats_server::NatsServer;
use crate::support::product::{Tenant, send};
use crate::support::{Product, eventually};

/// Longer than the server on this machine takes to answer anything.
const NO_ANSWER: Duration = Duration::from_millis(600);

async fn issue(tenant: &Tenant<'_>, name: &str) -> Integrator {
    let request = tenant.admin(Method::POST, "/v1/integrations/credentials").json(&json!({"name": name}));
    let (status, answer) = send(request).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    Integrator::new(answer)
}

const LEASE: &str = "$KV.leases.p0";

/// The application's own view, and things of its that an attacker would like to have.
struct Application {
    client: Client,
    context: Context,
    /// Hears what reaches a service of the application.
    service: Subscriber,
}

impl Application {
    async fn prepare(product: &Product) -> Self {
        let client = product.nats().await;
        let context = jetstream::new(client.clone());
        // A bucket of key-value pairs is a stream with such a name and such subjects.
        for (name, subjects, subject) in
            [("TREASURE", "treasure.>", "treasure.gold"), ("KV_leases", "$KV.leases.>", LEASE)]
        {
            let config = stream::Config {
                name: name.to_owned(),
                subjects: vec![subjects.to_owned()],
                allow_direct: true,
                ..Default::default()
            };
            context.create_stream(config).await.expect("created");
            context.publish(subject, "held".into()).await.expect("sent").await.expect("stored");
        }
        let service = client.subscribe("svc.admin.>").await.expect("subscribed");
        client.flush().await.expect("flushed");
        Self { client, context, service }
    }

    async fn info(&self, stream: &str) -> stream::Info {
        self.context.get_stream(stream).await.expect("it is there").cached_info().clone()
    }

    /// How many messages each subject of the streams holds, and what the lease says.
    async fn treasure(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let treasure = self.info("TREASURE").await.state;
        found.insert("treasure".to_owned(), format!("{} {}", treasure.messages, treasure.last_sequence));
        let bucket = self.context.get_stream("KV_leases").await.expect("it is there");
        let lease = bucket.get_last_raw_message_by_subject(LEASE).await.expect("it is held");
        found.insert("lease".to_owned(), String::from_utf8_lossy(&lease.payload).into_owned());
        found.insert("leases".to_owned(), self.info("KV_leases").await.state.messages.to_string());
        found
    }

    /// The subjects of a tenant's events that are on the stream.
    async fn subjects(&self, tenant: &str) -> BTreeMap<String, usize> {
        let stream = self.context.get_stream("EVENTS").await.expect("it is there");
        let subjects = stream.info_with_subjects(format!("events.{tenant}.>")).await.expect("asked");
        subjects.map(|subject| subject.expect("a subject")).collect().await
    }
}

/// What is asked for directly: subject and body.
fn requests(own: &Integrator, victim: &Integrator, tenant: &str, other: &str) -> Vec<(String, String)> {
    let (own, victim) = (own.text("consumer"), victim.text("consumer"));
    let pull = r#"{"batch":1,"no_wait":true}"#;
    let create = |name: &str, filter: &str| {
        json!({"stream_name": "EVENTS", "config": {"durable_name": name, "name": name, "ack_policy": "explicit",
               "deliver_policy": "all", "filter_subject": filter}})
        .to_string()
    };
    let unfiltered =
        json!({"stream_name": "EVENTS", "config": {"name": "mine", "ack_policy": "none"}}).to_string();
    let pushed = json!({"stream_name": "EVENTS", "config": {"name": "mine", "ack_policy": "none",
                        "deliver_subject": "_INBOX.x", "filter_subject": format!("events.{other}.>")}})
    .to_string();
    let mut requests = Vec::new();
    // Each call of the API, by its own name and by the one under which the account imports three of them.
    for prefix in ["$JS.API", "JS.app.API", "$JS.app.API"] {
        let mut api = |call: String, body: &str| requests.push((format!("{prefix}.{call}"), body.to_owned()));
        api("INFO".to_owned(), "");
        api("STREAM.INFO.EVENTS".to_owned(), "");
        api("STREAM.NAMES".to_owned(), "{}");
        api("STREAM.LIST".to_owned(), "{}");
        api("STREAM.CREATE.MINE".to_owned(), r#"{"name":"MINE","sources":[{"name":"EVENTS"}]}"#);
        api("STREAM.UPDATE.EVENTS".to_owned(), r#"{"name":"EVENTS","subjects":["events.>"],"max_msgs":1}"#);
        api("STREAM.PURGE.TREASURE".to_owned(), "");
        api("STREAM.DELETE.TREASURE".to_owned(), "");
        api("STREAM.SNAPSHOT.EVENTS".to_owned(), r#"{"deliver_subject":"_INBOX.x"}"#);
        api("STREAM.MSG.GET.EVENTS".to_owned(), r#"{"seq":1}"#);
        api("STREAM.MSG.DELETE.EVENTS".to_owned(), r#"{"seq":1}"#);
        api("DIRECT.GET.EVENTS".to_owned(), r#"{"seq":1}"#);
        api(format!("DIRECT.GET.EVENTS.events.{other}.identity.user.registered.v1"), "");
        api("DIRECT.GET.KV_leases.$KV.leases.p0".to_owned(), "");
        api("CONSUMER.NAMES.EVENTS".to_owned(), "{}");
        api("CONSUMER.LIST.EVENTS".to_owned(), "{}");
        api("CONSUMER.CREATE.EVENTS".to_owned(), &unfiltered);
        api("CONSUMER.CREATE.EVENTS.mine".to_owned(), &unfiltered);
        api("CONSUMER.CREATE.EVENTS.mine".to_owned(), &pushed);
        api(
            format!("CONSUMER.CREATE.EVENTS.{own}.events.{other}.>"),
            &create(own, &format!("events.{other}.>")),
        );
        api(format!("CONSUMER.CREATE.EVENTS.{own}"), &create(own, &format!("events.{tenant}.crm.>")));
        api(format!("CONSUMER.DURABLE.CREATE.EVENTS.{own}"), &create(own, "events.>"));
        api(format!("CONSUMER.DELETE.EVENTS.{own}"), "");
        api(format!("CONSUMER.DELETE.EVENTS.{victim}"), "");
        api(format!("CONSUMER.PAUSE.EVENTS.{victim}"), r#"{"pause_until":"2100-01-01T00:00:00Z"}"#);
        api(format!("CONSUMER.RESET.EVENTS.{victim}"), "");
        api(format!("CONSUMER.INFO.EVENTS.{victim}"), "");
        api(format!("CONSUMER.MSG.NEXT.EVENTS.{victim}"), pull);
        api(format!("CONSUMER.MSG.NEXT.TREASURE.{own}"), pull);
    }
    for subject in [
        format!("events.{tenant}.crm.customer.registered.v1"),
        format!("events.{other}.crm.customer.registered.v1"),
        "treasure.gold".to_owned(),
        "$KV.leases.p0".to_owned(),
        "svc.admin.create".to_owned(),
        "$SRV.PING".to_owned(),
        "$SYS.REQ.SERVER.PING".to_owned(),
        "$SYS.REQ.USER.INFO.x".to_owned(),
        "$SYS.REQ.CLAIMS.LIST".to_owned(),
    ] {
        requests.push((subject, "x".to_owned()));
    }
    requests
}

/// What is listened to.
fn subscriptions(own: &Integrator, victim: &Integrator, tenant: &str, other: &str) -> Vec<String> {
    let mut subjects: Vec<String> = [
        ">",
        "*",
        "*.>",
        "events.>",
        "_INBOX.>",
        "_INBOX_*.>",
        "$JS.>",
        "$JS.ACK.>",
        "$KV.>",
        "$SYS.>",
        "JS.app.API.>",
        "svc.>",
    ]
    .map(str::to_owned)
    .into();
    subjects.push(format!("events.{tenant}.>"));
    subjects.push(format!("events.{other}.>"));
    // Even one who has got to know it cannot listen to another's inbox.
    subjects.push(format!("{}.>", victim.text("inbox_prefix")));
    subjects.push(own.text("inbox_prefix")[..20].to_owned() + "*.>");
    subjects
}

/// Where answers to allowed requests are sent instead of to an inbox.
fn replies(victim: &str, acknowledgement: &str, other: &str) -> Vec<String> {
    [
        "$JS.API.STREAM.PURGE.TREASURE",
        "$JS.API.STREAM.DELETE.TREASURE",
        "$JS.API.STREAM.PURGE.KV_leases",
        "$JS.app.API.STREAM.PURGE.TREASURE",
        "JS.app.API.STREAM.PURGE.TREASURE",
        "treasure.forged",
        "$KV.leases.p0",
        "svc.admin.create",
        "_INBOX.x",
        "$SYS.REQ.SERVER.PING",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain([
        format!("$JS.API.CONSUMER.DELETE.EVENTS.{victim}"),
        format!("$JS.API.CONSUMER.MSG.NEXT.EVENTS.{victim}"),
        acknowledgement.to_owned(),
        format!("events.{other}.crm.customer.forged.v1"),
        format!("events.{other}.crm.customer.registered.v1"),
    ])
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attempt_with_issued_credentials_has_an_effect() {
    let product = Product::shared();
    let (attacked, attacker) = (product.tenant().await, product.tenant().await);
    attacked.register("ada@example.com", "Ada").await;
    attacker.register("mallory@example.com", "Mallory").await;
    let (victim, bystander) = (issue(&attacked, "victim").await, issue(&attacked, "bystander").await);
    let mallory = issue(&attacker, "mallory").await;
    let mut application = Application::prepare(product).await;

    // The victim has a message under way that it has not acknowledged.
    let victims_client = victim.connect().await.expect("it connects");
    let victims: PullConsumer = victim.consumer(&victims_client).await;
    let under_way = pull(&victims, 1, Duration::from_secs(10)).await;
    let acknowledgement = under_way[0].reply.clone().expect("it can be acknowledged");
    crate::support::checker::check(&attacked).await;
    crate::support::checker::check(&attacker).await;
    let (treasure, subjects) = (application.treasure().await, application.subjects(&attacked.slug).await);
    let own_subjects = application.subjects(&attacker.slug).await;

    let client = mallory.connect().await.expect("it connects");
    let mut heard = Vec::new();
    for subject in subscriptions(&mallory, &victim, &attacker.slug, &attacked.slug) {
        heard.push((subject.clone(), client.subscribe(subject).await.expect("sent")));
    }

    let asked = requests(&mallory, &victim, &attacker.slug, &attacked.slug);
    let answers = asked.into_iter().map(|(subject, body)| {
        let client = &client;
        async move {
            let request = async_nats::Request::new().payload(body.into()).timeout(Some(NO_ANSWER));
            let answer = client.send_request(subject.clone(), request).await;
            assert!(answer.is_err(), "{subject} was answered: {answer:?}");
        }
    });
    join_all(answers).await;

    let own = mallory.text("consumer");
    let replies = replies(victim.text("consumer"), &acknowledgement, &attacked.slug);
    inject(&client, mallory.text("api_prefix"), own, &replies).await;
    client.publish(acknowledgement, "+ACK".into()).await.expect("sent");
    sync(&client, mallory.text("api_prefix"), own).await;

    // The victim and its neighbour go on receiving.
    attacked.register("grace@example.com", "Grace").await;
    crate::support::checker::check(&attacked).await;
    let head = attacked.events().await.len() as u64;
    assert_eq!(bystander.drain().await, (1..=head).collect::<Vec<_>>());
    let rest = pull(&victims, head as usize - 1, Duration::from_secs(10)).await;
    assert_eq!(rest.iter().map(position).collect::<Vec<_>>(), (2..=head).collect::<Vec<_>>());

    assert_eq!(application.treasure().await, treasure);
    assert!(application.service.next().now_or_never().is_none(), "a service of the application was reached");
    assert_eq!(application.subjects(&attacker.slug).await, own_subjects, "an event was forged");
    let mut grown = application.subjects(&attacked.slug).await;
    let published: usize = grown.values().sum();
    assert_eq!(published as u64, head, "an event was forged");
    grown.retain(|subject, _| !subjects.contains_key(subject));
    assert!(grown.is_empty(), "{grown:?}");
    for (subject, mut messages) in heard {
        let heard = messages.next().now_or_never().flatten();
        assert!(heard.is_none(), "{subject} was heard: {heard:?}");
    }
    let consumer = application_consumer(&application, &victim).await;
    assert_eq!(consumer["num_ack_pending"], head, "a message of the victim was acknowledged by another");
    assert_eq!(
        consumer["ack_floor"]["stream_seq"].as_u64().map(|floor| floor < first(&under_way)),
        Some(true)
    );
    let own = application_consumer(&application, &mallory).await;
    let filter = own["config"]["filter_subject"].as_str().or(own["config"]["filter_subjects"][0].as_str());
    assert_eq!(filter, Some(&*format!("events.{}.>", attacker.slug)), "its own consumer is as it was");
    // Its pulls without an end wait for events of its own: it has harmed itself, until it is set back.
    let reset = attacker.admin(Method::POST, "/v1/integrations/credentials/mallory/reset");
    assert_eq!(send(reset.json(&json!({"after": 0}))).await.0, StatusCode::OK);
    let own = attacker.events().await.len() as u64;
    assert_eq!(mallory.drain().await, (1..=own).collect::<Vec<_>>());
}

/// Sends everything that is allowed with replies that point elsewhere, with messages there to be had, and with none.
async fn inject(client: &Client, prefix: &str, own: &str, replies: &[String]) {
    let next = format!("{prefix}.CONSUMER.MSG.NEXT.EVENTS.{own}");
    let info = format!("{prefix}.CONSUMER.INFO.EVENTS.{own}");
    let bodies =
        [r#"{"batch":1,"no_wait":true}"#, r#"{"batch":2,"expires":100000000}"#, "1", "not a request"];
    // The consumer holds few messages: the later rounds get empty answers, the first ones events.
    for round in 0..3 {
        for reply in replies {
            for body in bodies {
                client
                    .publish_with_reply(next.clone(), reply.clone(), body.into())
                    .await
                    .unwrap_or_else(|error| panic!("{round} {reply}: {error}"));
            }
            client.publish_with_reply(info.clone(), reply.clone(), "".into()).await.expect("sent");
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", "forged");
            let acked = format!("$JS.ACK.EVENTS.{own}.1.1.1.0.0");
            client
                .publish_with_reply_and_headers(acked, reply.clone(), headers, "+NXT {\"batch\":1}".into())
                .await
                .expect("sent");
        }
        sync(client, prefix, own).await;
    }
}

/// Waits until the server has seen everything that the client sent before: it answers in order.
async fn sync(client: &Client, prefix: &str, own: &str) {
    let info = format!("{prefix}.CONSUMER.INFO.EVENTS.{own}");
    client.request(info, "".into()).await.expect("its own consumer answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_integrator_can_neither_send_large_messages_nor_open_subscriptions_without_end() {
    let product = Product::shared();
    let tenant = product.tenant().await;
    let integrator = issue(&tenant, "reader").await;
    let (said, mut errors) = tokio::sync::mpsc::unbounded_channel();
    let connect = async || {
        let said = said.clone();
        let options = async_nats::ConnectOptions::with_credentials(integrator.text("credentials"));
        let options = options
            .expect("the credentials read")
            .custom_inbox_prefix(integrator.text("inbox_prefix"))
            .event_callback(move |event| {
                drop(said.send(event.to_string()));
                std::future::ready(())
            });
        Box::pin(options.connect(integrator.server())).await.expect("it connects")
    };
    let mut told = async |what: &str| {
        let heard = async {
            while let Some(error) = errors.recv().await {
                if error.to_lowercase().contains(what) {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), heard).await.expect(what);
    };

    let client = connect().await;
    let inbox = integrator.text("inbox_prefix").to_owned();
    let mut held = Vec::new();
    for number in 0..=EDGE_USER_SUBSCRIPTIONS_MAX {
        held.push(client.subscribe(format!("{inbox}.{number}")).await.expect("sent"));
    }
    client.flush().await.expect("flushed");
    told("maximum subscriptions exceeded").await;

    let next =
        format!("{}.CONSUMER.MSG.NEXT.EVENTS.{}", integrator.text("api_prefix"), integrator.text("consumer"));
    let mut large = "{\"batch\":1,\"no_wait\":true}".to_owned();
    large.push_str(&" ".repeat(EDGE_PAYLOAD_BYTES_MAX as usize));
    let client = connect().await;
    // The client may know the bound already, and not send it.
    if client.publish(next, large.into()).await.is_ok() {
        told("maximum payload").await;
    }
}

/// The test of the test, and the reason for the account without streams: from within the account that holds them the same
/// pulls, with nothing but other replies, purge a stream and forge an event.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_replies_have_an_effect_in_the_account_that_holds_the_streams() {
    let server = Box::pin(NatsServer::start_in_operator_mode()).await;
    let options = async_nats::ConnectOptions::with_credentials_file(server.credentials("application"));
    let client = Box::pin(options.await.expect("reads").connect(server.url())).await.expect("connects");
    let context = jetstream::new(client.clone());
    for (name, subjects) in [("EVENTS", "events.>"), ("TREASURE", "treasure.>")] {
        let config = stream::Config {
            name: name.to_owned(),
            subjects: vec![subjects.to_owned()],
            ..Default::default()
        };
        context.create_stream(config).await.expect("created");
    }
    let config = jetstream::consumer::pull::Config {
        durable_name: Some("own".to_owned()),
        filter_subject: "events.mine.>".to_owned(),
        ..Default::default()
    };
    context.create_consumer_on_stream(config, "EVENTS").await.expect("created");
    for subject in ["events.mine.one", "treasure.gold"] {
        context.publish(subject, "held".into()).await.expect("sent").await.expect("stored");
    }
    let replies = ["events.other.forged", "$JS.API.STREAM.PURGE.TREASURE"].map(str::to_owned);
    inject(&client, "$JS.API", "own", &replies).await;
    let state = |stream: &'static str| {
        let context = context.clone();
        async move { context.get_stream(stream).await.expect("it is there").cached_info().state.clone() }
    };
    eventually("the treasure is gone and an event is forged", || async {
        (state("TREASURE").await.messages == 0 && state("EVENTS").await.messages > 1).then_some(())
    })
    .await;
}

async fn application_consumer(application: &Application, integrator: &Integrator) -> Value {
    let subject = format!("$JS.API.CONSUMER.INFO.EVENTS.{}", integrator.text("consumer"));
    let answer = application.client.request(subject, "".into()).await.expect("it is there");
    serde_json::from_slice(&answer.payload).expect("JSON")
}

fn first(messages: &[jetstream::Message]) -> u64 {
    messages[0].info().expect("a message of JetStream").stream_sequence
}
