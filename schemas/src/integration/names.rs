//! Names of services. Each begins with `ext.<service>.`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::engine::{EventType, InvalidValue};

/// The error code for names that belong to the product.
pub const RESERVED_CONTEXT: &str = "reserved_context";
/// The first token of every external name.
const EXTERNAL_CONTEXT: &str = "ext";
/// Names that no service may use, because they suggest the product.
const PRODUCT_CONTEXTS: &[&str] =
    &["annals", "audit", "crm", "events", "ext", "identity", "integration", "platform", "saga"];
const TOKEN_MAX: usize = 40;

/// A category of streams of a service: `ext.<service>.<aggregate>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExternalCategory(String);

/// An event type of a service: `ext.<service>.<aggregate>.<fact>.v<n>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExternalType(EventType);

impl ExternalCategory {
    /// Checks a category.
    ///
    /// # Errors
    /// [`InvalidValue`] if the form is invalid; the code is [`RESERVED_CONTEXT`] for a category of the product.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let tokens: Vec<&str> = text.split('.').collect();
        external(&tokens)?;
        if tokens.len() == 3 && tokens.iter().all(|token| is_token(token)) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidValue::new(
                "category_invalid",
                "must look like ext.<service>.<aggregate>, each of [a-z][a-z0-9_-]{0,39}",
            ))
        }
    }

    /// The category as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ExternalType {
    /// Checks a type.
    ///
    /// # Errors
    /// [`InvalidValue`] if the form is invalid; the code is [`RESERVED_CONTEXT`] for a type of the product.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let tokens: Vec<&str> = text.split('.').collect();
        external(&tokens)?;
        let invalid = || {
            InvalidValue::new(
                "event_type_invalid",
                "must look like ext.<service>.<aggregate>.<fact>.v<n>, words of [a-z][a-z0-9_-]{0,39}",
            )
        };
        let [_, _, _, _, version] = tokens[..] else { return Err(invalid()) };
        let number: Option<u32> = version.strip_prefix('v').and_then(|number| number.parse().ok());
        // Each version has one spelling; `v01` is rejected.
        let canonical = number.is_some_and(|number| number > 0 && format!("v{number}") == version);
        if !canonical || !tokens[..4].iter().all(|token| is_token(token)) {
            return Err(invalid());
        }
        EventType::parse(text).map(Self)
    }

    /// The category of the streams that hold events of this type.
    pub fn category(&self) -> ExternalCategory {
        let family = self.family();
        ExternalCategory(family.rsplit_once('.').map_or(family, |(category, _)| category).to_owned())
    }

    /// The name without the version.
    pub fn family(&self) -> &str {
        self.as_str().rsplit_once('.').map_or("", |(family, _)| family)
    }

    /// The version, from 1.
    pub fn number(&self) -> u32 {
        self.0.schema_version()
    }

    /// The same name as an [`EventType`].
    pub fn event_type(&self) -> &EventType {
        &self.0
    }

    /// The type as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// Rejects names that belong to the product.
fn external(tokens: &[&str]) -> Result<(), InvalidValue> {
    let service = tokens.get(1).copied().unwrap_or_default();
    if tokens.first() != Some(&EXTERNAL_CONTEXT) || PRODUCT_CONTEXTS.contains(&service) {
        return Err(InvalidValue::new(
            RESERVED_CONTEXT,
            "must start with ext.<service>., with a name of the service's own",
        ));
    }
    Ok(())
}

fn is_token(token: &str) -> bool {
    token.len() <= TOKEN_MAX
        && token.starts_with(|c: char| c.is_ascii_lowercase())
        && token.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
}

macro_rules! as_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
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
                name.as_str().to_owned()
            }
        }
    };
}

as_text!(ExternalCategory);
as_text!(ExternalType);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_names_of_its_own() {
        let name = ExternalType::parse("ext.loyalty.account.points_earned.v12").expect("valid");
        assert_eq!(name.category().as_str(), "ext.loyalty.account");
        assert_eq!((name.family(), name.number()), ("ext.loyalty.account.points_earned", 12));
        assert!(ExternalCategory::parse("ext.loyalty.account").is_ok());
    }

    #[test]
    fn the_products_own_names_are_reserved() {
        for reserved in [
            "identity.user.registered.v1",
            "ext.identity.user.registered.v1",
            "ext.saga.customer_onboarding.reacted.v1",
            "extra.loyalty.account.opened.v1",
            "Ext.loyalty.account.opened.v1",
            "",
        ] {
            assert_eq!(
                ExternalType::parse(reserved).expect_err(reserved).code,
                RESERVED_CONTEXT,
                "{reserved}"
            );
        }
        for reserved in ["identity.user", "crm.customer", "ext.crm.customer", "integration.event_type"] {
            assert_eq!(
                ExternalCategory::parse(reserved).expect_err(reserved).code,
                RESERVED_CONTEXT,
                "{reserved}"
            );
        }
    }

    #[test]
    fn each_name_has_one_spelling() {
        for bad in [
            "ext.loyalty.account.opened",
            "ext.loyalty.account.opened.v0",
            "ext.loyalty.account.opened.v01",
            "ext.loyalty.account.opened.v+1",
            "ext.loyalty.account.sub.opened.v1",
            "ext.loyalty.opened.v1",
            "ext.loyalty.Account.opened.v1",
            "ext.loyalty.*.opened.v1",
            "ext.loyalty.account.opened.v99999999999",
        ] {
            assert_eq!(ExternalType::parse(bad).expect_err(bad).code, "event_type_invalid", "{bad}");
        }
        for bad in ["ext.loyalty", "ext.loyalty.a.b", "ext.loyalty.", "ext.loyalty.a/b", "ext.loyalty.>"] {
            assert_eq!(ExternalCategory::parse(bad).expect_err(bad).code, "category_invalid", "{bad}");
        }
    }
}
