//! Erasures under faults: a client registers somebody now and then and asks for their erasure once they are a customer; the
//! judge expects in the end that it was done, with a certificate, and that nobody is shown any more.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use super::TENANTS;
use super::check::PATIENCE;
use super::load::World;
use crate::support::deployment::Answer;
use crate::support::dice::Dice;
use crate::support::product::PASSWORD;

/// The client's pause between two people.
const TEMPO: Duration = Duration::from_millis(400);

/// Somebody whose erasure was answered for.
#[derive(Debug, Clone)]
pub struct Erased {
    pub tenant: usize,
    user: String,
    email: String,
}

/// Registers and has erased until told to stop; returns whom.
pub async fn run(world: Arc<World>, mut dice: Dice) -> Vec<Erased> {
    let (mut waiting, mut erased) = (VecDeque::new(), Vec::new());
    let mut tempo = tokio::time::interval(TEMPO);
    tempo.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for step in 0_usize.. {
        tempo.tick().await;
        if world.stop.load(Ordering::Relaxed) {
            break;
        }
        waiting.extend(register(&world, step, &mut dice).await);
        // Who is erased before the saga has looked never becomes a customer.
        let Some(next) = waiting.pop_front() else { continue };
        if !is_customer(&world, &next).await {
            waiting.push_back(next);
        } else if request(&world, &next, &mut dice).await {
            erased.push(next);
        }
    }
    erased
}

async fn register(world: &World, step: usize, dice: &mut Dice) -> Option<Erased> {
    let (tenant, key) = (step % TENANTS, Uuid::from_u128(dice.wide()));
    let (email, slug) = (format!("gone-{step}@example.com"), &world.tenants[tenant].slug);
    let make = |client: &reqwest::Client, gateway: &str| {
        client
            .post(format!("{gateway}/v1/auth/register"))
            .header("X-Tenant-ID", slug)
            .header("Idempotency-Key", key.to_string())
            .json(&json!({"email": email, "password": PASSWORD, "name": format!("Gone {step}")}))
    };
    let answer = world.insist(make, step as u64).await?;
    let Some(user) = answer.body["user"]["id"].as_str() else {
        world.tally.violation(format!("{email} was wrongly refused: {answer:?}"));
        return None;
    };
    Some(Erased { tenant, user: user.to_owned(), email })
}

async fn is_customer(world: &World, whom: &Erased) -> bool {
    let query = "query($user: ID!) { customers(filter: {userId: $user}) { nodes { id } } }";
    let body = json!({"query": query, "variables": {"user": whom.user}});
    let answer = world.graphql(whom.tenant, body, None, 0).await;
    answer.is_some_and(|answer| answer.body["data"]["customers"]["nodes"][0]["id"].is_string())
}

async fn request(world: &World, whom: &Erased, dice: &mut Dice) -> bool {
    let key = Uuid::from_u128(dice.wide());
    let make = |client: &reqwest::Client, gateway: &str| {
        let request = client.post(format!("{gateway}/v1/erasures"));
        let request = request.bearer_auth(&world.tenants[whom.tenant].token);
        request.header("Idempotency-Key", key.to_string()).json(&json!({"user_id": whom.user}))
    };
    let Some(answer) = world.insist(make, dice.below(2)).await else { return false };
    if answer.status != StatusCode::ACCEPTED {
        world.tally.violation(format!("the erasure of {} was wrongly refused: {answer:?}", whom.email));
        return false;
    }
    true
}

/// Waits until all erasures are done. Returns the positions of the certificates, for each tenant.
pub async fn done(world: &World, erased: &[Erased]) -> HashMap<usize, Vec<u64>> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut looks = tokio::time::interval(Duration::from_millis(100));
    let mut certificates: HashMap<usize, Vec<u64>> = HashMap::new();
    for whom in erased {
        loop {
            looks.tick().await;
            let shown = shown(world, whom).await;
            if let (Some("erased"), Some(position)) = (shown["status"].as_str(), shown["position"].as_u64()) {
                certificates.entry(whom.tenant).or_default().push(position);
                break;
            }
            if tokio::time::Instant::now() > deadline {
                let (tenant, email) = (whom.tenant, &whom.email);
                world.tally.violation(format!("tenant {tenant}: {email} is not erased: {shown}"));
                break;
            }
        }
    }
    certificates
}

async fn shown(world: &World, whom: &Erased) -> Value {
    let make = |client: &reqwest::Client, gateway: &str| {
        let request = client.get(format!("{gateway}/v1/erasures/{}", whom.user));
        request.bearer_auth(&world.tenants[whom.tenant].token)
    };
    world.insist(make, 0).await.map_or(Value::Null, |Answer { body, .. }| body)
}

/// Nobody who was erased is read in the tenant's events or shown at either gateway.
pub async fn nobody_is_left(world: &World, tenant: usize, events: &[Value], erased: &[Erased]) {
    let log = Value::from(events.to_vec()).to_string();
    for whom in erased.iter().filter(|whom| whom.tenant == tenant) {
        if log.contains(&format!("\"{}\"", whom.email)) {
            world.tally.violation(format!("tenant {tenant}: {} is read in the log", whom.email));
        }
        let query = "query($id: ID!) { user(id: $id) { name email erased } }";
        let body = json!({"query": query, "variables": {"id": whom.user}});
        for gateway in 0..2 {
            let answer = world.graphql(tenant, body.clone(), None, gateway).await;
            let user = answer.map_or(Value::Null, |mut answer| answer.body["data"]["user"].take());
            if user != json!({"name": "", "email": "", "erased": true}) {
                world.tally.violation(format!("tenant {tenant}: {} is shown: {user}", whom.email));
            }
        }
    }
}
