//! Validated names: tenant slugs, streams, event types and patterns of event types.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::invalid_value::InvalidValue;

/// Maximum bytes of a stream name. It is a NATS header and part of a unique key.
pub const STREAM_NAME_MAX: usize = 200;
/// Maximum bytes of an event type. It is part of a NATS subject.
pub const EVENT_TYPE_MAX: usize = 120;

macro_rules! text_name {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidValue;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.to_string()
            }
        }
    };
}

/// A tenant's public name: `[a-z][a-z0-9-]{1,30}`, immutable, never reused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = "^[a-z][a-z0-9-]{1,30}$"))]
pub struct TenantSlug(Arc<str>);

text_name!(TenantSlug);

impl TenantSlug {
    /// Checks the form of a slug.
    ///
    /// # Errors
    /// [`InvalidValue`] if the form is invalid.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let well_formed = (2..=31).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if well_formed {
            Ok(Self(text.into()))
        } else {
            Err(InvalidValue::new("slug_invalid", "must match [a-z][a-z0-9-]{1,30}"))
        }
    }
}

/// The name of a stream: `<context>.<aggregate>/<id>`, one aggregate's events.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("maxLength" = 200))]
pub struct StreamName(Arc<str>);

text_name!(StreamName);

impl StreamName {
    /// The stream of the aggregate `id` in `category` (`<context>.<aggregate>`).
    pub fn new(category: &str, id: Uuid) -> Self {
        Self(format!("{category}/{id}").into())
    }

    /// Checks a stream name: a category of dot-separated tokens, a slash, an id of `[A-Za-z0-9_-]`.
    ///
    /// # Errors
    /// [`InvalidValue`] if the form is invalid.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let well_formed = text.len() <= STREAM_NAME_MAX
            && text.split_once('/').is_some_and(|(category, id)| {
                is_dotted(category)
                    && category.contains('.')
                    && !id.is_empty()
                    && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            });
        if well_formed {
            Ok(Self(text.into()))
        } else {
            Err(InvalidValue::new("stream_invalid", "must look like <context>.<aggregate>/<id>"))
        }
    }

    /// `<context>.<aggregate>`.
    pub fn category(&self) -> &str {
        self.0.split_once('/').map_or("", |(category, _)| category)
    }

    /// The aggregate's id as text.
    pub fn id(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, id)| id)
    }

    /// The aggregate's id if it is a UUID, as for all of the product's own aggregates.
    pub fn uuid(&self) -> Option<Uuid> {
        self.id().parse().ok()
    }
}

/// The type of an event: `<context>.<aggregate>.<fact>.v<n>`; a valid NATS subject tail.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("maxLength" = 120))]
pub struct EventType(Arc<str>);

text_name!(EventType);

impl EventType {
    /// Checks the form of a type name.
    ///
    /// # Errors
    /// [`InvalidValue`] if the form is invalid.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let tokens = text.split('.').count();
        let version = text.rsplit_once(".v").and_then(|(_, version)| version.parse::<u32>().ok());
        if text.len() <= EVENT_TYPE_MAX && tokens >= 4 && version.is_some_and(|v| v > 0) && is_dotted(text) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidValue::new("event_type_invalid", "must look like <context>.<aggregate>.<fact>.v<n>"))
        }
    }

    /// The schema version: the number after the last `.v`.
    pub fn schema_version(&self) -> u32 {
        self.0.rsplit_once(".v").and_then(|(_, version)| version.parse().ok()).unwrap_or(1)
    }
}

/// A pattern of event types with the wildcards of NATS subjects: `*` matches one token, a final `>` matches one or
/// more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypePattern(Vec<String>);

impl FromStr for TypePattern {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let tokens: Vec<String> = text.split('.').map(str::to_owned).collect();
        let well_formed = text.len() <= EVENT_TYPE_MAX
            && tokens.iter().enumerate().all(|(index, token)| match token.as_str() {
                "*" => true,
                ">" => index + 1 == tokens.len(),
                word => is_token(word),
            });
        if well_formed {
            Ok(Self(tokens))
        } else {
            Err(InvalidValue::new("pattern_invalid", "must be event type tokens, `*` for one or a final `>`"))
        }
    }
}

