//! Fixtures of the tests in `tests/integrators`.

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::support::product::{Tenant, send};

/// A category that the tests use.
pub const ACCOUNT: &str = "ext.loyalty.account";
/// A type of it.
pub const OPENED: &str = "ext.loyalty.account.opened.v1";

/// A service of a tenant: its token and the token's id.
pub struct Service<'a> {
    pub tenant: &'a Tenant<'a>,
    pub id: String,
    pub token: String,
}

impl<'a> Service<'a> {
    /// A service with these scopes.
    pub async fn new(tenant: &'a Tenant<'a>, scopes: &[&str]) -> Self {
        let body = json!({"name": "loyalty", "scopes": scopes, "expires_days": 30});
        let (status, answer) = send(tenant.admin(Method::POST, "/v1/service-tokens").json(&body)).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        Self { tenant, id: text(&answer["service_token"]["id"]), token: text(&answer["access_token"]) }
    }

    /// One that keeps accounts and reads events.
    pub async fn loyalty(tenant: &'a Tenant<'a>) -> Self {
        let scopes = [
            "events:read".to_owned(),
            format!("events:append:{ACCOUNT}"),
            format!("event_types:write:{ACCOUNT}"),
        ];
        Self::new(tenant, &scopes.each_ref().map(String::as_str)).await
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.tenant.product.request(method, path).bearer_auth(&self.token)
    }

    /// Registers a type, or changes its schema.
    pub async fn register(&self, event_type: &str, schema: Value) -> (StatusCode, Value) {
        let request = self.request(Method::PUT, &format!("/v1/event-types/{event_type}"));
        send(request.json(&json!({ "schema": schema }))).await
    }

    /// The request that appends to a stream.
    pub fn appending(&self, stream: &str, body: &Value) -> RequestBuilder {
        self.request(Method::POST, &format!("/v1/streams/{stream}/events")).json(body)
    }

    /// Appends to a stream.
    pub async fn append(&self, stream: &str, body: Value) -> (StatusCode, Value) {
        send(self.appending(stream, &body)).await
    }
}

/// Asserts a problem of this status and code.
#[track_caller]
pub fn refused((status, problem): (StatusCode, Value), expected: u16, code: &str) -> Value {
    assert_eq!((status.as_u16(), problem["code"].as_str()), (expected, Some(code)), "{problem}");
    problem
}

/// A closed schema with a required text `customer`.
pub fn customer_schema() -> Value {
    json!({
        "type": "object",
        "properties": {"customer": {"type": "string"}},
        "required": ["customer"],
        "additionalProperties": false,
    })
}
