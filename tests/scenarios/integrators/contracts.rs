//! The contracts as others read them: the AsyncAPI document, JSON Schemas, CloudEvents through an SDK of the CNCF.

use std::path::Path;

use cloudevents::binding::http::to_event;
use cloudevents::{AttributesReader, Data, Event};
use futures::StreamExt;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::support::Product;
use crate::support::checker;
use crate::support::product::{Tenant, send};

#[tokio::test(flavor = "multi_thread")]
async fn the_asyncapi_document_is_served_as_it_is_committed() {
    let (status, served) = send(Product::shared().request(Method::GET, "/asyncapi.json")).await;
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/asyncapi.json");
    let committed: Value =
        serde_json::from_slice(&std::fs::read(committed).expect("it is there")).expect("JSON");
    assert_eq!((status, &served), (StatusCode::OK, &committed));
    assert_eq!(served["asyncapi"], "3.0.0");
}

/// A tenant whose log holds a user, a customer and what their saga recorded.
async fn furnished() -> (Tenant<'static>, Vec<Value>) {
    let tenant = Product::shared().tenant().await;
    tenant.register("ada@example.com", "Ada Lovelace").await;
    checker::check(&tenant).await;
    let events = tenant.events().await;
    assert!(events.len() >= 4);
    (tenant, events)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_recorded_is_what_the_schemas_say() {
    let (_, events) = furnished().await;
    let document: Value = serde_json::from_str(schemas::contracts::ASYNCAPI).expect("JSON");
    let envelope =
        jsonschema::draft202012::new(&document["components"]["schemas"]["CloudEvent"]).expect("a schema");
    let vocabulary = schemas::contracts::vocabulary();
    for event in &events {
        let errors: Vec<String> = envelope.iter_errors(event).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{event}: {errors:?}");
        let (_, schema) =
            vocabulary.iter().find(|(name, _)| event["type"] == name.as_str()).expect("a known type");
        assert!(jsonschema::draft202012::new(schema).expect("a schema").is_valid(&event["data"]), "{event}");
    }
}

/// The SDK's view of an event, compared with ours attribute by attribute.
fn compare(event: &Event, ours: &Value) {
    let text = |name: &str| ours[name].as_str().unwrap_or_default().to_owned();
    assert_eq!(event.id(), text("id"));
    assert_eq!(event.source().as_str(), text("source"));
    assert_eq!(event.ty(), text("type"));
    assert_eq!(event.subject(), ours["subject"].as_str());
    assert_eq!(event.datacontenttype(), Some("application/json"));
    let time = event.time().expect("a time").timestamp_micros();
    let ours_time = chrono::DateTime::parse_from_rfc3339(&text("time")).expect("a time").timestamp_micros();
    assert_eq!(time, ours_time);
    for name in ["tenantid", "logid", "position", "streamversion", "correlationid", "requestid", "actor"] {
        let extension = event.extension(name).map(ToString::to_string);
        assert_eq!(extension.as_deref(), ours[name].as_str(), "{name} of {ours}");
    }
    let data = match event.data().expect("data") {
        Data::Json(value) => value.clone(),
        Data::String(text) => serde_json::from_str(text).expect("JSON"),
        Data::Binary(bytes) => serde_json::from_slice(bytes).expect("JSON"),
    };
    assert_eq!(data, ours["data"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_sdk_reads_our_structured_events() {
    let (_, events) = furnished().await;
    for ours in &events {
        let event: Event = serde_json::from_str(&ours.to_string()).expect("a CloudEvent");
        compare(&event, ours);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_sdk_reads_our_messages_on_jetstream() {
    let (tenant, _) = furnished().await;
    let events = tenant.stored_events().await;
    let context = async_nats::jetstream::new(tenant.product.nats().await);
    let stream = context.get_stream("EVENTS").await.expect("the stream is there");
    let config = async_nats::jetstream::consumer::pull::OrderedConfig {
        filter_subject: format!("events.{}.>", tenant.slug),
        ..Default::default()
    };
    let messages =
        stream.create_consumer(config).await.expect("a consumer").messages().await.expect("messages");
    let messages: Vec<_> = messages.take(events.len()).collect().await;
    for (message, ours) in messages.into_iter().zip(&events) {
        let message = message.expect("a message");
        // The binary mode of the NATS binding names its headers as that of HTTP does.
        let mut headers = HeaderMap::new();
        for (name, values) in message.headers.as_ref().expect("headers").iter() {
            let name: HeaderName = AsRef::<str>::as_ref(name).parse().expect("a header's name");
            let value = values.first().expect("a value").as_str();
            headers.insert(name, HeaderValue::from_str(value).expect("a header's value"));
        }
        let event = to_event(&headers, message.payload.to_vec()).expect("a CloudEvent");
        compare(&event, ours);
    }
}
