//! The AsyncAPI 3.0 document: every channel on which events are delivered, and their form on each.

use serde_json::{Map, Value, json};

use super::vocabulary;

/// Channels on which an event is one JSON object (CloudEvents, structured mode): name, address, protocol, description.
const STRUCTURED: [(&str, Option<&str>, &str, &str); 4] = [
    (
        "sse",
        Some("/v1/events/stream"),
        "http",
        "Server-sent events. `id:` is the position: `Last-Event-ID` resumes.",
    ),
    (
        "websocket",
        Some("/v1/events/ws"),
        "ws",
        "One text frame an event, once the first message has brought the token.",
    ),
    ("pages", Some("/v1/events"), "http", "The log by pages, for those who come back now and then."),
    (
        "webhooks",
        None,
        "http",
        "A POST to the address that the tenant registered, signed as Standard Webhooks says.",
    ),
];

/// Builds the document.
pub fn document() -> Value {
    let types = vocabulary();
    let (mut channels, mut operations) = (Map::new(), Map::new());
    let (mut messages, mut schemas) = (Map::new(), Map::new());

    schemas.insert("CloudEvent".to_owned(), cloud_event());
    schemas.insert("BinaryHeaders".to_owned(), binary_headers());
    for (name, schema) in &types {
        let title = schema["title"].clone();
        let summary = schema["description"].clone();
        let mut payload = schema.clone();
        payload.as_object_mut().expect("a generated schema is an object").remove("$schema");
        schemas.insert(name.clone(), payload);
        let binary = json!({
            "name": name, "title": title, "summary": summary, "contentType": "application/json",
            "headers": { "allOf": [
                { "$ref": "#/components/schemas/BinaryHeaders" },
                { "type": "object", "properties": { "ce-type": { "const": name } } },
            ]},
            "payload": { "$ref": format!("#/components/schemas/{name}") },
        });
        let structured = json!({
            "name": name, "title": title, "summary": summary, "contentType": "application/cloudevents+json",
            "payload": { "allOf": [
                { "$ref": "#/components/schemas/CloudEvent" },
                { "type": "object", "properties": {
                    "type": { "const": name },
                    "data": { "$ref": format!("#/components/schemas/{name}") },
                }},
            ]},
        });
        messages.insert(format!("{name}.binary"), binary);
        messages.insert(format!("{name}.structured"), structured);
        let channel = json!({
            "address": format!("events.{{tenant}}.{name}"),
            "title": title,
            "description": summary,
            "servers": [{ "$ref": "#/servers/nats" }],
            "parameters": { "tenant": { "$ref": "#/components/parameters/tenant" } },
            "messages": { name: { "$ref": format!("#/components/messages/{name}.binary") } },
        });
        channels.insert(format!("jetstream.{name}"), channel);
        operations.insert(format!("jetstream.{name}"), send(&format!("jetstream.{name}"), "nats"));
    }
    messages.insert("external.binary".to_owned(), external(true));
    messages.insert("external.structured".to_owned(), external(false));
    channels.insert(
        "jetstream.external".to_owned(),
        json!({
            "address": "events.{tenant}.{type}",
            "title": "Events of other services",
            "description": "Types that start with `ext.`: the tenant registers them, `GET /v1/event-types` lists them.",
            "servers": [{ "$ref": "#/servers/nats" }],
            "parameters": {
                "tenant": { "$ref": "#/components/parameters/tenant" },
                "type": { "description": "`ext.<service>.<aggregate>.<fact>.v<n>`" },
            },
            "messages": { "external": { "$ref": "#/components/messages/external.binary" } },
        }),
    );
    operations.insert("jetstream.external".to_owned(), send("jetstream.external", "nats"));

    for (channel, address, protocol, description) in STRUCTURED {
        let names = types.iter().map(|(name, _)| name.as_str()).chain(["external"]);
        let all: Map<String, Value> = names
            .map(|name| {
                let message = json!({ "$ref": format!("#/components/messages/{name}.structured") });
                (name.to_owned(), message)
            })
            .collect();
        let mut entry = json!({ "address": address, "description": description, "messages": all });
        if address.is_some() {
            let server = if protocol == "ws" { "websocket" } else { "gateway" };
            entry["servers"] = json!([{ "$ref": format!("#/servers/{server}") }]);
        }
        channels.insert(channel.to_owned(), entry);
        operations.insert(channel.to_owned(), send(channel, protocol));
    }

    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Annals: events",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Every event of a tenant, on every way that leads out. All of them carry the same events in \
                the same order of `position`, at least once; on each a follower resumes behind the last position it \
                finished. Within JetStream an event is a binary CloudEvent (attributes are headers, the body is the \
                data), everywhere else a structured one (one JSON object).",
            "license": { "name": "Apache-2.0 OR MIT" },
        },
        "defaultContentType": "application/json",
        "servers": {
            "gateway": {
                "host": "localhost:8080", "protocol": "http",
                "description": "The public listener.",
                "security": [{ "$ref": "#/components/securitySchemes/token" }],
            },
            "websocket": {
                "host": "localhost:8080", "protocol": "ws",
                "description": "The public listener; the token comes in the first message.",
                "security": [{ "$ref": "#/components/securitySchemes/token" }],
            },
            "nats": {
                "host": "localhost:4222", "protocol": "nats",
                "description": "NATS 2.12 or later; the JetStream stream `EVENTS`.",
                "security": [{ "$ref": "#/components/securitySchemes/credentials" }],
            },
        },
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": schemas,
            "parameters": { "tenant": { "description": "The tenant's slug." } },
            "securitySchemes": {
                "token": {
                    "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                    "description": "An access token of a tenant_admin, or one with the scope events:read.",
                },
                "credentials": {
                    "type": "userPassword",
                    "description": "A credentials file (JWT and seed) of `POST /v1/integrations/credentials`.",
                },
            },
        },
    })
}

