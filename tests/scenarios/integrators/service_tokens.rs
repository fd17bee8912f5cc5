//! Service tokens: what they open, what they never open, and how they end.

use futures::StreamExt;
use reqwest::{Method, StatusCode};
use schemas::engine::ids;
use serde_json::{Value, json};

use crate::support::product::{PASSWORD, send};
use crate::support::services::{Service, refused};
use crate::support::{Product, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_issued_listed_and_the_same_for_a_repeat() {
    let tenant = Product::shared().tenant().await;
    let key = ids::random_id().to_string();
    let issue = |name: &str| {
        let body = json!({"name": name, "scopes": ["events:read"], "expires_days": 7});
        let request = tenant.admin(Method::POST, "/v1/service-tokens").header("Idempotency-Key", &key);
        send(request.json(&body))
    };
    let first = issue("reports").await;
    assert_eq!(first.0, StatusCode::CREATED, "{}", first.1);
    assert_eq!(issue("reports").await, first);
    refused(issue("other").await, 409, "command_id_reused");
    let (_, page) = send(tenant.admin(Method::GET, "/v1/service-tokens")).await;
    assert_eq!(page["service_tokens"], json!([first.1["service_token"]]));
    assert_eq!(page["service_tokens"][0]["scopes"], json!(["events:read"]));
    // The token itself stands nowhere but in the answer.
    let token = first.1["access_token"].as_str().expect("a token");
    let signature = token.rsplit('.').next().expect("a signature");
    let log = Value::Array(tenant.events().await).to_string();
    assert!(log.contains("integration.service_token.issued.v1") && !log.contains(signature));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_a_token_is_checked() {
    let tenant = Product::shared().tenant().await;
    let good = json!({"name": "x", "scopes": ["events:read"], "expires_days": 7});
    for (field, value, code) in [
        ("name", json!(""), 422),
        ("scopes", json!([]), 422),
        ("scopes", json!(["users:write"]), 422),
        ("scopes", json!(["tenants:write"]), 422),
        ("scopes", json!(["events:append:crm.customer"]), 422),
        ("scopes", json!(["events:append:ext.identity.user"]), 422),
        ("scopes", json!("events:read"), 400),
        ("scopes", json!([1]), 400),
        ("expires_days", json!(0), 422),
        ("expires_days", json!(366), 422),
        ("expires_days", json!("7"), 400),
    ] {
        let mut body = good.clone();
        body[field] = value;
        let (status, problem) = send(tenant.admin(Method::POST, "/v1/service-tokens").json(&body)).await;
        assert_eq!(status.as_u16(), code, "{body}: {problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_no_administrator() {
    let tenant = Product::shared().tenant().await;
    let scopes = ["events:read", "crm:read", "crm:write"];
    let service = Service::new(&tenant, &scopes).await;
    let issue = json!({"name": "x", "scopes": ["events:read"], "expires_days": 7});
    for request in [
        service.request(Method::POST, "/v1/service-tokens").json(&issue),
        service.request(Method::GET, "/v1/service-tokens"),
        service.request(Method::DELETE, &format!("/v1/service-tokens/{}", service.id)),
        service.request(Method::POST, "/v1/tenants").json(&json!({"slug": "mine", "name": "Mine"})),
    ] {
        refused(send(request).await, 403, "forbidden");
    }
    for (query, allowed) in [
        ("{ customers { totalCount } }", true),
        ("mutation { registerCustomer(input: {name: \"x\", email: \"x@example.com\"}) { outcome } }", true),
        ("{ users { totalCount } }", false),
        (
            "mutation { deactivateUser(input: {id: \"0198c0de-0000-7000-8000-000000000000\"}) { outcome } }",
            false,
        ),
    ] {
        let answer = tenant.graphql_as(&service.token, query, Value::Null).await;
        assert_eq!(answer.get("errors").is_none(), allowed, "{query}: {answer}");
    }
    let registered =
        tenant.events().await.into_iter().find(|event| event["type"] == "crm.customer.registered.v1");
    assert_eq!(registered.expect("recorded")["actor"], format!("service:{}", service.id));
    let admin = tenant.product.annals.text("admin_url");
    let request =
        crate::support::product::client().get(format!("{admin}/admin/tenants")).bearer_auth(&service.token);
    let (status, _) = send(request).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "the admin listener is another door");
    eventually("the refusals stand in the activity log", || async {
        let (_, page) = send(tenant.admin(Method::GET, "/v1/activities")).await;
        page.to_string().contains(&format!("service:{}", service.id)).then_some(())
    })
    .await;
    // Members cannot make services either.
    tenant.register("wren@example.com", PASSWORD).await;
    let token = tenant.login("wren@example.com").await;
    let request = tenant.product.request(Method::POST, "/v1/service-tokens").bearer_auth(token).json(&issue);
    refused(send(request).await, 403, "forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_refused_and_its_streams_end() {
    let product = Product::shared();
    let (tenant, other) = (product.tenant().await, product.tenant().await);
    let (service, kept) =
        (Service::new(&tenant, &["events:read"]).await, Service::new(&tenant, &["events:read"]).await);
    let open = |service: &Service<'_>| service.request(Method::GET, "/v1/events/stream").send();
    let mut stream = open(&service).await.expect("answers").bytes_stream();
    assert!(stream.next().await.is_some());
    let path = format!("/v1/service-tokens/{}", service.id);
    refused(send(other.admin(Method::DELETE, &path)).await, 404, "not_found");
    assert_eq!(send(service.request(Method::GET, "/v1/events")).await.0, StatusCode::OK);
    assert_eq!(send(tenant.admin(Method::DELETE, &path)).await.0, StatusCode::NO_CONTENT);
    assert_eq!(send(tenant.admin(Method::DELETE, &path)).await.0, StatusCode::NO_CONTENT, "again");
    eventually("the token is refused", || async {
        let (status, _) = send(service.request(Method::GET, "/v1/events")).await;
        (status == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await;
    refused(send(service.request(Method::GET, "/v1/events")).await, 401, "unauthenticated");
    let ended = async { while stream.next().await.is_some() {} };
    tokio::time::timeout(std::time::Duration::from_secs(10), ended).await.expect("the stream ends");
    assert_eq!(send(kept.request(Method::GET, "/v1/events")).await.0, StatusCode::OK);
    let (_, page) = send(tenant.admin(Method::GET, "/v1/service-tokens")).await;
    let revoked: Vec<&Value> =
        page["service_tokens"].as_array().expect("tokens").iter().map(|token| &token["revoked"]).collect();
    assert_eq!(revoked, [&json!(true), &json!(false)]);
    let unknown = "/v1/service-tokens/0198c0de-0000-7000-8000-000000000000";
    refused(send(tenant.admin(Method::DELETE, unknown)).await, 404, "not_found");
}
