//! The independent judge: knows the public contract and what was promised, and nothing of the product's inside.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use serde_json::{Value, json};

use super::followers::Followers;
use super::load::World;
use super::tally::Promise;
use super::users::{User, users_of};
use crate::support::checker::{Customer, fold};

/// How long everything behind the log may take to catch up at the end.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// All events of a tenant.
pub async fn events(world: &World, tenant: usize) -> Vec<Value> {
    let mut events: Vec<Value> = Vec::new();
    loop {
        let (after, token) = (events.len(), &world.tenants[tenant].token);
        let make = |client: &reqwest::Client, gateway: &str| {
            client.get(format!("{gateway}/v1/events?after={after}&limit=1000")).bearer_auth(token)
        };
        let Some(mut answer) = world.insist(make, after as u64).await else { return events };
        let Value::Array(more) = answer.body["events"].take() else { panic!("no events: {answer:?}") };
        events.extend(more);
        if answer.body["next_after"] == answer.body["head"] {
            return events;
        }
    }
}

/// Waits until the sagas have come to rest: each member has its customer.
pub async fn at_rest(world: &World, tenant: usize) -> Vec<Value> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut looks = tokio::time::interval(Duration::from_millis(200));
    loop {
        looks.tick().await;
        let events = events(world, tenant).await;
        let of = |event_type: &str| events.iter().filter(|event| event["type"] == event_type).count();
        let wanted = members(&events).len();
        let done = of("saga.customer_onboarding.step_completed.v1");
        if of("saga.customer_onboarding.reacted.v1") == wanted && done == wanted {
            return events;
        }
        if tokio::time::Instant::now() > deadline {
            world
                .tally
                .violation(format!("tenant {tenant}: the sagas have not come to rest: {done} of {wanted}"));
            return events;
        }
    }
}

/// Positions and versions are dense, each event is the tenant's own and there once.
pub fn log(world: &World, tenant: usize, events: &[Value]) {
    let mut versions: HashMap<&str, u64> = HashMap::new();
    let mut ids = HashSet::new();
    for (event, position) in events.iter().zip(1u64..) {
        let version = versions.entry(text(&event["subject"])).or_default();
        *version += 1;
        let dense =
            number(&event["position"]) == Some(position) && number(&event["streamversion"]) == Some(*version);
        let own =
            event["tenantid"] == world.tenants[tenant].slug.as_str() && event["logid"] == events[0]["logid"];
        if !dense || !own || !ids.insert(text(&event["id"])) {
            world.tally.violation(format!("tenant {tenant}, position {position}: out of place: {event}"));
        }
    }
}

/// What was promised is in the log exactly once, where the answer said.
pub fn promises(world: &World, tenant: usize, events: &[Value]) {
    let mut users: HashMap<&str, Vec<&Value>> = HashMap::new();
    let mut names: HashMap<&str, Vec<&Value>> = HashMap::new();
    for event in events {
        match text(&event["type"]) {
            // Who was erased was promised nothing.
            "identity.user.registered.v1" if event["data"]["email"].is_string() => {
                users.entry(text(&event["data"]["email"])).or_default().push(event);
            }
            "crm.customer.registered.v1" | "crm.customer.renamed.v1" | "identity.user.name_changed.v1"
                if event["data"]["name"].is_string() =>
            {
                names.entry(text(&event["data"]["name"])).or_default().push(event);
            }
            _ => {}
        }
    }
    let violation = |what: String| world.tally.violation(format!("tenant {tenant}: {what}"));
    for (email, events) in &users {
        if events.len() != 1 {
            violation(format!("{email} is registered {} times", events.len()));
        }
    }
    let named = |name: &str, subject: &str, version: u64, position: u64| {
        let kept = match names.get(name).map(Vec::as_slice) {
            Some([event]) => {
                event["subject"] == subject
                    && number(&event["streamversion"]) == Some(version)
                    && number(&event["position"]) == Some(position)
            }
            _ => false,
        };
        if !kept {
            violation(format!("{name} of {subject} was promised at version {version}, position {position}"));
        }
    };
    let promises = world.tally.lock().promises.clone();
    for promise in promises {
        match promise {
            Promise::User { tenant: of, id, email } if of == tenant => {
                let found = users.get(email.as_str()).and_then(|events| events.first());
                if found.is_none_or(|event| event["subject"] != format!("identity.user/{id}")) {
                    violation(format!("{email} was promised as {id}: {found:?}"));
                }
            }
            Promise::Customer { tenant: of, id, name, version, position } if of == tenant => {
                named(&name, &format!("crm.customer/{id}"), version, position);
            }
            Promise::UserName { tenant: of, id, name, version, position } if of == tenant => {
                named(&name, &format!("identity.user/{id}"), version, position);
            }
            _ => {}
        }
    }
}

