//! Events as integrators read them: pages, SSE, headers on JetStream.

use futures::StreamExt;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::Product;
use crate::support::product::{PASSWORD, send};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_goes_into_the_event_and_what_it_leads_to_and_onto_jetstream() {
    let product = Product::shared();
    let tenant = product.tenant().await;
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let answer = tenant
        .anonymous(Method::POST, "/v1/auth/register")
        .header("X-Request-Id", "my-request.1")
        .header("traceparent", traceparent)
        .json(&json!({"email": "ada@example.com", "password": PASSWORD, "name": "Ada"}))
        .send()
        .await
        .expect("answers");
    assert_eq!(answer.status(), StatusCode::CREATED);
    assert_eq!(answer.headers()["x-request-id"], "my-request.1");
    let user: Value = answer.json().await.expect("JSON");
    let subject = format!("identity.user/{}", user["user"]["id"].as_str().expect("an id"));
    let event = tenant
        .events()
        .await
        .into_iter()
        .find(|event| event["subject"] == subject.as_str())
        .expect("recorded");
    assert_eq!(event["requestid"], "my-request.1");
    crate::support::checker::check(&tenant).await;
    let led_to: Vec<Value> = tenant
        .events()
        .await
        .into_iter()
        .filter(|led_to| led_to["correlationid"] == event["correlationid"] && led_to["id"] != event["id"])
        .collect();
    let types: Vec<&str> = led_to.iter().filter_map(|led_to| led_to["type"].as_str()).collect();
    for wanted in [
        "saga.customer_onboarding.reacted.v1",
        "crm.customer.registered.v1",
        "saga.customer_onboarding.step_completed.v1",
    ] {
        assert!(types.contains(&wanted), "{types:?}");
    }
    assert!(led_to.iter().all(|led_to| led_to["requestid"] == "my-request.1"), "{led_to:?}");

    let context = async_nats::jetstream::new(product.nats().await);
    let stream = context.get_stream("EVENTS").await.expect("the stream is there");
    let config = async_nats::jetstream::consumer::pull::OrderedConfig {
        filter_subjects: ["identity.user.registered.v1", "crm.customer.registered.v1"]
            .map(|event_type| format!("events.{}.{event_type}", tenant.slug))
            .into(),
        ..Default::default()
    };
    let mut messages =
        stream.create_consumer(config).await.expect("a consumer").messages().await.expect("messages");
    let mut found = 0;
    while found < 2 {
        let message = messages.next().await.expect("the consumer goes on").expect("a message");
        let headers = message.headers.as_ref().expect("headers");
        let header = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
        if header("ce-correlationid").map(Value::from).as_ref() != Some(&event["correlationid"]) {
            continue;
        }
        found += 1;
        assert_eq!(header("request-id").as_deref(), Some("my-request.1"));
        assert_eq!(header("traceparent").as_deref(), Some(traceparent));
        assert_eq!(header("ce-specversion").as_deref(), Some("1.0"));
        assert_eq!(header("ce-source"), Some(format!("/tenants/{}", tenant.slug)));
        assert_eq!(header("ce-logid").map(Value::from).as_ref(), Some(&event["logid"]));
        let message_id = header("Nats-Msg-Id").expect("an id");
        assert!(!message_id.contains(event["logid"].as_str().expect("a log")), "{message_id} can be guessed");
        let mac = header("annals-mac").expect("a MAC");
        assert!(mac.starts_with("v1.") && mac.split('.').count() == 4, "{mac}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_filter_and_say_how_far_they_looked() {
    let tenant = Product::shared().tenant().await;
    for number in 0..5 {
        tenant.register(&format!("user{number}@example.com"), "User").await;
    }
    crate::support::checker::check(&tenant).await;
    let page = |query: &str| send(tenant.admin(Method::GET, &format!("/v1/events?{query}")));
    let (_, all) = page("limit=1000").await;
    let head = all["head"].clone();
    let (_, some) = page("type=crm.*.registered.v1&limit=2").await;
    assert_eq!(some["events"].as_array().map(Vec::len), Some(2));
    assert_eq!(some["next_after"].to_string(), some["events"][1]["position"].as_str().expect("a position"));
    let (_, none) = page("type=crm.customer.closed.v1").await;
    assert_eq!((&none["events"], &none["next_after"]), (&json!([]), &head));
    let log = all["log_id"].as_str().expect("a log");
    assert_eq!(page(&format!("log={log}")).await.0, StatusCode::OK);
    let (status, problem) = page("log=0198c0de-0000-7000-8000-000000000000").await;
    assert_eq!((status, &problem["code"]), (StatusCode::GONE, &json!("log_replaced")));
    let subject = all["events"][1]["subject"].as_str().expect("a stream");
    let (_, stream) = page(&format!("stream={subject}")).await;
    assert!(stream["events"].as_array().expect("events").iter().all(|event| event["subject"] == subject));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_follows_and_resumes_behind_the_last_event_seen() {
    let tenant = Product::shared().tenant().await;
    let open = |last: Option<String>| {
        let mut request = tenant.admin(Method::GET, "/v1/events/stream?type=identity.user.registered.v1");
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        async move {
            let answer = request.send().await.expect("answers");
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(answer.headers()["content-type"], "text/event-stream");
            answer.bytes_stream()
        }
    };
    let mut seen = Vec::new();
    for round in 0..3 {
        let stream = open(seen.last().map(|(id, _): &(String, Value)| id.clone())).await;
        let mut stream = std::pin::pin!(stream);
        // The administrator is the first event of the log.
        let wanted = if round == 0 { 1 } else { seen.len() + 2 };
        if round > 0 {
            tenant.register(&format!("a{round}@example.com"), "A").await;
            tenant.register(&format!("b{round}@example.com"), "B").await;
        }
        let mut buffer = String::new();
        while seen.len() < wanted {
            let chunk = stream.next().await.expect("the stream goes on").expect("bytes");
            buffer.push_str(std::str::from_utf8(&chunk).expect("text"));
            while let Some((message, rest)) = buffer.split_once("\n\n") {
                let field =
                    |name: &str| message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                assert!(field("event").is_none(), "no event field: {message}");
                if let (Some(id), Some(data)) = (field("id"), field("data")) {
                    let event: Value = serde_json::from_str(data.trim()).expect("a CloudEvent");
                    assert_eq!(event["position"], id.trim());
                    seen.push((id.trim().to_owned(), event));
                }
                buffer = rest.to_owned();
            }
        }
    }
    let all: Vec<Value> = tenant
        .events()
        .await
        .into_iter()
        .filter(|event| event["type"] == "identity.user.registered.v1")
        .collect();
    assert_eq!(seen.into_iter().map(|(_, event)| event).collect::<Vec<_>>(), all);
}
