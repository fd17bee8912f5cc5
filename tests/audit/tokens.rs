//! What an auditor is let in with: reads of one tenant until it ends, and no write on any door.

use std::collections::BTreeSet;

use gateway::router::public_route_table;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::support::process::run;
use crate::support::product::{PASSWORD, Product, Tenant, client, send};
use crate::support::{eventually, folder};

/// What takes no token, or changes nothing of the tenant.
const APART: [(&str, &str); 4] = [
    ("POST", "/v1/auth/login"),
    ("POST", "/v1/auth/register"),
    ("POST", "/graphql"),
    ("POST", "/v1/stream-tickets"),
];

/// Every method and path of the public listener of its table.
fn routes() -> BTreeSet<(String, String)> {
    let table = public_route_table();
    table.all().iter().map(|route| (route.method_name().to_owned(), route.path.to_owned())).collect()
}

/// Every mutation of the committed schema with an input that has all that must be there.
fn mutations() -> Vec<String> {
    let schema = include_str!("../../gateway/schema.graphql");
    let body = |head: &str| {
        let (_, rest) = schema.split_once(head).unwrap_or_else(|| panic!("{head}"));
        rest.split("\n}").next().expect("a body").to_owned()
    };
    let mut found = Vec::new();
    let mut name = String::new();
    for line in body("type Mutation {").lines().map(str::trim) {
        if let Some(field) = line.strip_suffix('(') {
            field.clone_into(&mut name);
        }
        let Some(input) = line.strip_prefix("input: ").and_then(|input| input.strip_suffix('!')) else {
            continue;
        };
        let fields: Vec<String> = body(&format!("input {input} {{"))
            .lines()
            .filter_map(|line| line.trim().split_once(": "))
            .filter(|(_, kind)| kind.ends_with('!'))
            .map(|(field, _)| match field {
                "id" => "id: \"0198c0de-0000-7000-8000-000000000000\"".to_owned(),
                "email" => "email: \"x@example.com\"".to_owned(),
                field => format!("{field}: \"x\""),
            })
            .collect();
        found.push(format!("mutation {{ {name}(input: {{{}}}) {{ outcome }} }}", fields.join(", ")));
    }
    found
}

fn asked(tenant: &Tenant<'_>, token: &str, method: &str, path: &str) -> RequestBuilder {
    let path: String = path
        .split('/')
        .map(|part| match part {
            "{category}" => "ext.loyalty.account",
            "{type}" => "ext.loyalty.account.opened.v1",
            "{position}" => "1",
            part if part.starts_with('{') => "0198c0de-0000-7000-8000-000000000000",
            part => part,
        })
        .collect::<Vec<_>>()
        .join("/");
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let request = tenant.product.request(method.clone(), &path).bearer_auth(token);
    // What is checked before it is known whom the body is about.
    let event_type = "ext.loyalty.account.opened.v1";
    let body = match path.as_str() {
        path if path.starts_with("/v1/streams/") => json!({"events": [{"type": event_type, "data": {}}]}),
        path if path.starts_with("/v1/event-types/") => json!({"schema": {"type": "object"}}),
        _ => json!({}),
    };
    if method == Method::GET { request } else { request.json(&body) }
}

