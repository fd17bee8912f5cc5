//! The load: registrations, new customers, renames and reads, each repeated at either gateway until it is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::check::number;
use super::tally::{Promise, Tally};
use crate::support::deployment::{Account, Answer};
use crate::support::dice::Dice;
use crate::support::product::PASSWORD;

/// A gateway that has not answered by now is given up: it may stand still.
const ATTEMPT: Duration = Duration::from_secs(6);
const PAUSE: Duration = Duration::from_millis(100);
/// A client's pause between two requests.
const TEMPO: Duration = Duration::from_millis(40);
/// A request that is not answered by anybody for so long is lost.
const PATIENCE: Duration = Duration::from_mins(1);

/// What all clients know.
pub struct World {
    pub client: reqwest::Client,
    /// The addresses of both gateways.
    pub gateways: [String; 2],
    pub tenants: Vec<Account>,
    pub tally: Tally,
    pub stop: AtomicBool,
}

impl World {
    /// Sends a request until it is answered otherwise than `unavailable`, at the gateways in turn.
    pub async fn insist(
        &self,
        make: impl Fn(&reqwest::Client, &str) -> RequestBuilder,
        first: u64,
    ) -> Option<Answer> {
        let begun = Instant::now();
        let mut pauses = tokio::time::interval(PAUSE);
        for attempt in first.. {
            pauses.tick().await;
            let request = make(&self.client, &self.gateways[(attempt % 2) as usize]).timeout(ATTEMPT);
            match Answer::try_of(request).await {
                Ok(answer) if !answer.is_unavailable() => {
                    self.tally.took(begun.elapsed());
                    return Some(answer);
                }
                _ if begun.elapsed() > PATIENCE => break,
                _ => self.tally.lock().repeats += 1,
            }
        }
        self.tally.violation(format!("a request was not answered within {PATIENCE:?}"));
        None
    }

    pub async fn graphql(
        &self,
        tenant: usize,
        body: Value,
        token: Option<&str>,
        first: u64,
    ) -> Option<Answer> {
        let make = |client: &reqwest::Client, gateway: &str| {
            let request = client.post(format!("{gateway}/graphql")).bearer_auth(&self.tenants[tenant].token);
            let request = token
                .into_iter()
                .fold(request, |request, token| request.header("X-Consistency-Token", token));
            request.json(&body)
        };
        self.insist(make, first).await
    }
}

/// A customer that one client alone changes, as the product has promised it.
struct Own {
    id: String,
    name: String,
    version: u64,
    token: String,
}

/// One client of one tenant.
pub struct Client {
    pub world: Arc<World>,
    pub tenant: usize,
    pub number: u64,
    pub dice: Dice,
}

const CHANGE_USER_NAME: &str =
    "mutation ($input: ChangeUserNameInput!) { done: changeUserName(input: $input) {
     outcome version position user { id name version } } }";
const CHANGE: [&str; 2] = [
    "mutation ($input: RegisterCustomerInput!) { done: registerCustomer(input: $input) {
         outcome version position consistencyToken customer { id name version } } }",
    "mutation ($input: RenameCustomerInput!) { done: renameCustomer(input: $input) {
         outcome version position consistencyToken customer { id name version } } }",
];

impl Client {
    /// Works until told to stop, and ends with everything answered.
    pub async fn run(mut self) {
        let mut own: Vec<Own> = Vec::new();
        let mut tempo = tokio::time::interval(TEMPO);
        tempo.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut step = 0;
        while !self.world.stop.load(Ordering::Relaxed) {
            tempo.tick().await;
            step += 1;
            match step % 6 {
                0 | 2 => self.register_user(step).await,
                1 => own.extend(self.change(None, step).await),
                3 | 4 => {
                    let place = self.dice.below(own.len() as u64) as usize;
                    if let Some(customer) = own.get(place)
                        && let Some(renamed) = self.change(Some(&customer.id), step).await
                    {
                        own[place] = renamed;
                    }
                }
                _ => {
                    let place = self.dice.below(own.len() as u64) as usize;
                    if let Some(customer) = own.get(place) {
                        self.read(customer).await;
                    }
                }
            }
        }
    }

    fn name(&self, step: u64) -> String {
        format!("n-{}-{}-{step}", self.tenant, self.number)
    }

