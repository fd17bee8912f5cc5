//! JSON whose numbers keep their exact value. `serde_json::Value` rounds numbers beyond 64 bits to doubles, so it must
//! not be used for JSON Schemas of tenants or for the data checked with them.

mod number;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

pub use number::Number;

/// Maximum nesting, the same as in `serde_json`.
const DEPTH_MAX: usize = 128;

/// JSON as received, without whitespace between tokens. Numbers, strings and the order of members are kept. Cheap to
/// clone.
#[derive(Clone, PartialEq, Eq)]
pub struct JsonText(Arc<str>);

/// The text is not JSON, or exceeds a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotJson {
    /// It does not follow the grammar of JSON.
    #[error("is not JSON")]
    Malformed,
    /// Two members of an object have the same name.
    #[error("has an object with two members of one name")]
    NameRepeated,
    /// It is nested more deeply than 128 levels.
    #[error("is nested too deeply")]
    TooDeep,
    /// An exponent has more than 15 digits.
    #[error("has a number whose exponent is out of range")]
    ExponentOutOfRange,
}

/// A JSON value. Equality and order are by value: `1`, `1.0` and `10e-1` are the same number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the kinds of JSON")]
pub enum Json {
    Null,
    Bool(bool),
    Number(Number),
    String(Box<str>),
    Array(Vec<Json>),
    Object(BTreeMap<Box<str>, Json>),
}

impl JsonText {
    /// Checks that the text is one JSON value, and removes the whitespace between tokens.
    ///
    /// # Errors
    /// [`NotJson`] if it is not, or if it exceeds a limit.
    pub fn parse(text: &str) -> Result<Self, NotJson> {
        Json::parse(text)?;
        let mut compact = String::with_capacity(text.len());
        let (mut in_string, mut escaped) = (false, false);
        for char in text.chars() {
            if in_string {
                in_string = escaped || char != '"';
                escaped = !escaped && char == '\\';
            } else if matches!(char, ' ' | '\t' | '\n' | '\r') {
                continue;
            } else {
                in_string = char == '"';
            }
            compact.push(char);
        }
        Ok(Self(compact.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value.
    pub fn json(&self) -> Json {
        Json::parse(&self.0).expect("it was parsed when it was made")
    }
}

impl fmt::Debug for JsonText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<serde_json::Value> for JsonText {
    fn from(value: serde_json::Value) -> Self {
        Self(value.to_string().into())
    }
}

impl Serialize for JsonText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        <&RawValue>::deserialize(&mut serde_json::Deserializer::from_str(&self.0))
            .map_err(serde::ser::Error::custom)?
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for JsonText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self::parse(raw.get()).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for JsonText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "AnyValue".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        true.into()
    }
}

impl Json {
    /// Parses one JSON value (RFC 8259).
    ///
    /// # Errors
    /// [`NotJson`] if the text is not JSON, or if it exceeds a limit.
    pub fn parse(text: &str) -> Result<Self, NotJson> {
        let mut reader = Reader { text, at: 0 };
        let value = reader.value(0)?;
        reader.skip_whitespace();
        if reader.at == text.len() { Ok(value) } else { Err(NotJson::Malformed) }
    }

    /// The member of an object; `None` for other values.
    pub fn get(&self, name: &str) -> Option<&Json> {
        self.as_object()?.get(name)
    }

    /// The members, if it is an object.
    pub fn as_object(&self) -> Option<&BTreeMap<Box<str>, Json>> {
        if let Self::Object(members) = self { Some(members) } else { None }
    }

    /// The values, if it is an array.
    pub fn as_array(&self) -> Option<&[Json]> {
        if let Self::Array(values) = self { Some(values) } else { None }
    }

    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// The number, if it is one.
    pub fn as_number(&self) -> Option<&Number> {
        if let Self::Number(number) = self { Some(number) } else { None }
    }

    /// Approximate bytes of its text; at least the number of its values.
    pub fn size(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) => 4,
            Self::Number(number) => 1 + number.digits(),
            Self::String(text) => 2 + text.len(),
            Self::Array(values) => 2 + values.iter().map(|value| 1 + value.size()).sum::<usize>(),
            Self::Object(members) => {
                2 + members.iter().map(|(name, value)| 4 + name.len() + value.size()).sum::<usize>()
            }
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_whitespace(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Consumes the next byte that is not whitespace.
    fn token(&mut self) -> Result<u8, NotJson> {
        self.skip_whitespace();
        let byte = self.peek().ok_or(NotJson::Malformed)?;
        self.at += 1;
        Ok(byte)
    }

    fn word(&mut self, word: &str, value: Json) -> Result<Json, NotJson> {
        if !self.text[self.at..].starts_with(word) {
            return Err(NotJson::Malformed);
        }
        self.at += word.len();
        Ok(value)
    }

    fn value(&mut self, depth: usize) -> Result<Json, NotJson> {
        if depth > DEPTH_MAX {
            return Err(NotJson::TooDeep);
        }
        self.skip_whitespace();
        match self.peek().ok_or(NotJson::Malformed)? {
            b'n' => self.word("null", Json::Null),
            b't' => self.word("true", Json::Bool(true)),
            b'f' => self.word("false", Json::Bool(false)),
            b'"' => self.string().map(Json::String),
            b'[' => self.array(depth),
            b'{' => self.object(depth),
            _ => self.number().map(Json::Number),
        }
    }

    fn number(&mut self) -> Result<Number, NotJson> {
        let rest = &self.text[self.at..];
        let is_part = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
        let length = rest.bytes().take_while(|byte| is_part(*byte)).count();
        self.at += length;
        Number::parse(&rest[..length])
    }

    fn string(&mut self) -> Result<Box<str>, NotJson> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek().ok_or(NotJson::Malformed)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        let quoted = self.text.get(start..self.at).ok_or(NotJson::Malformed)?;
        let text: Cow<'a, str> = serde_json::from_str(quoted).map_err(|_| NotJson::Malformed)?;
        Ok(text.into())
    }