/// A token that the administrator issues.
async fn issued(tenant: &Tenant<'_>, more: Value) -> (String, String) {
    let mut body =
        json!({"name": "Auditor", "scopes": ["audit:read", "crm:read", "events:read", "users:read"]});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let (status, answer) = send(tenant.admin(Method::POST, "/v1/service-tokens").json(&body)).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    (text(&answer["access_token"]), text(&answer["service_token"]["id"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_writes_through_no_door() {
    let tenant = Product::shared().tenant().await;
    let member = json!({"email": "a@example.com", "name": "A", "roles": ["auditor"], "password": PASSWORD});
    let (_, user) = send(tenant.admin(Method::POST, "/v1/users").json(&member)).await;
    let own = user["user"]["id"].as_str().expect("an id").to_owned();
    let tokens = [tenant.login("a@example.com").await, issued(&tenant, json!({"expires_days": 30})).await.0];
    let before = tenant.events().await;
    let writes: Vec<(String, String)> = routes().into_iter().filter(|(method, _)| method != "GET").collect();
    for known in [
        ("POST", "/v1/webhooks/{id}/rotate-secret"),
        ("PUT", "/v1/users/{id}/roles"),
        ("POST", "/v1/tenants"),
    ] {
        assert!(writes.iter().any(|(method, path)| (method.as_str(), path.as_str()) == known), "{known:?}");
    }
    assert!(mutations().len() >= 6, "{:?}", mutations());
    for token in &tokens {
        for (method, path) in &writes {
            if APART.contains(&(method.as_str(), path.as_str())) {
                continue;
            }
            let (status, answer) = send(asked(&tenant, token, method, path)).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path}: {answer}");
        }
        let rename =
            format!("mutation {{ changeUserName(input: {{id: \"{own}\", name: \"Other\"}}) {{ outcome }} }}");
        for mutation in mutations().into_iter().chain([rename]) {
            let answer = tenant.graphql_as(token, &mutation, Value::Null).await;
            assert_eq!(answer["errors"][0]["extensions"]["code"], "FORBIDDEN", "{mutation}: {answer}");
        }
        let admin = tenant.product.annals.text("admin_url");
        let request = client().post(format!("{admin}/admin/graphql")).bearer_auth(token).json(&json!({}));
        assert_eq!(send(request).await.0, StatusCode::UNAUTHORIZED, "the admin listener");
        // With what it may write to, it reads.
        for path in ["/v1/events", "/v1/users", "/v1/activities", "/v1/event-types"] {
            assert_eq!(send(asked(&tenant, token, "GET", path)).await.0, StatusCode::OK, "{path}");
        }
        let answer =
            tenant.graphql_as(token, "{ customers { totalCount } users { totalCount } }", Value::Null).await;
        assert_eq!(answer.get("errors"), None, "{answer}");
    }
    assert_eq!(tenant.events().await, before, "nothing was recorded");
    let (_, webhooks) = send(tenant.admin(Method::GET, "/v1/webhooks")).await;
    assert_eq!(webhooks["webhooks"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_reads_one_tenant_and_every_read_is_told() {
    let product = Product::shared();
    let (tenant, other) = (product.tenant().await, product.tenant().await);
    other.register("ada@example.com", "Ada").await;
    let (token, id) = issued(&tenant, json!({"expires_days": 1})).await;
    // By what it names, nothing of another tenant is reached, and what it does not name is its own tenant's.
    let (status, problem) =
        send(asked(&tenant, &token, "GET", "/v1/events").header("X-Tenant-ID", &other.slug)).await;
    assert_eq!((status, &problem["code"]), (StatusCode::FORBIDDEN, &json!("tenant_mismatch")));
    let (_, page) = send(asked(&tenant, &token, "GET", "/v1/events?limit=1000")).await;
    let source = format!("/tenants/{}", tenant.slug);
    assert!(
        page["events"].as_array().expect("events").iter().all(|event| event["source"] == source.as_str())
    );
    let foreign = other.events().await[1]["subject"].as_str().expect("a stream").to_owned();
    let (_, page) = send(asked(&tenant, &token, "GET", &format!("/v1/events?stream={foreign}"))).await;
    assert_eq!(page["events"], json!([]));
    let user = foreign.split('/').nth(1).expect("an id");
    assert_eq!(
        send(asked(&tenant, &token, "GET", &format!("/v1/users/{user}"))).await.0,
        StatusCode::NOT_FOUND
    );
    let query = format!(
        "{{ user(id: \"{user}\") {{ name }} userHistory(id: \"{user}\") {{ nodes {{ version }} }} }}"
    );
    let answer = tenant.graphql_as(&token, &query, Value::Null).await;
    assert_eq!(answer["data"], json!({"user": null, "userHistory": null}), "{answer}");

    // A ticket says nothing of roles, and its use is told all the same.
    let user_of = json!({"email": "a@example.com", "name": "A", "roles": ["auditor"], "password": PASSWORD});
    let (_, auditor) = send(tenant.admin(Method::POST, "/v1/users").json(&user_of)).await;
    let auditor = auditor["user"]["id"].as_str().expect("an id").to_owned();
    let signed_in = tenant.login("a@example.com").await;
    let path = json!({"path": "/v1/events/stream"});
    let (status, ticket) = send(asked(&tenant, &signed_in, "POST", "/v1/stream-tickets").json(&path)).await;
    assert_eq!(status, StatusCode::CREATED, "{ticket}");
    let ticket = ticket["ticket"].as_str().expect("a ticket");
    let stream = product.request(Method::GET, &format!("/v1/events/stream?ticket={ticket}")).send().await;
    assert_eq!(stream.expect("answers").status(), StatusCode::OK);

    let actor = format!("service:{id}");
    let wanted = [
        "GET /v1/events".to_owned(),
        format!("GET /v1/users/{user}"),
        "POST /graphql user userHistory".to_owned(),
    ];
    eventually("every access is told", || async {
        let (_, page) = send(tenant.admin(Method::GET, "/v1/activities?limit=1000")).await;
        let entries = page["activities"].as_array().expect("entries").clone();
        let told = |kind: &str, action: &str, actor: &str| {
            entries
                .iter()
                .any(|entry| entry["kind"] == kind && entry["action"] == action && entry["actor"] == actor)
        };
        let accesses = wanted.iter().all(|action| told("audit_access", action, &actor));
        let streamed = told("audit_access", "GET /v1/events/stream", &format!("user:{auditor}"));
        (accesses && streamed && told("refusal", "GET /v1/events", &actor)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_an_auditors_token_is_checked() {
    let tenant = Product::shared().tenant().await;
    let good = json!({"name": "A", "scopes": ["audit:read"]});
    for (more, code) in [
        (json!({}), "required"),
        (json!({"expires_days": 31}), "expires_days_invalid"),
        (json!({"expires_days": 1, "expires_at": "2030-01-01T00:00:00Z"}), "expires_days_invalid"),
        (json!({"expires_at": "2001-01-01T00:00:00Z"}), "expires_days_invalid"),
        (json!({"expires_at": "noon"}), "time_invalid"),
        (json!({"expires_days": 1, "scopes": ["audit:read", "crm:write"]}), "auditor_read_only"),
    ] {
        let mut body = good.clone();
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let (status, problem) = send(tenant.admin(Method::POST, "/v1/service-tokens").json(&body)).await;
        let told = &problem["errors"][0]["code"];
        assert_eq!((status.as_u16(), told), (422, &json!(code)), "{body}: {problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_gives_and_takes_an_auditors_token_on_the_command_line() {
    let tenant = Product::shared().tenant().await;
    let folder = folder();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("admin"), &tenant.token).expect("written");
    let url = tenant.product.url("");
    let audit = |arguments: &[&str], token: &str| {
        let token = path(token);
        let output = run(&[&["audit"], arguments, &["--url", &url, "--token-file", &token]].concat());
        (String::from_utf8(output.stdout).expect("text"), output.status.code())
    };
    let (token, code) = audit(&["token", "create", "--name", "Auditor", "--days", "7"], "admin");
    assert_eq!(code, Some(0));
    std::fs::write(path("auditor"), token.trim()).expect("written");
    // Another one, which a list of auditors' tokens does not show.
    let body = json!({"name": "loyalty", "scopes": ["events:read"], "expires_days": 1});
    send(tenant.admin(Method::POST, "/v1/service-tokens").json(&body)).await;
    let (listed, _) = audit(&["token", "ls", "--output", "json"], "admin");
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!((&listed[0]["name"], &listed[0]["revoked"]), (&json!("Auditor"), &json!(false)));
    eventually("the log is sealed", || async {
        (audit(&["checkpoint"], "auditor").1 == Some(0)).then_some(())
    })
    .await;
    let exported = audit(&["export", "--out", &path("history")], "auditor");
    assert_eq!(exported.1, Some(0));
    assert_eq!(audit(&["token", "create", "--name", "More"], "auditor").1, Some(4), "an auditor gives none");
    assert_eq!(audit(&["token", "create", "--name", "Long", "--days", "31"], "admin").1, Some(2));

    let id = listed[0]["id"].as_str().expect("an id");
    assert_eq!(audit(&["token", "revoke", id], "admin").1, Some(0));
    eventually("the token is refused", || async { (audit(&["key"], "auditor").1 == Some(4)).then_some(()) })
        .await;
    let unknown = "0198c0de-0000-7000-8000-000000000000";
    assert_eq!(audit(&["token", "revoke", unknown], "admin").1, Some(3));
}
