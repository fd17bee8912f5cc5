//! Services append to streams of their own and read them, and never reach what is the product's.

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use schemas::engine::ids;
use serde_json::{Value, json};

use crate::support::Product;
use crate::support::checker;
use crate::support::product::send;
use crate::support::services::{ACCOUNT, OPENED, Service, customer_schema, refused};

fn opened(customer: &str) -> Value {
    json!({"type": OPENED, "data": {"customer": customer}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_keeps_an_aggregate_of_its_own() {
    let tenant = Product::shared().tenant().await;
    let service = Service::loyalty(&tenant).await;
    assert_eq!(service.register(OPENED, customer_schema()).await.0, StatusCode::CREATED);
    let stream = format!("{ACCOUNT}/one");
    let body = json!({"expected_version": 0, "events": [opened("a"), opened("b")]});
    let (status, receipt) = service.append(&stream, body.clone()).await;
    assert_eq!(status, StatusCode::CREATED, "{receipt}");
    assert_eq!(
        (&receipt["stream"], &receipt["version"], &receipt["count"]),
        (&json!(stream), &json!(2), &json!(2))
    );
    assert!(receipt["consistency_token"].is_string());

    let problem = refused(service.append(&stream, body).await, 409, "version_conflict");
    assert_eq!(problem["actual_version"], 2);
    let more = |expected: Value| json!({"expected_version": expected, "events": [opened("c")]});
    refused(service.append(&stream, more(json!("no_stream"))).await, 409, "version_conflict");
    assert_eq!(service.append(&stream, more(json!(2))).await.1["version"], 3);
    assert_eq!(service.append(&stream, more(json!("any"))).await.1["version"], 4);

    let (_, page) = send(service.request(Method::GET, &format!("/v1/streams/{stream}/events?limit=3"))).await;
    let versions: Vec<&str> = page["events"]
        .as_array()
        .expect("events")
        .iter()
        .filter_map(|event| event["streamversion"].as_str())
        .collect();
    assert_eq!(
        (versions, &page["version"], &page["next_from_version"]),
        (vec!["1", "2", "3"], &json!(4), &json!(4))
    );
    let rest = format!("/v1/streams/{stream}/events?from_version=4");
    let (_, page) = send(service.request(Method::GET, &rest)).await;
    assert_eq!(
        (page["events"].as_array().map(Vec::len), &page["next_from_version"]),
        (Some(1), &Value::Null)
    );
    assert_eq!(page["events"][0]["actor"], format!("service:{}", service.id));
    let empty = format!("/v1/streams/{ACCOUNT}/nobody/events");
    let (status, page) = send(service.request(Method::GET, &empty)).await;
    assert_eq!((status, &page["version"], &page["events"]), (StatusCode::OK, &json!(0), &json!([])));

    // They stand in the tenant's log and on JetStream like any other event, and nothing stops at them.
    checker::check(&tenant).await;
    let log = tenant.events().await;
    assert_eq!(log.iter().filter(|event| event["subject"] == stream.as_str()).count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_append_gets_the_first_answer() {
    let tenant = Product::shared().tenant().await;
    let service = Service::loyalty(&tenant).await;
    service.register(OPENED, customer_schema()).await;
    let stream = format!("{ACCOUNT}/repeated");
    let key = ids::random_id().to_string();
    let append = |customer: &str, expected: u64| {
        let body = json!({"expected_version": expected, "events": [opened(customer)]});
        send(service.appending(&stream, &body).header("Idempotency-Key", &key))
    };
    let first = append("a", 0).await;
    assert_eq!(first.0, StatusCode::CREATED, "{}", first.1);
    for again in join_all((0..10).map(|_| append("a", 0))).await {
        assert_eq!(again, first);
    }
    refused(append("b", 0).await, 409, "command_id_reused");
    refused(append("a", 1).await, 409, "command_id_reused");
    let (_, page) = send(service.request(Method::GET, &format!("/v1/streams/{stream}/events"))).await;
    assert_eq!(page["version"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_keeps_its_own_id_and_nobody_else_gets_it() {
    let tenant = Product::shared().tenant().await;
    let service = Service::loyalty(&tenant).await;
    service.register(OPENED, customer_schema()).await;
    let id = ids::random_id().to_string();
    let with_id = |id: &str| json!({"events": [{"id": id, "type": OPENED, "data": {"customer": "a"}}]});
    let stream = |name: &str| format!("{ACCOUNT}/ids-{name}");
    // Ten at once, on one stream and on others: one has the id.
    let names = ["a", "a", "a", "a", "a", "b", "c", "d", "e", "f"];
    let answers = join_all(names.map(|name| {
        let (stream, body) = (stream(name), with_id(&id));
        let service = &service;
        async move { service.append(&stream, body).await }
    }))
    .await;
    let (won, lost): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|(status, _)| *status == StatusCode::CREATED);
    assert_eq!(won.len(), 1, "{lost:?}");
    for answer in lost {
        refused(answer, 409, "event_id_taken");
    }
    let recorded = tenant.events().await.into_iter().filter(|event| event["id"] == id.as_str()).count();
    assert_eq!(recorded, 1);

    for bad in ["1", "00000000-0000-0000-0000-000000000000"] {
        refused(service.append(&stream("a"), with_id(bad)).await, 422, "invalid");
    }
    let twice = ids::random_id().to_string();
    let event = json!({"id": twice, "type": OPENED, "data": {"customer": "a"}});
    refused(service.append(&stream("g"), json!({"events": [event, event]})).await, 422, "invalid");
    // The same command again is a repeat, although the id is taken: by itself.
    let key = ids::random_id().to_string();
    let body = with_id(&twice);
    let send_again = || send(service.appending(&stream("h"), &body).header("Idempotency-Key", &key));
    let first = send_again().await;
    assert_eq!((first.0, send_again().await), (StatusCode::CREATED, first.clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_events_bring_their_ids_and_none_is_an_id_of_the_product() {
    let tenant = Product::shared().tenant().await;
    let service = Service::loyalty(&tenant).await;
    service.register(OPENED, customer_schema()).await;
    let with_ids = |ids: &[String]| {
        let event = |id: &String| json!({"id": id, "type": OPENED, "data": {"customer": "a"}});
        json!({"events": ids.iter().map(event).collect::<Vec<_>>()})
    };
    let hundred: Vec<String> = (0..100).map(|_| ids::random_id().to_string()).collect();
    let (status, receipt) = service.append(&format!("{ACCOUNT}/hundred"), with_ids(&hundred)).await;
    assert_eq!((status, &receipt["count"]), (StatusCode::CREATED, &json!(100)), "{receipt}");
    let taken = service.append(&format!("{ACCOUNT}/hundred"), with_ids(&hundred[99..])).await;
    refused(taken, 409, "event_id_taken");

    // Those that the product gave: to facts about the tenant's types, tokens and people, and to events without an id.
    service.append(&format!("{ACCOUNT}/plain"), json!({"events": [opened("a")]})).await;
    tenant.register("ids@example.com", "Ida").await;
    let log = tenant.events().await;
    let given: Vec<String> = log.iter().filter_map(|event| event["id"].as_str()).map(str::to_owned).collect();
    let own: Vec<&String> = given.iter().filter(|id| !hundred.contains(id)).collect();
    assert!(own.len() >= 4, "{}", own.len());
    for id in own {
        let answer = service.append(&format!("{ACCOUNT}/taken"), with_ids(std::slice::from_ref(id))).await;
        refused(answer, 409, "event_id_taken");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_compared_by_exact_numbers_and_with_the_nulls_of_its_data() {
    let tenant = Product::shared().tenant().await;
    let service = Service::loyalty(&tenant).await;
    service.register(OPENED, json!({})).await;
    let path = format!("/v1/streams/{ACCOUNT}/exact/events");
    let mut version = 0;
    for (sent, same, others) in [
        (
            r#"{"n":100000000000000000001}"#,
            r#"{ "n" : 100000000000000000001.0 }"#,
            [r#"{"n":100000000000000000002}"#, r#"{"n":1e20}"#],
        ),
        (r#"{"a":1,"b":null}"#, r#"{"b":null,"\u0061":1}"#, [r#"{"a":1}"#, r#"{"a":1,"b":0}"#]),
    ] {
        let key = ids::random_id().to_string();
        let append = |data: &str| {
            let body = format!(r#"{{"events":[{{"type":"{OPENED}","data":{data}}}]}}"#);
            let request = service.request(Method::POST, &path).header("content-type", "application/json");
            send(request.header("Idempotency-Key", &key).body(body))
        };
        let first = append(sent).await;
        assert_eq!(first.0, StatusCode::CREATED, "{}", first.1);
        assert_eq!((append(sent).await, append(same).await), (first.clone(), first.clone()));
        for other in others {
            refused(append(other).await, 409, "command_id_reused");
        }
        version += 1;
        assert_eq!(first.1["version"], version);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_are_what_their_schema_says() {
    let tenant = Product::shared().tenant().await;
    let service = Service::loyalty(&tenant).await;
    service.register(OPENED, customer_schema()).await;
    let stream = format!("{ACCOUNT}/checked");
    let events = |data: Value| json!({"events": [opened("fine"), {"type": OPENED, "data": data}]});
    for (data, field) in [
        (json!({"customer": 1}), "events.1.data.customer"),
        (json!({}), "events.1.data"),
        (json!({"customer": "a", "colour": "red"}), "events.1.data"),
        (json!("text"), "events.1.data"),
    ] {
        let problem = refused(service.append(&stream, events(data)).await, 422, "invalid");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
        assert_eq!(problem["errors"][0]["code"], "schema_violated");
    }
    for member in ["$open", "$sealed", "$erased"] {
        let data = json!({"customer": "a", "nested": [{member: {"subject": ids::random_id(), "value": {}}}]});
        let problem = refused(service.append(&stream, events(data)).await, 422, "invalid");
        assert_eq!(problem["errors"][0]["code"], "reserved_member", "{problem}");
    }
    let of_type = |event_type: &str| json!({"events": [{"type": event_type, "data": {}}]});
    for (event_type, code) in [
        ("ext.loyalty.account.closed.v1", "type_unregistered"),
        ("ext.loyalty.account.opened.v2", "type_unregistered"),
        ("ext.loyalty.accounts.opened.v1", "type_of_other_category"),
    ] {
        let problem = refused(service.append(&stream, of_type(event_type)).await, 422, "invalid");
        assert_eq!(
            (&problem["errors"][0]["field"], &problem["errors"][0]["code"]),
            (&json!("events.0.type"), &json!(code))
        );
    }
    // All or nothing: the good event beside each bad one was not recorded.
    let (_, page) = send(service.request(Method::GET, &format!("/v1/streams/{stream}/events"))).await;
    assert_eq!(page["version"], 0);

    // What is recorded are the bytes that came.
    let path = format!("/v1/streams/{stream}/events");
    let data = r#"{ "customer" : "caf\u00e9" }"#;
    let body = format!(r#"{{"events":[{{"type":"{OPENED}","data":{data}}}]}}"#);
    let request = service.request(Method::POST, &path).header("content-type", "application/json").body(body);
    assert_eq!(send(request).await.0, StatusCode::CREATED);
    let answer = service.request(Method::GET, &path).send().await.expect("answers");
    assert!(answer.text().await.expect("a text").contains(data));
    let large = json!({"events": [opened(&"x".repeat(256 * 1024))]});
    refused(service.append(&stream, large).await, 413, "too_large");
    let nearly = json!({"events": [opened(&"x".repeat(255 * 1024))]});
    refused(service.append(&stream, nearly).await, 413, "too_large");
}

/// Neither the names nor the contents of external events can pass for the product's: nobody gains a right by them.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_service_records_grants_anything() {
    let tenant = Product::shared().tenant().await;
    let service = Service::loyalty(&tenant).await;
    let user = tenant.register("mallory@example.com", "Mallory").await;
    let user_id = user["user"]["id"].as_str().expect("an id");
    checker::check(&tenant).await;
    let before = tenant.events().await.len();
    let grant = json!({"email": "mallory@example.com", "name": "Mallory", "roles": ["platform_admin", "tenant_admin"]});
    for category in [
        "identity.user",
        "identity.tenant",
        "crm.customer",
        "saga.customer_onboarding",
        "integration.service_token",
        "ext.identity.user",
        "identity",
        "platform.user",
    ] {
        for event_type in ["identity.user.registered.v1", OPENED] {
            let body = json!({"events": [{"type": event_type, "data": grant}]});
            // The administrator may append to every category of services; to the product's nobody may.
            let stream = format!("/v1/streams/{category}/{user_id}/events");
            refused(send(tenant.admin(Method::POST, &stream).json(&body)).await, 403, "reserved_context");
        }
    }
    let body = json!({"events": [{"type": "identity.user.registered.v1", "data": grant}]});
    refused(service.append(&format!("{ACCOUNT}/{user_id}"), body).await, 403, "reserved_context");
    for event_type in
        ["identity.user.registered.v2", "ext.identity.user.registered.v1", "crm.customer.won.v1"]
    {
        let path = format!("/v1/event-types/{event_type}");
        let answer = send(tenant.admin(Method::PUT, &path).json(&json!({"schema": {}}))).await;
        refused(answer, 403, "reserved_context");
    }
    assert_eq!(tenant.events().await.len(), before, "nothing was recorded");

    // Recorded under a name of the service's own, with the user's id and the product's own words, it is nobody's right.
    let look_alike = "ext.loyalty.account.registered.v1";
    assert_eq!(service.register(look_alike, json!({})).await.0, StatusCode::CREATED);
    let body = json!({"events": [{"type": look_alike, "data": grant}]});
    assert_eq!(service.append(&format!("{ACCOUNT}/{user_id}"), body).await.0, StatusCode::CREATED);
    checker::check(&tenant).await;
    let token = tenant.login("mallory@example.com").await;
    let (_, me) = send(tenant.product.request(Method::GET, "/v1/auth/me").bearer_auth(&token)).await;
    assert_eq!((&me["user"]["roles"], &me["user"]["scopes"]), (&json!(["member"]), &json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_opens_its_own_category_in_its_own_tenant() {
    let product = Product::shared();
    let (tenant, other) = (product.tenant().await, product.tenant().await);
    let service = Service::loyalty(&tenant).await;
    service.register(OPENED, customer_schema()).await;
    let reader = Service::new(&tenant, &["events:read"]).await;
    let appender = Service::new(&tenant, &["events:append:ext.loyalty.account"]).await;
    let body = json!({"events": [opened("a")]});
    let stream = format!("{ACCOUNT}/scoped");
    refused(reader.append(&stream, body.clone()).await, 403, "forbidden");
    refused(service.append("ext.loyalty.tier/1", body.clone()).await, 403, "forbidden");
    refused(reader.register(OPENED, customer_schema()).await, 403, "forbidden");
    refused(appender.register(OPENED, customer_schema()).await, 403, "forbidden");
    assert_eq!(appender.append(&stream, body.clone()).await.0, StatusCode::CREATED);
    // Who keeps a category may load it; the rest of the log is for readers.
    let get = |service: &Service<'_>, path: &str| send(service.request(Method::GET, path));
    assert_eq!(get(&appender, &format!("/v1/streams/{stream}/events")).await.0, StatusCode::OK);
    refused(get(&appender, "/v1/streams/crm.customer/1/events").await, 403, "forbidden");
    refused(get(&appender, "/v1/events").await, 403, "forbidden");
    assert_eq!(get(&reader, "/v1/events").await.0, StatusCode::OK);
    let path = format!("/v1/streams/{stream}/events");
    refused(send(tenant.product.request(Method::POST, &path).json(&body)).await, 401, "unauthenticated");
    // The other tenant has neither the type nor the stream.
    let (_, page) = send(other.admin(Method::GET, &path)).await;
    assert_eq!(page["version"], 0);
    refused(send(other.admin(Method::POST, &path).json(&body)).await, 422, "invalid");
    let request = service.appending(&stream, &body).header("X-Tenant-ID", &other.slug);
    refused(send(request).await, 403, "tenant_mismatch");
}
