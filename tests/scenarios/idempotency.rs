//! A repeated request gets its first answer; the same key for something else is refused.

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use schemas::engine::ids;
use serde_json::{Value, json};

use crate::support::Product;
use crate::support::product::{PASSWORD, send};

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_registration_gets_the_first_answer() {
    let tenant = Product::shared().tenant().await;
    let key = ids::random_id().to_string();
    let register = |body: Value| {
        send(tenant.anonymous(Method::POST, "/v1/auth/register").header("Idempotency-Key", &key).json(&body))
    };
    let body = json!({"email": "ada@example.com", "password": PASSWORD, "name": "Ada"});
    let first = register(body.clone()).await;
    assert_eq!(first.0, StatusCode::CREATED);
    for again in join_all((0..20).map(|_| register(body.clone()))).await {
        assert_eq!(again, first);
    }
    let other = json!({"email": "bo@example.com", "password": PASSWORD, "name": "Bo"});
    let (status, problem) = register(other).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("command_id_reused")));
    let users = tenant.events().await;
    let registered = users.iter().filter(|event| event["type"] == "identity.user.registered.v1").count();
    // The administrator and Ada.
    assert_eq!(registered, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_fifty_clients_want_at_once_goes_to_one() {
    let tenant = Product::shared().tenant().await;
    let answers = join_all((0..50).map(|client| {
        let email = if client % 2 == 0 { "ada@example.com" } else { "ADA@example.com" };
        let body = json!({"email": email, "password": PASSWORD, "name": "Ada"});
        send(tenant.anonymous(Method::POST, "/v1/auth/register").json(&body))
    }))
    .await;
    let (won, lost): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|(status, _)| *status == StatusCode::CREATED);
    assert_eq!(won.len(), 1);
    for (status, problem) in lost {
        assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("email_taken")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_tenant_is_the_first_one() {
    let product = Product::shared();
    let key = ids::random_id().to_string();
    let slug = crate::support::unique("repeat");
    let register = |name: &str| {
        let body = json!({"slug": slug, "name": name, "tier": "free",
                          "admin": {"email": "admin@example.com", "password": PASSWORD, "name": "Admin"}});
        let request = product.request(Method::POST, "/v1/tenants").bearer_auth(product.admin_token());
        send(request.header("Idempotency-Key", &key).json(&body))
    };
    let first = register("Repeat").await;
    assert_eq!(first.0, StatusCode::CREATED, "{}", first.1);
    assert_eq!(register("Repeat").await, first);
    let (status, problem) = register("Other").await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("command_id_reused")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_mutation_is_a_duplicate_with_the_first_result() {
    let tenant = Product::shared().tenant().await;
    let command_id = ids::random_id().to_string();
    let mutation = "mutation ($input: RegisterCustomerInput!) { registerCustomer(input: $input) {
                        outcome commandId version position consistencyToken customer { id name } userErrors { code } } }";
    let register = |name: &str| {
        tenant.graphql(
            mutation,
            json!({"input": {"commandId": command_id, "name": name, "email": "ada@example.com"}}),
        )
    };
    let first = register("Ada").await["registerCustomer"].take();
    assert_eq!(first["outcome"], "APPLIED");
    let mut again = register("Ada").await["registerCustomer"].take();
    assert_eq!(again["outcome"], "DUPLICATE");
    again["outcome"] = first["outcome"].clone();
    assert_eq!(again, first);
    let reused = register("Bo").await["registerCustomer"].take();
    assert_eq!(
        (&reused["outcome"], &reused["userErrors"][0]["code"]),
        (&json!("REJECTED"), &json!("COMMAND_ID_REUSED"))
    );
}