    async fn register_user(&mut self, step: u64) {
        let (name, key) = (self.name(step), Uuid::from_u128(self.dice.wide()));
        let email = format!("{name}@example.com");
        let world = &self.world;
        let slug = &world.tenants[self.tenant].slug;
        let make = |client: &reqwest::Client, gateway: &str| {
            client
                .post(format!("{gateway}/v1/auth/register"))
                .header("X-Tenant-ID", slug)
                .header("Idempotency-Key", key.to_string())
                .json(&json!({"email": email, "password": PASSWORD, "name": name}))
        };
        let Some(answer) = world.insist(make, step).await else { return };
        match answer.body["user"]["id"].as_str() {
            Some(id) if answer.status == StatusCode::CREATED => {
                let promise = Promise::User { tenant: self.tenant, id: id.to_owned(), email: email.clone() };
                world.tally.promised(promise);
                if step.is_multiple_of(12) {
                    let id = id.to_owned();
                    self.change_user_name(&id, step).await;
                }
            }
            _ => world.tally.violation(format!("{email} was wrongly refused: {answer:?}")),
        }
    }

    /// Another name for a user that was registered just now.
    async fn change_user_name(&mut self, id: &str, step: u64) {
        let (name, command) = (format!("u{}", self.name(step)), Uuid::from_u128(self.dice.wide()));
        let input = json!({"id": id, "name": name, "commandId": command});
        let body = json!({"query": CHANGE_USER_NAME, "variables": {"input": input}});
        let Some(answer) = self.world.graphql(self.tenant, body, None, step).await else { return };
        let done = &answer.body["data"]["done"];
        let accepted = done["outcome"] == "APPLIED" || done["outcome"] == "DUPLICATE";
        match (number(&done["version"]), number(&done["position"]), accepted) {
            (Some(version), Some(position), true) if done["user"]["name"] == name.as_str() => {
                let (tenant, id) = (self.tenant, id.to_owned());
                self.world.tally.promised(Promise::UserName { tenant, id, name, version, position });
            }
            _ => self.world.tally.violation(format!("{name} was wrongly refused: {answer:?}")),
        }
    }

    /// A new customer, or another name for one.
    async fn change(&mut self, id: Option<&str>, step: u64) -> Option<Own> {
        let (name, command) = (self.name(step), Uuid::from_u128(self.dice.wide()));
        let input = match id {
            None => json!({"name": name, "email": format!("{name}@customers.example"), "commandId": command}),
            Some(id) => json!({"id": id, "name": name, "commandId": command}),
        };
        let body = json!({"query": CHANGE[usize::from(id.is_some())], "variables": {"input": input}});
        let answer = self.world.graphql(self.tenant, body, None, step).await?;
        let done = &answer.body["data"]["done"];
        let promised = (
            done["customer"]["id"].as_str(),
            number(&done["version"]),
            number(&done["position"]),
            done["consistencyToken"].as_str(),
        );
        let accepted = done["outcome"] == "APPLIED" || done["outcome"] == "DUPLICATE";
        let (Some(id), Some(version), Some(position), Some(token), true) =
            (promised.0, promised.1, promised.2, promised.3, accepted)
        else {
            self.world.tally.violation(format!("{name} was wrongly refused: {answer:?}"));
            return None;
        };
        if done["customer"]["name"] != name.as_str() || done["customer"]["version"] != done["version"] {
            self.world.tally.violation(format!("a payload does not show the change to {name}: {answer:?}"));
        }
        let (id, token) = (id.to_owned(), token.to_owned());
        let promise =
            Promise::Customer { tenant: self.tenant, id: id.clone(), name: name.clone(), version, position };
        self.world.tally.promised(promise);
        Some(Own { id, name, version, token })
    }

    /// Reads behind the token of the last change: nobody else changes this customer, so exactly that must be there. And
    /// another tenant's customer must not.
    async fn read(&mut self, own: &Own) {
        let foreign = {
            let inner = self.world.tally.lock();
            let pick = self.dice.below(inner.promises.len() as u64) as usize;
            match inner.promises.get(pick) {
                Some(Promise::Customer { tenant, id, .. }) if *tenant != self.tenant => id.clone(),
                _ => Uuid::nil().to_string(),
            }
        };
        let query = "query ($own: ID!, $foreign: ID!) {
                         own: customer(id: $own) { name version } foreign: customer(id: $foreign) { id } }";
        let body = json!({"query": query, "variables": {"own": own.id, "foreign": foreign}});
        let first = self.dice.below(2);
        let Some(answer) = self.world.graphql(self.tenant, body, Some(&own.token), first).await else {
            return;
        };
        let tally = &self.world.tally;
        if answer.body["errors"][0]["extensions"]["code"] == "CONSISTENCY_TIMEOUT" {
            tally.lock().late_reads += 1;
            return;
        }
        tally.lock().reads += 1;
        let shown = &answer.body["data"]["own"];
        if shown["name"] != own.name.as_str() || number(&shown["version"]) != Some(own.version) {
            tally.violation(format!("a token was not honoured: {} {} {answer:?}", own.name, own.version));
        }
        if !answer.body["data"]["foreign"].is_null() {
            tally.violation(format!("a row of another tenant was shown: {foreign} {answer:?}"));
        }
    }
}
