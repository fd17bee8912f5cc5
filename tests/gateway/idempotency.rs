//! `Idempotency-Key` over HTTP: the first answer is given again, and nothing acts twice.

use gateway::router::public_route_table;
use reqwest::{Method, StatusCode};
use schemas::engine::ids;
use serde_json::{Value, json};
use uuid::Uuid;

use super::authority::path_of;
use crate::support::product::{PASSWORD, Product, Tenant, send};

async fn keyed(
    tenant: &Tenant<'_>,
    method: Method,
    path: &str,
    key: Uuid,
    body: &Value,
) -> (StatusCode, Value) {
    send(tenant.admin(method, path).header("idempotency-key", key.to_string()).json(body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_without_effect_undoes_no_change_of_others() {
    let tenant = Product::shared().tenant().await;
    let body =
        json!({"email": "bo@example.com", "name": "Bo", "roles": ["tenant_admin"], "password": PASSWORD});
    let (_, added) = send(tenant.admin(Method::POST, "/v1/users").json(&body)).await;
    let path = format!("/v1/users/{}/roles", added["user"]["id"].as_str().expect("an id"));
    let (key, admin, member) =
        (ids::random_id(), json!({"roles": ["tenant_admin"]}), json!({"roles": ["member"]}));
    let first = keyed(&tenant, Method::PUT, &path, key, &admin).await;
    assert_eq!((first.0, &first.1["user"]["roles"]), (StatusCode::OK, &admin["roles"]));
    assert_eq!(send(tenant.admin(Method::PUT, &path).json(&member)).await.0, StatusCode::OK);
    assert_eq!(keyed(&tenant, Method::PUT, &path, key, &admin).await, first, "the first answer");
    let user = path.trim_end_matches("/roles");
    let (_, shown) = send(tenant.admin(Method::GET, user)).await;
    assert_eq!(shown["user"]["roles"], member["roles"], "and nothing was done");
    assert_eq!(keyed(&tenant, Method::PUT, &path, key, &member).await.1["code"], "command_id_reused");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_at_once_under_one_key_get_one_answer() {
    let tenant = Product::shared().tenant().await;
    for (path, body) in [
        ("/v1/webhooks", json!({"url": "https://hooks.example.com/hook", "types": ["crm.>"]})),
        ("/v1/integrations/credentials", json!({"name": "erp"})),
        ("/v1/service-tokens", json!({"name": "erp", "scopes": ["events:read"], "expires_days": 1})),
        (
            "/v1/users",
            json!({"email": "cy@example.com", "name": "Cy", "roles": ["member"], "password": PASSWORD}),
        ),
        ("/v1/stream-tickets", json!({"path": "/v1/events/stream"})),
    ] {
        let key = ids::random_id();
        let at_once = (0..6).map(|_| keyed(&tenant, Method::POST, path, key, &body));
        let answers = futures::future::join_all(at_once).await;
        assert_eq!(answers[0].0, StatusCode::CREATED, "{path}: {}", answers[0].1);
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{path}: {answers:?}");
    }
    let (_, webhooks) = send(tenant.admin(Method::GET, "/v1/webhooks")).await;
    assert_eq!(webhooks["webhooks"].as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_key_is_refused_on_every_other_request_before_its_body_is_read() {
    let tenant = Product::shared().tenant().await;
    let key = ids::random_id();
    let token = json!({"name": "erp", "scopes": ["events:read"], "expires_days": 1});
    let first = keyed(&tenant, Method::POST, "/v1/service-tokens", key, &token).await;
    assert_eq!(first.0, StatusCode::CREATED);
    let own = |route: &gateway::http::route::Route| {
        // Tenants are registered by the platform, and a caller that is not signed in has keys of its own.
        route.path != "/v1/tenants" && route.path != "/v1/auth/register"
    };
    for route in public_route_table().all().iter().filter(|route| route.is_idempotent() && own(route)) {
        let method = route.method.clone().expect("a write names its method");
        for body in ["{\"colour\":\"red\"}", "{", ""] {
            let request =
                tenant.admin(method.clone(), &path_of(route)).header("idempotency-key", key.to_string());
            let request = request.header("content-type", "application/json").body(body);
            let (status, answer) = send(request).await;
            let name = format!("{method} {} {body}", route.path);
            assert_eq!(
                (status, &answer["code"]),
                (StatusCode::CONFLICT, &json!("command_id_reused")),
                "{name}"
            );
        }
    }
    assert_eq!(keyed(&tenant, Method::POST, "/v1/service-tokens", key, &token).await, first);
    let no_key = tenant.admin(Method::POST, "/v1/stream-tickets").header("idempotency-key", "x");
    let no_key = no_key.json(&json!({"path": "/v1/events/stream"}));
    assert_eq!(send(no_key).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_counts_exactly() {
    let tenant = Product::shared().tenant().await;
    let key = ids::random_id();
    let register = |password: &str| {
        let body = json!({"email": "di@example.com", "name": "Di", "password": password});
        let request = tenant.anonymous(Method::POST, "/v1/auth/register");
        send(request.header("idempotency-key", key.to_string()).json(&body))
    };
    let first = register(PASSWORD).await;
    assert_eq!(first.0, StatusCode::CREATED);
    assert_eq!(register("another pass phrase").await.1["code"], "command_id_reused");
    assert_eq!(register(PASSWORD).await, first);

    let path = "/v1/event-types/ext.loyalty.account.counted.v1";
    let schema = json!({"schema": {"type": "object"}});
    assert_eq!(send(tenant.admin(Method::PUT, path).json(&schema)).await.0, StatusCode::CREATED);
    let key = ids::random_id();
    let append = |data: &str| {
        let body = format!(r#"{{"events":[{{"type":"ext.loyalty.account.counted.v1","data":{data}}}]}}"#);
        let request = tenant.admin(Method::POST, "/v1/streams/ext.loyalty.account/1/events");
        let request = request.header("idempotency-key", key.to_string());
        send(request.header("content-type", "application/json").body(body))
    };
    let first = append("{\"n\":100000000000000000001}").await;
    assert_eq!(first.0, StatusCode::CREATED, "{}", first.1);
    for other in ["{\"n\":100000000000000000002}", "{\"n\":1e20}", "{\"n\":100000000000000000001,\"x\":null}"]
    {
        assert_eq!(append(other).await.1["code"], "command_id_reused", "{other}");
    }
    assert_eq!(append("{ \"n\" : 100000000000000000001 }").await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_repeat_of_an_erasure_shows_it_as_it_was_asked_for() {
    let tenant = Product::shared().tenant().await;
    let user = tenant.register("ed@example.com", "Ed").await["user"]["id"].clone();
    let (key, body) = (ids::random_id(), json!({"user_id": user, "reason": "asked for"}));
    let first = keyed(&tenant, Method::POST, "/v1/erasures", key, &body).await;
    assert_eq!((first.0, &first.1["status"]), (StatusCode::ACCEPTED, &json!("requested")));
    let path = format!("/v1/erasures/{}", first.1["subject"].as_str().expect("a subject"));
    crate::support::eventually("the person is erased", || async {
        let (_, shown) = send(tenant.admin(Method::GET, &path)).await;
        (shown["status"] == "erased").then_some(())
    })
    .await;
    assert_eq!(keyed(&tenant, Method::POST, "/v1/erasures", key, &body).await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_callers_with_one_key_do_not_meet() {
    let tenant = Product::shared().tenant().await;
    let service = tenant.service(&["event_types:write:ext.loyalty.account"]).await;
    let key = ids::random_id();
    let put = |token: &str, fact: &str| {
        let path = format!("/v1/event-types/ext.loyalty.account.{fact}.v1");
        let request = tenant.product.request(Method::PUT, &path).bearer_auth(token);
        send(request.header("idempotency-key", key.to_string()).json(&json!({"schema": {"type": "object"}})))
    };
    assert_eq!(put(&tenant.token, "opened").await.0, StatusCode::CREATED);
    assert_eq!(put(&service, "closed").await.0, StatusCode::CREATED);
}