impl TypePattern {
    /// One POSIX regular expression that matches what any of the patterns matches.
    pub fn regex(patterns: &[Self]) -> String {
        let one = |pattern: &Self| {
            let tokens: Vec<&str> = pattern
                .0
                .iter()
                .map(|token| match token.as_str() {
                    "*" => "[^.]+",
                    ">" => ".+",
                    // These words contain only letters, digits, `_` and `-`, which need no escape.
                    word => word,
                })
                .collect();
            tokens.join("\\.")
        };
        let all: Vec<String> = patterns.iter().map(one).collect();
        format!("^({})$", all.join("|"))
    }

    /// Whether an event type matches.
    pub fn matches(&self, event_type: &str) -> bool {
        let mut tokens = event_type.split('.');
        for pattern in &self.0 {
            match (pattern.as_str(), tokens.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (word, Some(token)) if word == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    }
}

impl TypePattern {
    /// Whether an event type can match both patterns.
    pub fn overlaps(&self, other: &Self) -> bool {
        let mut tokens = self.0.iter().map(String::as_str);
        let mut others = other.0.iter().map(String::as_str);
        loop {
            match (tokens.next(), others.next()) {
                (None, None) | (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
                (Some(one), Some(two)) if one == two || one == "*" || two == "*" => {}
                _ => return false,
            }
        }
    }
}

impl fmt::Display for TypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

fn is_dotted(text: &str) -> bool {
    text.split('.').all(is_token)
}

fn is_token(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slug_is_short_lower_case_and_starts_with_a_letter() {
        for good in ["demo", "a1", "acme-eu-1"] {
            assert!(TenantSlug::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "1a", "Acme", "a_b", "a.b", "ä1", &"a".repeat(32)] {
            assert!(TenantSlug::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_stream_name_has_a_category_and_an_id() {
        let name = StreamName::parse("crm.customer/0198c0de-0000-7000-8000-000000000000").expect("valid");
        assert_eq!((name.category(), name.uuid().is_some()), ("crm.customer", true));
        for bad in
            ["customer/1", "crm.customer", "crm.customer/", "crm..customer/1", "crm.customer/a b", "crm.*/1"]
        {
            assert!(StreamName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_event_type_ends_with_its_version() {
        let event_type = EventType::parse("crm.customer.registered.v12").expect("valid");
        assert_eq!(event_type.schema_version(), 12);
        for bad in ["crm.customer.registered", "crm.customer.v1", "crm.customer.registered.v0", "crm.>.x.v1"]
        {
            assert!(EventType::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_follow_nats_wildcards() {
        let matches =
            |pattern: &str, name: &str| pattern.parse::<TypePattern>().expect("valid").matches(name);
        assert!(matches("crm.>", "crm.customer.registered.v1"));
        assert!(matches("*.user.*.v1", "identity.user.registered.v1"));
        assert!(matches(">", "identity.user.registered.v1"));
        assert!(!matches("crm.customer.registered.v1.>", "crm.customer.registered.v1"));
        assert!(!matches("crm.customer", "crm.customer.registered.v1"));
        let overlaps = |one: &str, two: &str| {
            let (one, two): (TypePattern, TypePattern) =
                (one.parse().expect("valid"), two.parse().expect("valid"));
            assert_eq!(one.overlaps(&two), two.overlaps(&one));
            one.overlaps(&two)
        };
        assert!(overlaps("crm.>", "*.customer.registered.v1"));
        assert!(overlaps("*.*.registered.v1", "crm.customer.*.v1"));
        assert!(!overlaps("crm.>", "identity.>"));
        assert!(!overlaps("crm.customer", "crm.customer.>"));
        assert!(">.crm".parse::<TypePattern>().is_err());
        assert!("crm..x".parse::<TypePattern>().is_err());
    }
}
