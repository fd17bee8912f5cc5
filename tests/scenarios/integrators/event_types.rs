//! Registering event types: versions follow each other, schemas widen, and what is registered is listed.

use reqwest::{Method, StatusCode};
use schemas::engine::ids;
use serde_json::{Value, json};

use crate::support::Product;
use crate::support::product::send;
use crate::support::services::{OPENED, Service, customer_schema, refused};

const OPENED_2: &str = "ext.loyalty.account.opened.v2";

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_widens_in_place_and_anything_else_is_a_new_version() {
    let tenant = Product::shared().tenant().await;
    let service = Service::loyalty(&tenant).await;
    refused(service.register(OPENED_2, customer_schema()).await, 409, "event_type_version_gap");
    let (status, answer) = service.register(OPENED, customer_schema()).await;
    assert_eq!((status, &answer["event_type"]["schema"]), (StatusCode::CREATED, &customer_schema()));
    assert_eq!(service.register(OPENED, customer_schema()).await.0, StatusCode::OK, "the same again");

    let mut wider = customer_schema();
    wider["properties"]["tier"] = json!({"enum": ["blue"]});
    wider["title"] = json!("An account was opened");
    let append = |data: Value| {
        let body = json!({"events": [{"type": OPENED, "data": data}]});
        let service = &service;
        async move { service.append("ext.loyalty.account/widened", body).await }
    };
    let with_tier = json!({"customer": "a", "tier": "blue"});
    refused(append(with_tier.clone()).await, 422, "invalid");
    assert_eq!(service.register(OPENED, wider.clone()).await.0, StatusCode::OK);
    assert_eq!(append(with_tier).await.0, StatusCode::CREATED, "the wider schema counts at once");

    let mut narrower = wider.clone();
    narrower["required"] = json!(["customer", "tier"]);
    let problem = refused(service.register(OPENED, narrower.clone()).await, 409, "schema_incompatible");
    assert_eq!(problem["errors"][0]["field"], "schema.required");
    assert_eq!(service.register(OPENED_2, narrower).await.0, StatusCode::CREATED);
    assert_eq!(append(json!({"customer": "b"})).await.0, StatusCode::CREATED, "the first version goes on");

    let (_, shown) = send(service.request(Method::GET, &format!("/v1/event-types/{OPENED}"))).await;
    assert_eq!((&shown["event_type"]["latest"], &shown["event_type"]["schema"]), (&json!(2), &wider));
    let unknown = "/v1/event-types/ext.loyalty.account.opened.v3";
    refused(send(service.request(Method::GET, unknown)).await, 404, "not_found");
    // Auditors see it: the registry is facts in the tenant's own log.
    let log = tenant.events().await;
    let of = |event_type: &str| log.iter().filter(|event| event["type"] == event_type).count();
    assert_eq!((of("integration.event_type.registered.v1"), of("integration.event_type.widened.v1")), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_registration_gets_the_first_answer() {
    let tenant = Product::shared().tenant().await;
    let service = Service::loyalty(&tenant).await;
    let key = ids::random_id().to_string();
    let put = |schema: Value| {
        let request = service.request(Method::PUT, &format!("/v1/event-types/{OPENED}"));
        send(request.header("Idempotency-Key", &key).json(&json!({ "schema": schema })))
    };
    let first = put(customer_schema()).await;
    assert_eq!(first.0, StatusCode::CREATED, "{}", first.1);
    assert_eq!(service.register(OPENED, json!({})).await.0, StatusCode::OK);
    assert_eq!(put(customer_schema()).await, first, "although the schema has widened since");
    refused(put(json!({})).await, 409, "command_id_reused");
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_that_reach_out_or_take_too_much_are_refused() {
    let tenant = Product::shared().tenant().await;
    let service = Service::loyalty(&tenant).await;
    for schema in [
        json!({"$ref": "https://example.com/schema.json"}),
        json!({"$ref": "file:///etc/passwd"}),
        json!({"$id": "https://example.com/schema.json"}),
        json!({"type": "nothing"}),
        json!({"pattern": "(a+)+$(?=b)"}),
        json!(true),
        json!({"description": "x".repeat(65 * 1024)}),
    ] {
        let problem = refused(service.register(OPENED, schema).await, 422, "invalid");
        assert_eq!(problem["errors"][0]["code"], "schema_invalid", "{problem}");
    }
    refused(service.register("ext.loyalty.account.opened", json!({})).await, 422, "invalid");
    let path = format!("/v1/event-types/{OPENED}");
    for body in [json!({}), json!({"schema": {}, "colour": "red"})] {
        refused(send(service.request(Method::PUT, &path).json(&body)).await, 422, "invalid");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn types_are_listed_by_pages() {
    let tenant = Product::shared().tenant().await;
    let mut registered = Vec::new();
    for number in 0..5 {
        let event_type = format!("ext.shop.order{number}.placed.v1");
        let path = format!("/v1/event-types/{event_type}");
        let body = json!({"schema": {}, "description": "An order."});
        assert_eq!(send(tenant.admin(Method::PUT, &path).json(&body)).await.0, StatusCode::CREATED);
        registered.push(event_type);
    }
    let (mut listed, mut after) = (Vec::new(), String::new());
    loop {
        let (status, page) =
            send(tenant.admin(Method::GET, &format!("/v1/event-types?limit=2{after}"))).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        for event_type in page["event_types"].as_array().expect("types") {
            assert_eq!(event_type["description"], "An order.");
            listed.push(event_type["type"].as_str().expect("a type").to_owned());
        }
        let Some(next) = page["next_after"].as_str() else { break };
        after = format!("&after={next}");
    }
    listed.sort();
    assert_eq!(listed, registered);
    let member = Service::new(&tenant, &["crm:read"]).await;
    refused(send(member.request(Method::GET, "/v1/event-types")).await, 403, "forbidden");
    let other = Product::shared().tenant().await;
    let (_, page) = send(other.admin(Method::GET, "/v1/event-types")).await;
    assert_eq!(page, json!({"event_types": [], "next_after": null}));
}
