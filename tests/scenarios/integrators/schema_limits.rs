//! Schemas as programs of tenants: exact numbers, limits when they are registered, and checks that hold nobody up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use crate::support::Product;
use crate::support::product::send;
use crate::support::services::{ACCOUNT, OPENED, Service, customer_schema, refused};

/// Registers a schema whose text a `Value` would not keep.
async fn register(service: &Service<'_>, schema: &str) -> (StatusCode, Value) {
    let request = service.request(Method::PUT, &format!("/v1/event-types/{OPENED}"));
    let body = format!(r#"{{"schema": {schema}}}"#);
    send(request.header("content-type", "application/json").body(body)).await
}

async fn append(service: &Service<'_>, data: &str) -> (StatusCode, Value) {
    let request = service.request(Method::POST, &format!("/v1/streams/{ACCOUNT}/exact/events"));
    let body = format!(r#"{{"events":[{{"type":"{OPENED}","data":{data}}}]}}"#);
    send(request.header("content-type", "application/json").body(body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_schemas_and_data_are_exact_and_shown_as_they_were_sent() {
    let tenant = Product::shared().tenant().await;
    let service = Service::loyalty(&tenant).await;
    let schema = r#"{"properties":{"limit":{"maximum":9007199254740993},"id":{"const":100000000000000000001},"all":{"uniqueItems":true},"step":{"multipleOf":0.01},"some":{"enum":[1e+20,1.10]}}}"#;
    let (status, answer) = register(&service, schema).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let shown = service.request(Method::GET, &format!("/v1/event-types/{OPENED}")).send().await;
    let shown = shown.expect("answers").text().await.expect("a text");
    assert!(shown.contains(schema), "{shown}");
    for valid in [
        r#"{"limit":9007199254740993}"#,
        r#"{"id":100000000000000000001}"#,
        r#"{"all":[100000000000000000001,100000000000000000002]}"#,
        r#"{"step":19.99}"#,
        r#"{"some":100000000000000000000}"#,
    ] {
        let (status, answer) = append(&service, valid).await;
        assert_eq!(status, StatusCode::CREATED, "{valid}: {answer}");
    }
    for invalid in [
        r#"{"limit":9007199254740994}"#,
        r#"{"limit":9007199254740993.5}"#,
        r#"{"id":100000000000000000002}"#,
        r#"{"all":[100000000000000000001,100000000000000000001]}"#,
        r#"{"step":19.999}"#,
        r#"{"some":100000000000000000001}"#,
    ] {
        let problem = refused(append(&service, invalid).await, 422, "invalid");
        assert_eq!(problem["errors"][0]["code"], "schema_violated", "{invalid}");
    }
    // Another number, although a double holds both alike.
    let other = schema.replace("100000000000000000001", "100000000000000000002");
    refused(register(&service, &other).await, 409, "schema_incompatible");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expensive_schema_is_refused_when_it_is_registered() {
    let tenant = Product::shared().tenant().await;
    let service = Service::loyalty(&tenant).await;
    let references =
        |times: usize| -> Vec<Value> { (0..times).map(|_| json!({"$ref": "#/$defs/a"})).collect() };
    for schema in [
        json!({"pattern": r"\p{L}{1000}"}),
        json!({"patternProperties": {r"((a{1,100}){1,100}){1,100}": {}}}),
        json!({"propertyNames": {"pattern": r"(\w{200}|x{500}){50}"}}),
        json!({"$defs": {"a": {"pattern": r"^([a-z]{1,400}x|y){1,5}$"}}, "allOf": references(45)}),
        json!({"$defs": {"a": {"const": "x".repeat(48_000)}}, "anyOf": references(600)}),
        json!({"$defs": {"a": {"enum": (0..5_000).collect::<Vec<_>>()}}, "anyOf": references(600)}),
        json!({"$defs": {"a": {"required": (0..3_000).map(|n| n.to_string()).collect::<Vec<_>>()}}, "anyOf": references(600)}),
        json!({"multipleOf": 0}),
    ] {
        let problem = refused(service.register(OPENED, schema).await, 422, "invalid");
        assert_eq!(problem["errors"][0]["code"], "schema_invalid", "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schemas_of_a_fact_have_a_limit_in_all() {
    let tenant = Product::shared().tenant().await;
    let service = Service::loyalty(&tenant).await;
    let large = |version: usize| json!({"title": format!("{version}{}", "x".repeat(64_000))});
    let name = |version: usize| format!("{ACCOUNT}.opened.v{version}");
    for version in 1..=16 {
        assert_eq!(service.register(&name(version), large(version)).await.0, StatusCode::CREATED);
    }
    // Changes count as versions do: whoever loads the fact reads all of them.
    for (version, schema) in [(17, large(17)), (16, large(18))] {
        let problem = refused(service.register(&name(version), schema).await, 422, "invalid");
        assert_eq!(problem["errors"][0]["code"], "schemas_too_large", "{problem}");
    }
    assert_eq!(service.register(&name(17), json!({})).await.0, StatusCode::CREATED);
}

/// A text that makes the automaton of [`EXPENSIVE`] go through another set of states with each letter.
fn hostile_text(length: usize) -> String {
    let mut seed = 1u32;
    let letter = |_| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if seed >> 31 == 0 { 'a' } else { 'b' }
    };
    (0..length).map(letter).collect()
}

const EXPENSIVE: &str = "[ab]*a[ab]{300}c";

#[tokio::test(flavor = "multi_thread")]
async fn an_expensive_schema_under_load_keeps_nobody_waiting() {
    let product = Product::shared();
    let (attacker, victim) = (product.tenant().await, product.tenant().await);
    let (hostile, service) = (Service::loyalty(&attacker).await, Service::loyalty(&victim).await);
    assert_eq!(hostile.register(OPENED, json!({"not": {"pattern": EXPENSIVE}})).await.0, StatusCode::CREATED);
    assert_eq!(service.register(OPENED, customer_schema()).await.0, StatusCode::CREATED);
    let data = json!({"events": [{"type": OPENED, "data": hostile_text(20_000)}]});
    let quiet = slowest(product, &service).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let attacks: Vec<_> = (0..8)
        .map(|number| {
            let request = hostile.appending(&format!("{ACCOUNT}/attack{number}"), &data);
            let is_over = Arc::clone(&is_over);
            AbortOnDropHandle::new(tokio::spawn(async move {
                let mut answers = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    answers.push(send(request.try_clone().expect("its body is in memory")).await);
                }
                answers
            }))
        })
        .collect();
    let attacked = slowest(product, &service).await;
    is_over.store(true, Ordering::Relaxed);
    assert!(attacked < 3 * quiet + Duration::from_secs(1), "{attacked:?} under load, {quiet:?} without");
    // Each has an end: it is checked, or told to come again because its own tenant's share is in use.
    let answers: Vec<_> =
        join_all(attacks).await.into_iter().flat_map(|ended| ended.expect("no panic")).collect();
    for (status, answer) in &answers {
        assert!(matches!(status.as_u16(), 201 | 503), "{status} {answer}");
    }
    assert!(answers.iter().any(|(status, _)| *status == StatusCode::CREATED), "none was checked to its end");
}

/// The slowest of some appends of ordinary data, each with a look at the probe.
async fn slowest(product: &Product, service: &Service<'_>) -> Duration {
    let mut slowest = Duration::ZERO;
    for number in 0..15 {
        let begun = Instant::now();
        let live = reqwest::get(format!("{}/livez", product.annals.text("operations_url"))).await;
        assert_eq!(live.expect("answers").status(), StatusCode::OK);
        let event = json!({"events": [{"type": OPENED, "data": {"customer": number.to_string()}}]});
        assert_eq!(service.append(&format!("{ACCOUNT}/quick"), event).await.0, StatusCode::CREATED);
        slowest = slowest.max(begun.elapsed());
    }
    slowest
}
