//! A second tenant sees nothing of the first through any endpoint, and what is missing looks like what is foreign.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::checker;
use crate::support::product::{PASSWORD, Tenant, send};
use crate::support::{Product, eventually};

/// A tenant with a member, a customer, and a canary in all of its texts.
async fn furnished<'a>(product: &'a Product, canary: &str) -> (Tenant<'a>, String, String) {
    let tenant = product.tenant().await;
    let user = tenant.register(&format!("{canary}@example.com"), canary).await;
    let customer = tenant
        .graphql(
            "mutation ($input: RegisterCustomerInput!) { registerCustomer(input: $input) { customer { id } } }",
            json!({"input": {"name": canary, "email": format!("{canary}@example.org"), "company": canary, "notes": canary}}),
        )
        .await;
    checker::check(&tenant).await;
    let user_id = user["user"]["id"].as_str().expect("an id").to_owned();
    let customer_id = customer["registerCustomer"]["customer"]["id"].as_str().expect("an id").to_owned();
    (tenant, user_id, customer_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_nothing_of_another_through_any_endpoint() {
    let product = Product::shared();
    let (_, user_id, customer_id) = furnished(product, "canary").await;
    let (other, ..) = furnished(product, "sparrow").await;

    let missing = "0198c0de-0000-7000-8000-000000000000";
    let object = "query ($id: ID!) { customer(id: $id) { id name } user(id: $id) { id name } }";
    for id in [&user_id, &customer_id, missing] {
        let answer = other.graphql_as(&other.token, object, json!({"id": id})).await;
        assert_eq!(answer["data"], json!({"customer": null, "user": null}), "{answer}");
    }
    for mutation in [
        "renameCustomer(input: {id: $id, name: \"x\"})",
        "closeCustomer(input: {id: $id})",
        "changeUserName(input: {id: $id, name: \"x\"})",
    ] {
        let query =
            format!("mutation ($id: ID!) {{ it: {mutation} {{ outcome userErrors {{ code message }} }} }}");
        let mut answers = Vec::new();
        for id in [&customer_id, missing] {
            let id = if mutation.starts_with("changeUser") && *id == customer_id { &user_id } else { id };
            let answer = other.graphql_as(&other.token, &query, json!({"id": id})).await;
            assert_eq!(answer["data"]["it"]["userErrors"][0]["code"], "NOT_FOUND", "{answer}");
            answers.push(answer["data"]["it"].clone());
        }
        assert_eq!(answers[0], answers[1], "foreign and missing look the same");
    }
    let lists = "{ customers(first: 100) { totalCount nodes { name email company notes userId } }
                   users(first: 100) { totalCount nodes { name email } } me { email } }";
    let seen = other.graphql_as(&other.token, lists, Value::Null).await.to_string();
    let events: Vec<Value> = other.events().await;
    let all = format!("{seen}{}", Value::Array(events));
    assert!(all.contains("sparrow") && !all.contains("canary"), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_its_own_tenant_alone() {
    let product = Product::shared();
    let (first, second) = (product.tenant().await, product.tenant().await);
    for (method, path) in
        [(Method::GET, "/v1/auth/me"), (Method::GET, "/v1/events"), (Method::GET, "/v1/events/stream")]
    {
        let request = first.admin(method, path).header("X-Tenant-ID", &second.slug);
        let (status, problem) = send(request).await;
        assert_eq!((status, &problem["code"]), (StatusCode::FORBIDDEN, &json!("tenant_mismatch")), "{path}");
    }
    let (status, me) = send(first.admin(Method::GET, "/v1/auth/me").header("X-Tenant-ID", &first.slug)).await;
    assert_eq!((status, &me["user"]["tenant_id"]), (StatusCode::OK, &json!(first.slug)));
    // The password of one tenant is nothing in another.
    first.register("same@example.com", "Same").await;
    let login = json!({"email": "same@example.com", "password": PASSWORD});
    let (status, problem) = send(second.anonymous(Method::POST, "/v1/auth/login").json(&login)).await;
    assert_eq!((status, &problem["code"]), (StatusCode::UNAUTHORIZED, &json!("invalid_credentials")));
    // The same address registers there as somebody else.
    second.register("same@example.com", "Other").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_and_tokens_of_another_tenant_are_refused() {
    let product = Product::shared();
    let (first, second) = (product.tenant().await, product.tenant().await);
    let mut token = Value::Null;
    for tenant in [&first, &second] {
        for name in ["Ada", "Bo", "Cy"] {
            let data = tenant
                .graphql(
                    "mutation ($input: RegisterCustomerInput!) { registerCustomer(input: $input) { consistencyToken } }",
                    json!({"input": {"name": name, "email": "x@example.com"}}),
                )
                .await;
            token = data["registerCustomer"]["consistencyToken"].clone();
        }
    }
    let page = "query ($after: String) { customers(first: 1, after: $after) { nodes { name } pageInfo { endCursor } } }";
    let cursor = eventually("a cursor", || async {
        let data = second.graphql(page, Value::Null).await;
        data["customers"]["pageInfo"]["endCursor"].as_str().map(str::to_owned)
    })
    .await;
    let answer = first.graphql_as(&first.token, page, json!({"after": cursor})).await;
    assert_eq!(answer["errors"][0]["extensions"]["code"], "CURSOR_INVALID", "{answer}");
    let request = first
        .admin(Method::POST, "/graphql")
        .header("X-Consistency-Token", token.as_str().expect("a token"))
        .json(&json!({"query": "{ customers { totalCount } }"}));
    let (_, answer) = send(request).await;
    assert_eq!(answer["errors"][0]["extensions"]["code"], "BAD_REQUEST", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_reads_itself_and_its_customer_only() {
    let product = Product::shared();
    let (tenant, ..) = furnished(product, "sparrow").await;
    let registered = tenant.register("wren@example.com", "Wren").await;
    let id = registered["user"]["id"].as_str().expect("an id").to_owned();
    checker::check(&tenant).await;
    let token = tenant.login("wren@example.com").await;
    let me = eventually("its customer", || async {
        let me = tenant.graphql_as(&token, "{ me { id email customer { userId name } } }", Value::Null).await;
        me["data"]["me"]["customer"].is_object().then_some(me)
    })
    .await;
    assert_eq!(me["data"]["me"]["customer"], json!({"userId": id, "name": "Wren"}));
    // A list shows only what it owns; asked twice, because a repeated document takes another way.
    for _ in 0..2 {
        let query = "{ customers { totalCount nodes { userId } } users { totalCount nodes { id } } }";
        let own = tenant.graphql_as(&token, query, Value::Null).await;
        let expected = json!({
            "customers": {"totalCount": 1, "nodes": [{"userId": id}]},
            "users": {"totalCount": 1, "nodes": [{"id": id}]},
        });
        assert_eq!(own, json!({"data": expected}));
    }
    for query in ["mutation { registerCustomer(input: {name: \"x\", email: \"x@example.com\"}) { outcome } }"]
    {
        let answer = tenant.graphql_as(&token, query, Value::Null).await;
        assert_eq!(answer["errors"][0]["extensions"]["code"], "FORBIDDEN", "{query}: {answer}");
    }
    let changed = tenant
        .graphql_as(
            &token,
            "mutation ($id: ID!) { changeUserName(input: {id: $id, name: \"Jenny\"}) { outcome user { name } } }",
            json!({"id": id}),
        )
        .await;
    assert_eq!(changed["data"]["changeUserName"], json!({"outcome": "APPLIED", "user": {"name": "Jenny"}}));
    let (status, problem) = send(product.request(Method::GET, "/v1/events").bearer_auth(&token)).await;
    assert_eq!((status, &problem["code"]), (StatusCode::FORBIDDEN, &json!("forbidden")));
}
