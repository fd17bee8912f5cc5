//! Checks a tenant from the outside, knowing the public contract alone: the log is dense, JetStream holds every event, the
//! read models are folds of the log, and each member has exactly one customer.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::StreamExt;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::product::Tenant;

/// A customer as GraphQL shows it and as the fold below computes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Customer {
    pub user_id: Option<String>,
    name: String,
    email: String,
    status: String,
    version: String,
}

impl Customer {
    /// A node `{ userId name email status version }`.
    pub fn of_node(node: &Value) -> Self {
        Self {
            user_id: node["userId"].as_str().map(str::to_owned),
            name: text(&node["name"]),
            email: text(&node["email"]),
            status: text(&node["status"]),
            version: text(&node["version"]),
        }
    }
}

/// What the checker found in a tenant that is whole.
pub struct Checked {
    /// The log's head.
    pub head: u64,
    /// E-mail addresses of all users, with their ids.
    pub users: HashMap<String, String>,
}

/// Waits until everything behind the log has caught up, then checks all of it.
pub async fn check(tenant: &Tenant<'_>) -> Checked {
    let log = tokio::sync::Mutex::new(Vec::new());
    eventually("each member has a customer and the sagas have come to rest", || async {
        let mut events = log.lock().await;
        tenant.more_events(&mut events).await;
        let count = |event_type: &str| of_type(&events, event_type).len();
        let reacted = count("saga.customer_onboarding.reacted.v1");
        let at_rest = reacted == members(&events).len()
            && reacted == count("saga.customer_onboarding.step_completed.v1")
            && reacted <= count("crm.customer.registered.v1");
        at_rest.then_some(())
    })
    .await;
    let events = log.into_inner();
    assert_dense(&events);
    let head = events.len() as u64;
    assert_published(tenant, &tenant.stored_events().await[..events.len()]).await;
    let folded = fold(&events);
    eventually("the read model is the fold of the log", || async {
        (customers(tenant).await == folded).then_some(())
    })
    .await;
    let members = members(&events);
    let mut owners: BTreeMap<&str, u32> = BTreeMap::new();
    for customer in folded.values() {
        *owners.entry(customer.user_id.as_deref().unwrap_or("nobody")).or_default() += 1;
    }
    for member in &members {
        assert_eq!(owners.get(member.as_str()), Some(&1), "{member} has one customer");
    }
    let users = of_type(&events, "identity.user.registered.v1")
        .into_iter()
        .map(|event| (text(&event["data"]["email"]), id_of(event)))
        .collect();
    Checked { head, users }
}

/// Positions count from 1 without gaps, versions do so in each stream, and each event is the tenant's own.
fn assert_dense(events: &[Value]) {
    let mut versions: HashMap<String, u64> = HashMap::new();
    let mut ids = BTreeSet::new();
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["position"], (index + 1).to_string());
        let version = versions.entry(text(&event["subject"])).or_default();
        *version += 1;
        assert_eq!(event["streamversion"], version.to_string(), "{event}");
        assert_eq!(event["tenantid"], events[0]["tenantid"]);
        assert!(ids.insert(text(&event["id"])), "an event id twice: {event}");
    }
}

/// The stream EVENTS holds each event of the tenant once, in position order, with the log's own bytes.
async fn assert_published(tenant: &Tenant<'_>, events: &[Value]) {
    let context = async_nats::jetstream::new(tenant.product.nats().await);
    let stream = context.get_stream("EVENTS").await.expect("the stream is there");
    let consumer = stream
        .create_consumer(async_nats::jetstream::consumer::pull::OrderedConfig {
            filter_subject: format!("events.{}.>", tenant.slug),
            ..Default::default()
        })
        .await
        .expect("a consumer");
    let mut messages = consumer.messages().await.expect("messages");
    for event in events {
        let message = tokio::time::timeout(std::time::Duration::from_secs(30), messages.next())
            .await
            .unwrap_or_else(|_| panic!("not on JetStream: {event}"))
            .expect("the consumer goes on")
            .expect("a message");
        let headers = message.headers.as_ref().expect("headers");
        let header =
            |name: &str| headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default();
        assert_eq!(header("ce-position"), event["position"]);
        assert_eq!(header("ce-id"), event["id"]);
        assert_eq!(message.subject.as_str(), format!("events.{}.{}", tenant.slug, text(&event["type"])));
        let body: Value = serde_json::from_slice(&message.payload).expect("JSON");
        assert_eq!(body, event["data"]);
    }
}

/// The customers that a log's events make.
pub fn fold(events: &[Value]) -> BTreeMap<String, Customer> {
    let mut customers = BTreeMap::new();
    for event in events {
        let id = id_of(event);
        let data = &event["data"];
        match event["type"].as_str().expect("a type") {
            "crm.customer.registered.v1" => {
                let customer = Customer {
                    user_id: data["user_id"].as_str().map(str::to_owned),
                    name: personal(data, "name"),
                    email: personal(data, "email"),
                    status: "ACTIVE".to_owned(),
                    version: String::new(),
                };
                customers.insert(id.clone(), customer);
            }
            "crm.customer.renamed.v1" => get(&mut customers, &id).name = personal(data, "name"),
            "crm.customer.erased.v1" => {
                let customer = get(&mut customers, &id);
                (customer.name, customer.email) = (String::new(), String::new());
                "CLOSED".clone_into(&mut customer.status);
            }
            "crm.customer.suspended.v1" => "SUSPENDED".clone_into(&mut get(&mut customers, &id).status),
            "crm.customer.closed.v1" => "CLOSED".clone_into(&mut get(&mut customers, &id).status),
            _ => continue,
        }
        get(&mut customers, &id).version = text(&event["streamversion"]);
    }
    customers
}

/// A field of a person; empty where they were erased.
fn personal(data: &Value, field: &str) -> String {
    if data["$erased"].is_object() { String::new() } else { text(&data[field]) }
}

fn get<'a>(customers: &'a mut BTreeMap<String, Customer>, id: &str) -> &'a mut Customer {
    customers.get_mut(id).expect("nothing happens to a customer before it registers")
}

/// All customers by GraphQL, page by page.
async fn customers(tenant: &Tenant<'_>) -> BTreeMap<String, Customer> {
    let query = "query ($after: String) { customers(first: 100, after: $after, orderBy: NAME_ASC) {
                     nodes { id userId name email status version } pageInfo { hasNextPage endCursor } } }";
    let mut customers = BTreeMap::new();
    let mut after = Value::Null;
    loop {
        let data = tenant.graphql(query, json!({ "after": after })).await;
        for node in data["customers"]["nodes"].as_array().expect("nodes") {
            let before = customers.insert(text(&node["id"]), Customer::of_node(node));
            assert!(before.is_none(), "a customer on two pages");
        }
        let page = &data["customers"]["pageInfo"];
        if page["hasNextPage"] == false {
            return customers;
        }
        after = page["endCursor"].clone();
    }
}

fn members(events: &[Value]) -> Vec<String> {
    of_type(events, "identity.user.registered.v1")
        .into_iter()
        .filter(|event| {
            event["data"]["roles"].as_array().is_some_and(|roles| roles.contains(&json!("member")))
        })
        .map(id_of)
        .collect()
}

fn of_type<'a>(events: &'a [Value], event_type: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["type"] == event_type).collect()
}

fn id_of(event: &Value) -> String {
    event["subject"].as_str().and_then(|subject| subject.split_once('/')).expect("a stream").1.to_owned()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}
