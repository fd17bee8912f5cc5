//! Users as a tenant's administrators see them: added, given roles, renamed, deactivated.

use reqwest::{Method, StatusCode};
use schemas::engine::ids;
use serde_json::{Value, json};

use crate::support::Product;
use crate::support::product::{PASSWORD, Tenant, send};

async fn add(tenant: &Tenant<'_>, email: &str, roles: &[&str]) -> String {
    let body = json!({"email": email, "name": "Ada", "roles": roles, "password": PASSWORD});
    let (status, answer) = send(tenant.admin(Method::POST, "/v1/users").json(&body)).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    answer["user"]["id"].as_str().expect("an id").to_owned()
}

fn roles(tenant: &Tenant<'_>, token: &str, id: &str, roles: Value) -> reqwest::RequestBuilder {
    let request = tenant.product.request(Method::PUT, &format!("/v1/users/{id}/roles")).bearer_auth(token);
    request.json(&json!({ "roles": roles }))
}

#[track_caller]
fn refused((status, problem): (StatusCode, Value), expected: u16, code: &str) {
    let told = problem["errors"][0]["code"].as_str().or(problem["code"].as_str());
    assert_eq!((status.as_u16(), told), (expected, Some(code)), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_adds_users_and_gives_them_roles() {
    let tenant = Product::shared().tenant().await;
    let key = ids::random_id().to_string();
    let add_with = |body: Value| {
        send(tenant.admin(Method::POST, "/v1/users").header("Idempotency-Key", &key).json(&body))
    };
    let body =
        json!({"email": "Grace@example.com", "name": "Grace", "roles": ["member"], "password": PASSWORD});
    let first = add_with(body.clone()).await;
    assert_eq!(first.0, StatusCode::CREATED, "{}", first.1);
    assert_eq!(add_with(body).await, first);
    let other = json!({"email": "eve@example.com", "name": "Eve", "roles": ["member"]});
    refused(add_with(other.clone()).await, 409, "command_id_reused");
    let user = &first.1["user"];
    assert_eq!((&user["status"], &user["roles"]), (&json!("unconfirmed"), &json!(["member"])));
    let id = user["id"].as_str().expect("an id");

    // The next token has what the roles bring.
    let (status, changed) = send(roles(&tenant, &tenant.token, id, json!(["auditor", "member"]))).await;
    assert_eq!((status, &changed["user"]["roles"]), (StatusCode::OK, &json!(["member", "auditor"])));
    let token = tenant.login("grace@example.com").await;
    let (status, _) = send(tenant.product.request(Method::GET, "/v1/activities").bearer_auth(&token)).await;
    assert_eq!(status, StatusCode::OK);
    let query =
        json!({"query": "query ($id: ID!) { user(id: $id) { roles version } }", "variables": {"id": id}});
    let seen = tenant
        .admin(Method::POST, "/graphql")
        .json(&query)
        .header("X-Consistency-Token", changed["consistency_token"].as_str().expect("a token"));
    let (_, seen) = send(seen).await;
    assert_eq!(seen["data"]["user"], json!({"roles": ["member", "auditor"], "version": "2"}));
    // The same set again is no fact, and each change is one, with who made it.
    send(roles(&tenant, &tenant.token, id, json!(["member", "auditor"]))).await;
    let events = tenant.events().await;
    let facts: Vec<&Value> =
        events.iter().filter(|event| event["type"] == "identity.user.roles_changed.v1").collect();
    assert_eq!(facts.len(), 1);
    assert_eq!(facts[0]["data"], json!({"roles": ["member", "auditor"]}));
    assert!(facts[0]["actor"].as_str().expect("an actor").starts_with("user:"));

    // Without a password a user is there and does not sign in.
    let (status, eve) = send(tenant.admin(Method::POST, "/v1/users").json(&other)).await;
    assert_eq!(status, StatusCode::CREATED, "{eve}");
    let login = json!({"email": "eve@example.com", "password": PASSWORD});
    let login = tenant.anonymous(Method::POST, "/v1/auth/login").json(&login);
    refused(send(login).await, 401, "invalid_credentials");
    refused(send(tenant.admin(Method::POST, "/v1/users").json(&other)).await, 409, "email_taken");

    let mut listed = Vec::new();
    let mut path = "/v1/users?limit=2".to_owned();
    loop {
        let (status, page) = send(tenant.admin(Method::GET, &path)).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        listed.extend(page["users"].as_array().expect("users").clone());
        let Some(next) = page["next_after"].as_str() else { break };
        path = format!("/v1/users?limit=2&after={next}");
    }
    assert_eq!(listed.len(), 3, "{listed:?}");
    let (_, shown) = send(tenant.admin(Method::GET, &format!("/v1/users/{id}"))).await;
    assert!(listed.contains(&shown["user"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_renamed_and_deactivated() {
    let tenant = Product::shared().tenant().await;
    let id = add(&tenant, "grace@example.com", &["member"]).await;
    let path = format!("/v1/users/{id}");
    let patch = |body: Value| send(tenant.admin(Method::PATCH, &path).json(&body));
    let (status, changed) = patch(json!({"name": "Grace Hopper"})).await;
    assert_eq!((status, &changed["user"]["name"]), (StatusCode::OK, &json!("Grace Hopper")));
    refused(patch(json!({"status": "active"})).await, 422, "status_invalid");
    refused(patch(json!({})).await, 422, "required");
    refused(patch(json!({"name": "x", "status": "deactivated"})).await, 422, "unknown_field");
    let (status, changed) = patch(json!({"status": "deactivated", "reason": "left"})).await;
    assert_eq!((status, &changed["user"]["status"]), (StatusCode::OK, &json!("deactivated")));
    let login = json!({"email": "grace@example.com", "password": PASSWORD});
    refused(
        send(tenant.anonymous(Method::POST, "/v1/auth/login").json(&login)).await,
        401,
        "invalid_credentials",
    );
    let changed = send(roles(&tenant, &tenant.token, &id, json!(["member"]))).await;
    assert_eq!(changed.0, StatusCode::UNPROCESSABLE_ENTITY, "{}", changed.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_do_what_with_users_is_checked() {
    let product = Product::shared();
    let (tenant, other) = (product.tenant().await, product.tenant().await);
    let id = add(&tenant, "grace@example.com", &["member"]).await;
    let member = tenant.login("grace@example.com").await;
    let body = json!({"email": "x@example.com", "name": "X", "roles": ["member"]});
    for request in [
        product.request(Method::GET, "/v1/users").bearer_auth(&member),
        product.request(Method::GET, &format!("/v1/users/{id}")).bearer_auth(&member),
        product.request(Method::POST, "/v1/users").bearer_auth(&member).json(&body),
        product.request(Method::PATCH, &format!("/v1/users/{id}")).bearer_auth(&member).json(&json!({})),
        roles(&tenant, &member, &id, json!(["tenant_admin"])),
    ] {
        refused(send(request).await, 403, "forbidden");
    }
    for (wanted, code) in [
        (json!([]), "roles_empty"),
        (json!(["boss"]), "role_invalid"),
        (json!(["platform_admin"]), "role_not_allowed"),
    ] {
        refused(send(roles(&tenant, &tenant.token, &id, wanted.clone())).await, 422, code);
        let mut body = body.clone();
        body["roles"] = wanted;
        refused(send(tenant.admin(Method::POST, "/v1/users").json(&body)).await, 422, code);
    }
    refused(send(roles(&other, &other.token, &id, json!(["member"]))).await, 404, "not_found");
    refused(send(other.admin(Method::GET, &format!("/v1/users/{id}"))).await, 404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_goes_by_anothers_hand_and_then_changes_nothing_more() {
    let tenant = Product::shared().tenant().await;
    let email = format!("admin@{}.example", tenant.slug);
    let (_, page) = send(tenant.admin(Method::GET, "/v1/users")).await;
    let own = page["users"][0]["id"].as_str().expect("an id").to_owned();
    let own_path = format!("/v1/users/{own}");
    refused(send(roles(&tenant, &tenant.token, &own, json!(["member"]))).await, 422, "self_admin_change");
    let deactivate = json!({"status": "deactivated"});
    refused(send(tenant.admin(Method::PATCH, &own_path).json(&deactivate)).await, 422, "self_admin_change");
    let mutation = "mutation ($id: ID!) { deactivateUser(input: {id: $id}) { userErrors { code } } }";
    let answer = tenant.graphql(mutation, json!({"id": own})).await;
    assert_eq!(answer["deactivateUser"]["userErrors"][0]["code"], "SELF_ADMIN_CHANGE");
    let erase = tenant.admin(Method::POST, "/v1/erasures").json(&json!({ "user_id": own }));
    refused(send(erase).await, 422, "subject_is_admin");
    // More roles are no loss.
    assert_eq!(
        send(roles(&tenant, &tenant.token, &own, json!(["tenant_admin", "auditor"]))).await.0,
        StatusCode::OK
    );

    // Whoever is about to be erased is not given the role, whatever the erasure has come to by now.
    let doomed = add(&tenant, "doomed@example.com", &["member"]).await;
    let erase = tenant.admin(Method::POST, "/v1/erasures").json(&json!({ "user_id": doomed }));
    assert_eq!(send(erase).await.0, StatusCode::ACCEPTED);
    refused(send(roles(&tenant, &tenant.token, &doomed, json!(["tenant_admin"]))).await, 422, "user_erased");

    let second = add(&tenant, "second@example.com", &["tenant_admin"]).await;
    let token = tenant.login("second@example.com").await;
    assert_eq!(send(roles(&tenant, &token, &own, json!(["member"]))).await.0, StatusCode::OK);
    // The first one's token is good for minutes yet, and says tenant_admin.
    for request in [
        roles(&tenant, &tenant.token, &own, json!(["tenant_admin"])),
        roles(&tenant, &tenant.token, &second, json!(["member"])),
        tenant.admin(Method::PATCH, &format!("/v1/users/{second}")).json(&deactivate),
        tenant
            .admin(Method::POST, "/v1/users")
            .json(&json!({"email": "third@example.com", "name": "T", "roles": ["tenant_admin"]})),
    ] {
        refused(send(request).await, 403, "forbidden");
    }
    tenant.login(&email).await;
    refused(send(roles(&tenant, &token, &second, json!(["member"]))).await, 422, "self_admin_change");
}
