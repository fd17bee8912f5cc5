//! Who may call what: every route of the table, asked by callers who may not.

use std::sync::Arc;

use gateway::http::route::{AccessRule, Route};
use gateway::router::public_route_table;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::product::{PASSWORD, Product, Tenant, send};

const SOME_ID: &str = "0198c0de-0000-7000-8000-000000000001";

/// The route's path with an id for each parameter.
pub fn path_of(route: &Route) -> String {
    let segments = route.path.split('/').map(|segment| match segment {
        "{type}" => "ext.loyalty.account.opened.v1",
        "{category}" => "ext.loyalty.account",
        "{position}" => "1",
        segment if segment.starts_with('{') => SOME_ID,
        segment => segment,
    });
    segments.collect::<Vec<_>>().join("/")
}

/// What the route answers to a caller, and with which code. The body and the query are garbage: a caller that may not call
/// the route must not learn so.
async fn asked(tenant: &Tenant<'_>, route: &Route, token: Option<&str>) -> (StatusCode, String) {
    let method = route.method.clone().unwrap_or(Method::GET);
    let path = format!("{}?colour=red", path_of(route));
    let mut request = tenant.product.request(method, &path).header("content-type", "application/json");
    if !route.is_read_only() {
        request = request.body("{");
    }
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let (status, body) = send(request).await;
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

fn routes_that_need(what: impl Fn(&Route) -> bool) -> Vec<Arc<Route>> {
    let routes: Vec<_> = public_route_table().all().into_iter().filter(|route| what(route)).collect();
    assert!(!routes.is_empty());
    routes
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_call_a_route_learns_nothing_else_from_it() {
    let tenant = Product::shared().tenant().await;
    tenant.register("member@example.com", "Member").await;
    let member = tenant.login("member@example.com").await;
    for route in
        routes_that_need(|route| matches!(route.access, AccessRule::Token | AccessRule::Permission(_)))
    {
        let name = format!("{} {}", route.method_name(), route.path);
        assert_eq!(asked(&tenant, &route, None).await.0, StatusCode::UNAUTHORIZED, "{name}");
        if matches!(route.access, AccessRule::Permission(_)) {
            let (status, code) = asked(&tenant, &route, Some(&member)).await;
            assert_eq!((status, &*code), (StatusCode::FORBIDDEN, "forbidden"), "{name}");
        }
    }
}

/// An administrator of the tenant besides the first, with its id and a token that says so.
async fn second_administrator(tenant: &Tenant<'_>, email: &str) -> (String, String) {
    let body = json!({"email": email, "name": "Second", "roles": ["tenant_admin"], "password": PASSWORD});
    let (status, answer) = send(tenant.admin(Method::POST, "/v1/users").json(&body)).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let id = answer["user"]["id"].as_str().expect("an id").to_owned();
    (id, tenant.login(email).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_administrator_does_nothing_that_outlives_its_token() {
    let tenant = Product::shared().tenant().await;
    let (demoted, demoted_token) = second_administrator(&tenant, "demoted@example.com").await;
    let (deactivated, deactivated_token) = second_administrator(&tenant, "deactivated@example.com").await;
    let before = tenant.events().await.len();

    // What the token says is enough as long as the events say the same.
    let webhook = json!({"url": "https://hooks.example.com/hook", "types": ["crm.>"]});
    let register =
        |token: &str| tenant.product.request(Method::POST, "/v1/webhooks").bearer_auth(token).json(&webhook);
    assert_eq!(send(register(&demoted_token)).await.0, StatusCode::CREATED);

    let roles = json!({"roles": ["member"]});
    let path = format!("/v1/users/{demoted}/roles");
    assert_eq!(send(tenant.admin(Method::PUT, &path).json(&roles)).await.0, StatusCode::OK);
    let path = format!("/v1/users/{deactivated}");
    let stop = json!({"status": "deactivated"});
    assert_eq!(send(tenant.admin(Method::PATCH, &path).json(&stop)).await.0, StatusCode::OK);

    let fresh = routes_that_need(|route| {
        route.requires_fresh_authority() && matches!(route.access, AccessRule::Permission(_))
    });
    assert!(fresh.len() > 20, "the table names them");
    for token in [&demoted_token, &deactivated_token] {
        for route in &fresh {
            let (status, code) = asked(&tenant, route, Some(token)).await;
            let name = format!("{} {}", route.method_name(), route.path);
            assert_eq!((status, &*code), (StatusCode::FORBIDDEN, "forbidden"), "{name}");
        }
        // Whole requests, not only garbage.
        assert_eq!(send(register(token)).await.0, StatusCode::FORBIDDEN);
        let issue = json!({"name": "late", "scopes": ["events:read"], "expires_days": 1});
        let issue =
            tenant.product.request(Method::POST, "/v1/service-tokens").bearer_auth(token).json(&issue);
        assert_eq!(send(issue).await.0, StatusCode::FORBIDDEN);
        let erase = json!({"user_id": demoted});
        let erase = tenant.product.request(Method::POST, "/v1/erasures").bearer_auth(token).json(&erase);
        assert_eq!(send(erase).await.0, StatusCode::FORBIDDEN);
        // A type is registered for good, and who may do so depends on its category.
        let schema = json!({"schema": {"type": "object"}});
        let path = "/v1/event-types/ext.loyalty.account.opened.v1";
        let put = tenant.product.request(Method::PUT, path).bearer_auth(token).json(&schema);
        assert_eq!(send(put).await.0, StatusCode::FORBIDDEN);
    }
    assert_eq!(tenant.events().await.len(), before + 2, "one demotion and one deactivation");
}
