//! Fixtures of the tests in `tests/privacy`.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::process::{Annals, command};
use crate::support::product::{Product, Tenant, send};

/// A product whose processes keep keys for one second.
pub fn product() -> Product {
    let mut command = command();
    command.args(["dev", "--ephemeral"]).env("ANNALS__PRIVACY__KEY_LEASE_SECONDS", "1");
    Product { annals: Annals::spawn(command) }
}

/// Asks for an erasure and waits until it is done; returns what REST says of it.
pub async fn erase(tenant: &Tenant<'_>, whom: Value) -> Value {
    let (status, asked) = send(tenant.admin(Method::POST, "/v1/erasures").json(&whom)).await;
    assert_eq!((status, &asked["status"]), (StatusCode::ACCEPTED, &json!("requested")), "{asked}");
    erased(tenant, asked["subject"].as_str().expect("a subject")).await
}

pub async fn erased(tenant: &Tenant<'_>, subject: &str) -> Value {
    eventually("the person is erased", || async {
        let (status, shown) = send(tenant.admin(Method::GET, &format!("/v1/erasures/{subject}"))).await;
        (status == StatusCode::OK && shown["status"] == "erased").then_some(shown)
    })
    .await
}

/// The customer that a user is, once there is one.
pub async fn customer_of(tenant: &Tenant<'_>, user: &Value) -> Value {
    eventually("the user's customer", || async {
        let query = "query($user: ID!) { customers(filter: {userId: $user}) { nodes { id name email erased status } } }";
        let answer = tenant.graphql(query, json!({ "user": user })).await;
        let customer = answer["customers"]["nodes"][0].clone();
        (!customer.is_null()).then_some(customer)
    })
    .await
}
