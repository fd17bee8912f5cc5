//! The JSON form of webhooks.

use schemas::engine::recorded::timestamp;
use schemas::engine::{InvalidValue, TypePattern};
use serde_json::{Value, json};
use webhooks::secret::SigningSecret;
use webhooks::{Ordering, Webhook};

use crate::http::{JsonFields, Problem};

/// Maximum length of a description in characters.
const DESCRIPTION_CHARS_MAX: usize = 200;
/// Maximum patterns of one webhook.
const PATTERNS_MAX: usize = 50;

/// The fields that a client sends.
#[derive(Debug, Default)]
pub(super) struct WebhookChanges {
    pub(super) url: Option<String>,
    pub(super) types: Option<Vec<String>>,
    pub(super) description: Option<String>,
    pub(super) ordering: Option<Ordering>,
    pub(super) personal_data: Option<bool>,
    pub(super) after: Option<u64>,
    pub(super) enabled: Option<bool>,
}

impl WebhookChanges {
    /// Parses a new webhook. Its address is required.
    pub(super) fn for_new(mut body: JsonFields, allow_private_addresses: bool) -> Result<Self, Problem> {
        let url = body.required("url", |text| parse_url(text, allow_private_addresses));
        let changes = Self { url, after: body.position("after"), ..Self::common_fields(&mut body) };
        body.finish(|| Some(changes))
    }

    /// Parses changes of an existing webhook.
    pub(super) fn for_existing(mut body: JsonFields, allow_private_addresses: bool) -> Result<Self, Problem> {
        let url = body.optional("url", |text| parse_url(text, allow_private_addresses));
        let enabled = body.optional("status", |status| match status {
            "active" => Ok(true),
            "disabled" => Ok(false),
            _ => Err(InvalidValue::new("status_invalid", "must be active or disabled")),
        });
        let changes = Self { url, enabled, ..Self::common_fields(&mut body) };
        body.finish(|| Some(changes))
    }

    fn common_fields(body: &mut JsonFields) -> Self {
        let pattern = |text: &str| text.parse::<TypePattern>().map(|_| text.to_owned());
        let given = body.values().get("types").is_some_and(|types| !types.is_null());
        let types =
            if given { body.texts("types", pattern) } else { body.any("types", false).map(|_| Vec::new()) };
        if types.as_ref().is_some_and(|types| types.len() > PATTERNS_MAX) {
            body.add_error(
                "types",
                InvalidValue::new("too_many", format!("at most {PATTERNS_MAX} patterns")),
            );
        }
        let description = body.optional("description", |text| {
            if text.chars().count() > DESCRIPTION_CHARS_MAX || text.chars().any(char::is_control) {
                return Err(InvalidValue::new(
                    "description_invalid",
                    format!("must have at most {DESCRIPTION_CHARS_MAX} characters and no control characters"),
                ));
            }
            Ok(text.to_owned())
        });
        let ordering = body.optional("ordering", |text| {
            Ordering::parse(text)
                .ok_or_else(|| InvalidValue::new("ordering_invalid", "must be in_order or parallel"))
        });
        let personal_data = body.boolean("personal_data");
        Self { types, description, ordering, personal_data, ..Self::default() }
    }
}

fn parse_url(text: &str, allow_private_addresses: bool) -> Result<String, InvalidValue> {
    webhooks::endpoint::parse(text, allow_private_addresses).map(|url| url.to_string())
}

/// A webhook without its secret.
pub(super) fn webhook_json(webhook: &Webhook) -> Value {
    let time = |time: Option<_>| time.map(timestamp);
    json!({
        "id": webhook.id,
        "url": webhook.url,
        "types": webhook.types,
        "description": webhook.description,
        "ordering": webhook.ordering.as_str(),
        "personal_data": webhook.personal_data,
        "status": if webhook.disabled.is_some() { "disabled" } else { "active" },
        "disabled_reason": webhook.disabled.as_ref().map(|why| why.reason.as_str()),
        "disabled_at": time(webhook.disabled.as_ref().map(|why| why.at)),
        "log_id": webhook.log_id,
        "position": webhook.position,
        "failing_since": time(webhook.failing_since),
        "next_attempt_at": time(webhook.retry_at),
        "created_at": timestamp(webhook.created_at),
        "updated_at": timestamp(webhook.updated_at),
    })
}

/// A webhook with its new secret, which is shown only in this response.
pub(super) fn webhook_json_with_secret(webhook: &Webhook, secret: &SigningSecret) -> Value {
    let mut webhook_json = webhook_json(webhook);
    webhook_json["secret"] = secret.reveal().into();
    webhook_json
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(body: Value) -> JsonFields {
        let Value::Object(values) = body else { panic!("an object") };
        JsonFields::new(values)
    }

    #[test]
    fn all_that_is_wrong_with_a_webhook_is_listed() {
        let wrong = fields(json!({
            "url": "http://example.com/", "types": ["crm.>", "a..b"], "ordering": "random", "secret": "mine",
            "description": "x".repeat(201),
        }));
        let problem = WebhookChanges::for_new(wrong, false).expect_err("much is wrong");
        let mut codes: Vec<_> = problem.field_errors().iter().map(|error| error.code).collect();
        codes.sort_unstable();
        let expected =
            ["description_invalid", "ordering_invalid", "pattern_invalid", "unknown_field", "url_invalid"];
        assert_eq!(codes, expected);
        assert!(WebhookChanges::for_new(fields(json!({})), false).is_err());
        assert!(WebhookChanges::for_existing(fields(json!({})), false).is_ok());
        assert!(WebhookChanges::for_existing(fields(json!({"after": 1})), false).is_err());
        assert!(
            WebhookChanges::for_new(fields(json!({"url": "https://example.com", "after": "-1"})), false)
                .is_err()
        );
        assert!(
            WebhookChanges::for_new(fields(json!({"url": "https://example.com", "types": "crm.>"})), false)
                .is_err()
        );
    }
}