fn send(channel: &str, protocol: &str) -> Value {
    let bindings = match protocol {
        "nats" => json!({ "nats": {} }),
        "ws" => json!({ "ws": {} }),
        _ => json!({ "http": {} }),
    };
    json!({
        "action": "send",
        "channel": { "$ref": format!("#/channels/{channel}") },
        "bindings": bindings,
    })
}

fn external(binary: bool) -> Value {
    let summary =
        "An event of a service outside the product; the tenant's own registry holds the schema of its data.";
    if binary {
        json!({
            "name": "external", "title": "External event", "summary": summary, "contentType": "application/json",
            "headers": { "$ref": "#/components/schemas/BinaryHeaders" },
            "payload": { "description": "As the registered JSON Schema of the type says." },
        })
    } else {
        json!({
            "name": "external", "title": "External event", "summary": summary,
            "contentType": "application/cloudevents+json",
            "payload": { "$ref": "#/components/schemas/CloudEvent" },
        })
    }
}

/// The attributes of an event: name, schema, and whether it is always present.
fn attributes() -> Vec<(&'static str, Value, bool)> {
    let uuid = |what: &str| json!({ "type": "string", "format": "uuid", "description": what });
    let digits = |what: &str| json!({ "type": "string", "pattern": "^[1-9][0-9]*$", "description": what });
    vec![
        ("specversion", json!({ "const": "1.0" }), true),
        ("id", uuid("The event's id; unique within the tenant."), true),
        ("source", json!({ "type": "string", "pattern": "^/tenants/[a-z][a-z0-9-]{1,30}$" }), true),
        (
            "type",
            json!({ "type": "string", "maxLength": 120, "description": "`<context>.<aggregate>.<fact>.v<n>`" }),
            true,
        ),
        (
            "subject",
            json!({ "type": "string", "maxLength": 200, "description": "The stream: `<context>.<aggregate>/<id>`" }),
            true,
        ),
        ("time", json!({ "type": "string", "format": "date-time" }), true),
        ("tenantid", json!({ "type": "string", "description": "The tenant's slug." }), true),
        ("logid", uuid("The log that the position belongs to."), true),
        ("position", digits("Place in the tenant's log, from 1, without gaps."), true),
        ("streamversion", digits("Place in the stream, from 1."), true),
        ("correlationid", uuid("Shared by everything that one outside request set off."), true),
        ("causationid", uuid("The event that led to this one."), false),
        ("requestid", json!({ "type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$" }), false),
        (
            "actor",
            json!({ "type": "string", "description": "`user:<id>`, `service:<id>`, `saga:<name>`, `system:<part>` or `anonymous`" }),
            true,
        ),
    ]
}

fn cloud_event() -> Value {
    let mut properties: Map<String, Value> =
        attributes().into_iter().map(|(name, schema, _)| (name.to_owned(), schema)).collect();
    properties.insert("datacontenttype".to_owned(), json!({ "const": "application/json" }));
    properties.insert("data".to_owned(), json!({ "description": "What was recorded, as its type says." }));
    let mut required: Vec<&str> =
        attributes().into_iter().filter(|(_, _, always)| *always).map(|(name, ..)| name).collect();
    required.extend(["datacontenttype", "data"]);
    json!({
        "type": "object",
        "description": "CloudEvents 1.0, structured mode.",
        "properties": properties,
        "required": required,
    })
}

fn binary_headers() -> Value {
    let mut properties: Map<String, Value> =
        attributes().into_iter().map(|(name, schema, _)| (format!("ce-{name}"), schema)).collect();
    let command =
        json!({ "type": "string", "format": "uuid", "description": "The command that led to the event." });
    properties.insert("ce-commandid".to_owned(), command);
    properties.insert("content-type".to_owned(), json!({ "const": "application/json" }));
    let message_id = json!({
        "type": "string",
        "description": "Opaque: for de-duplication within JetStream, not the event's id.",
    });
    let mac = json!({
        "type": "string",
        "pattern": r"^v1\.[0-9a-f]{8}\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{22}$",
        "description": "A MAC under the deployment's key, by which the product knows its own messages. Nobody else can verify it: \
                        ignore it.",
    });
    properties.insert("annals-mac".to_owned(), mac);
    properties.insert("Nats-Msg-Id".to_owned(), message_id);
    properties.insert("request-id".to_owned(), json!({ "type": "string" }));
    properties
        .insert("traceparent".to_owned(), json!({ "type": "string", "description": "W3C Trace Context." }));
    let always = attributes().into_iter().filter(|(_, _, always)| *always);
    let mut required: Vec<String> = always.map(|(name, ..)| format!("ce-{name}")).collect();
    required.extend(["ce-commandid", "content-type", "Nats-Msg-Id"].map(str::to_owned));
    json!({
        "type": "object",
        "description": "CloudEvents 1.0, binary mode of the NATS protocol binding. Values are percent-encoded.",
        "properties": properties,
        "required": required,
    })
}