/// Each user has one customer, and the read models are folds of the log, at both gateways, with no row beside.
pub async fn read_models(world: &World, tenant: usize, events: &[Value], poisons: &HashSet<String>) {
    let sound: Vec<Value> =
        events.iter().filter(|event| !poisons.contains(text(&event["subject"]))).cloned().collect();
    let folded = fold(&sound);
    let mut owners: HashMap<&str, u32> = HashMap::new();
    for customer in folded.values() {
        *owners.entry(customer.user_id.as_deref().unwrap_or("nobody")).or_default() += 1;
    }
    for member in members(events) {
        if owners.get(member) != Some(&1) {
            world
                .tally
                .violation(format!("tenant {tenant}: {member} has {:?} customers", owners.get(member)));
        }
    }
    let customers = "query ($after: String) { page: customers(first: 100, after: $after, orderBy: NAME_ASC) {
        nodes { id userId name email status version } pageInfo { hasNextPage endCursor } } }";
    read_model(world, tenant, customers, Customer::of_node, &folded).await;
    let users = "query ($after: String) { page: users(first: 100, after: $after, orderBy: NAME_ASC) {
        nodes { id name email roles status version } pageInfo { hasNextPage endCursor } } }";
    read_model(world, tenant, users, User::of_node, &users_of(events)).await;
}

/// Waits until both gateways show what is expected.
async fn read_model<R: PartialEq>(
    world: &World,
    tenant: usize,
    query: &str,
    read: fn(&Value) -> R,
    folded: &BTreeMap<String, R>,
) {
    for gateway in 0..2 {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut looks = tokio::time::interval(Duration::from_millis(200));
        loop {
            looks.tick().await;
            let shown = rows(world, tenant, gateway, query, read).await;
            if shown == *folded {
                break;
            }
            if tokio::time::Instant::now() > deadline {
                let (shown, folded) = (shown.len(), folded.len());
                world.tally.violation(format!(
                    "tenant {tenant}: a read model ({shown} rows) is not the fold of the log ({folded} rows): {query}"
                ));
                break;
            }
        }
    }
}

/// All rows of a list, page by page.
async fn rows<R>(
    world: &World,
    tenant: usize,
    gateway: u64,
    query: &str,
    read: fn(&Value) -> R,
) -> BTreeMap<String, R> {
    let mut rows = BTreeMap::new();
    let mut after = Value::Null;
    loop {
        let body = json!({"query": query, "variables": {"after": after}});
        let Some(mut answer) = world.graphql(tenant, body, None, gateway).await else { return rows };
        let mut page = answer.body["data"]["page"].take();
        let Some(nodes) = page["nodes"].as_array() else { panic!("no nodes: {answer:?}") };
        for node in nodes {
            if rows.insert(text(&node["id"]).to_owned(), read(node)).is_some() {
                world.tally.violation(format!("tenant {tenant}: a row on two pages: {node}"));
            }
        }
        if page["pageInfo"]["hasNextPage"] == false {
            return rows;
        }
        after = page["pageInfo"]["endCursor"].take();
    }
}

/// The follower has every event, and each at its position.
pub async fn follower(world: &World, follower: &Followers, tenant: usize, events: &[Value]) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut looks = tokio::time::interval(Duration::from_millis(100));
    while follower.of(tenant).ids.len() < events.len() && tokio::time::Instant::now() < deadline {
        looks.tick().await;
    }
    let followed = follower.of(tenant);
    if followed.ids.len() < events.len() {
        let (has, of) = (followed.ids.len(), events.len());
        world.tally.violation(format!("tenant {tenant}: {} has {has} events of {of}", follower.name));
    }
    for (id, event) in followed.ids.iter().zip(events) {
        if event["id"] != id.as_str() {
            world
                .tally
                .violation(format!("tenant {tenant}: {} has {id} in the place of {event}", follower.name));
        }
    }
}

fn members(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .filter(|event| event["type"] == "identity.user.registered.v1")
        .filter(|event| {
            event["data"]["roles"].as_array().is_some_and(|roles| roles.contains(&json!("member")))
        })
        .filter_map(|event| Some(text(&event["subject"]).split_once('/')?.1))
        .collect()
}

/// A number, which stands as text in public.
pub fn number(value: &Value) -> Option<u64> {
    value.as_str()?.parse().ok()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
