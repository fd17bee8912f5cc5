//! Value objects: text that has been validated, so rules and folds need no further checks.

use std::fmt;
use std::sync::Arc;

use email_address::{EmailAddress, Options};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use super::field::{Field, InputReader, Kind};
use super::invalid_value::InvalidValue;
use super::text::{email_key, is_visible};

macro_rules! text_value {
    ($(#[doc = $doc:literal])* $name:ident { $($schema:tt)* }) => {
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        $(#[doc = $doc])*
        #[schemars(extend($($schema)*))]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl Field for $name {
            const KIND: Kind = Kind::Text;
            const DESCRIPTION: &'static str = concat!($($doc),*).trim_ascii();

            fn read(reader: &mut InputReader, value: &Value) -> Option<Self> {
                let text = reader.text(value)?;
                Self::parse(text).map_or_else(|invalid| reader.refuse(invalid.message), Some)
            }
        }

        impl $name {
            /// The value as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidValue;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0.to_string()
            }
        }
    };
}

text_value! {
    /// An e-mail address, trimmed, as the person wrote it. At most 254 bytes (RFC 5321).
    Email { "format" = "email", "maxLength" = 254 }
}
text_value! {
    /// A person's or an organisation's name: 1 to 200 characters, trimmed, no control characters.
    Name { "minLength" = 1, "maxLength" = 200 }
}
text_value! {
    /// Free notes: up to 10,000 characters; line breaks and tabs are the only control characters.
    Notes { "maxLength" = 10_000 }
}
text_value! {
    /// Why something was done: up to 500 characters, no control characters.
    Reason { "maxLength" = 500 }
}

/// The key under which an e-mail address is looked up: see [`email_key`]. Empty if there is no address.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EmailKey(String);

impl EmailKey {
    /// The key of a text that may be an address.
    pub fn of(text: &str) -> Self {
        Self(email_key(text))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Field for EmailKey {
    const KIND: Kind = Kind::Text;
    const DESCRIPTION: &'static str = "An e-mail address. Upper and lower case are equal.";

    fn read(reader: &mut InputReader, value: &Value) -> Option<Self> {
        reader.text(value).map(Self::of)
    }
}

impl Email {
    /// Checks the form of the address. No e-mail is sent.
    ///
    /// # Errors
    /// [`InvalidValue`] if the form is invalid.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let text = text.trim();
        let options = Options::default().with_required_tld().without_display_text().without_domain_literal();
        match EmailAddress::parse_with_options(text, options) {
            Ok(_) if text.len() <= 254 && !text.contains('"') && text.chars().all(is_visible_or_mark) => {
                Ok(Self(text.into()))
            }
            _ => Err(InvalidValue::new("email_invalid", "must be an e-mail address such as ada@example.com")),
        }
    }

    /// The key under which an address is unique. Addresses that differ only in case or spelling have the same key,
    /// although RFC 5321 allows such addresses to be different.
    pub fn normalised(&self) -> String {
        email_key(&self.0)
    }

    /// The normalised address as a column.
    pub fn key(&self) -> EmailKey {
        EmailKey(self.normalised())
    }
}

impl Name {
    /// Checks length and characters.
    ///
    /// # Errors
    /// [`InvalidValue`] if the text is empty, too long or has a character that is not allowed.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let text = text.trim();
        if text.is_empty() {
            return Err(InvalidValue::new("name_empty", "must not be empty"));
        }
        if !text.chars().any(is_visible) {
            return Err(InvalidValue::new("name_invisible", "must have a visible character"));
        }
        bounded(text, 200, "name_invalid", false).map(Self)
    }
}

impl Notes {
    /// Checks length and characters.
    ///
    /// # Errors
    /// `notes_invalid` if the text is too long or has a character that is not allowed.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        bounded(text, 10_000, "notes_invalid", true).map(Self)
    }
}

impl Reason {
    /// Checks length and characters.
    ///
    /// # Errors
    /// `reason_invalid` if the text is too long or has a character that is not allowed.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        bounded(text.trim(), 500, "reason_invalid", false).map(Self)
    }
}

/// Invisible characters are not allowed in addresses: with them one address could be written in many ways.
fn is_visible_or_mark(character: char) -> bool {
    is_visible(character) || character.general_category_group() == GeneralCategoryGroup::Mark
}

fn bounded(text: &str, most: usize, code: &'static str, lines: bool) -> Result<Arc<str>, InvalidValue> {
    if text.chars().count() > most {
        return Err(InvalidValue::new(code, format!("must have at most {most} characters")));
    }
    let allowed = |c: char| !c.is_control() || (lines && matches!(c, '\n' | '\r' | '\t'));
    if text.chars().all(allowed) {
        Ok(text.into())
    } else {
        Err(InvalidValue::new(code, "must not contain control characters"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_email_needs_a_local_part_and_a_domain() {
        assert_eq!(Email::parse("  Ada@Example.com ").expect("valid").normalised(), "ada@example.com");
        let long = format!("{}@example.com", "a".repeat(250));
        for bad in [
            "",
            "ada",
            "ada@",
            "@example.com",
            "ada@example",
            "a b@example.com",
            "Ada <ada@example.com>",
            "a\u{200b}da@example.com",
            &long,
        ] {
            assert!(Email::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_is_trimmed_bounded_and_printable() {
        assert_eq!(Name::parse(" Ada ").expect("valid").as_str(), "Ada");
        assert!(Name::parse("   ").is_err());
        assert!(Name::parse("\u{200b}\u{3164}").is_err());
        assert!(Name::parse("\u{1f980}").is_ok());
        assert!(Name::parse("a\u{0}b").is_err());
        assert!(Name::parse(&"x".repeat(201)).is_err());
    }
}