    fn array(&mut self, depth: usize) -> Result<Json, NotJson> {
        self.at += 1;
        let mut values = Vec::new();
        self.skip_whitespace();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Json::Array(values));
        }
        loop {
            values.push(self.value(depth + 1)?);
            match self.token()? {
                b',' => {}
                b']' => return Ok(Json::Array(values)),
                _ => return Err(NotJson::Malformed),
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json, NotJson> {
        self.at += 1;
        let mut members = BTreeMap::new();
        self.skip_whitespace();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Json::Object(members));
        }
        loop {
            self.skip_whitespace();
            if self.peek() != Some(b'"') {
                return Err(NotJson::Malformed);
            }
            let name = self.string()?;
            if self.token()? != b':' {
                return Err(NotJson::Malformed);
            }
            let value = self.value(depth + 1)?;
            if members.insert(name, value).is_some() {
                return Err(NotJson::NameRepeated);
            }
            match self.token()? {
                b',' => {}
                b'}' => return Ok(Json::Object(members)),
                _ => return Err(NotJson::Malformed),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Holder {
        schema: JsonText,
    }

    #[test]
    fn a_text_keeps_its_tokens_and_loses_its_whitespace() {
        let sent = "{ \"b\" : [1e+20, 100000000000000000001, 1.10],\n \"a\" :\t\"x \\\" y\" }";
        let text = JsonText::parse(sent).expect("JSON");
        let kept = r#"{"b":[1e+20,100000000000000000001,1.10],"a":"x \" y"}"#;
        assert_eq!(text.as_str(), kept);
        assert_eq!(serde_json::to_string(&text).expect("serialises"), kept);
        let held: Holder = serde_json::from_str(&format!("{{\"schema\": {sent}}}")).expect("reads");
        assert_eq!(serde_json::to_string(&held).expect("serialises"), format!("{{\"schema\":{kept}}}"));
        let by_value: Holder = serde_json::from_value(json!({"schema": {"a": 1}})).expect("reads");
        assert_eq!(by_value.schema.as_str(), r#"{"a":1}"#);
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in [
            "",
            "01",
            "1.",
            ".5",
            "+1",
            "1e",
            "nul",
            "[1,]",
            "{\"a\":1,}",
            "{a:1}",
            "\"\\x\"",
            "\"",
            "\"a",
            "[1 2]",
            "1 2",
            "{\"a\" 1}",
            "'a'",
            "\"\\",
            "-",
            "[",
            "{",
            "\"\u{1}\"",
            "tru\u{e9}",
        ] {
            assert!(Json::parse(text).is_err(), "{text}");
            assert!(serde_json::from_str::<Value>(text).is_err(), "{text}");
        }
        assert_eq!(Json::parse(r#"{"a":1,"\u0061":2}"#), Err(NotJson::NameRepeated));
        assert_eq!(Json::parse(&"[".repeat(200)), Err(NotJson::TooDeep));
        assert_eq!(Json::parse("1e9999999999999999"), Err(NotJson::ExponentOutOfRange));
    }

    proptest! {
        #[test]
        fn it_reads_what_serde_json_writes(numbers in prop::collection::vec(any::<f64>(), 0..8), text in ".*", whole in any::<i64>()) {
            let numbers: Vec<f64> = numbers.into_iter().filter(|number| number.is_finite()).collect();
            let value = json!({"numbers": numbers, &text: [text, whole, null, true]});
            let read = Json::parse(&value.to_string()).expect("JSON");
            prop_assert_eq!(read.get("numbers").and_then(Json::as_array).map(<[Json]>::len), Some(numbers.len()));
            let pairs = numbers.iter().zip(read.get("numbers").and_then(Json::as_array).into_iter().flatten());
            for (number, read) in pairs {
                let told: f64 = read.as_number().expect("a number").to_string().parse().expect("a number");
                prop_assert_eq!(told.to_bits(), (number + 0.0).to_bits());
            }
        }

        #[test]
        fn any_text_is_read_as_serde_json_reads_it(text in r#"[\[\]{}:,"a\\ 0-9.eE+n-]{0,12}"#) {
            match (Json::parse(&text), serde_json::from_str::<Value>(&text)) {
                (Ok(_), Err(error)) => prop_assert!(error.to_string().contains("out of range"), "{text}: {error}"),
                (Err(error), Ok(_)) => prop_assert!(matches!(error, NotJson::NameRepeated), "{text}: {error}"),
                _ => {}
            }
        }
    }
}
