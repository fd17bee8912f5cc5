//! The only parser of JSON bodies: RFC 8259, and every name occurs once in its object.
//!
//! Parsers treat duplicate names differently. So the value that is checked might not be the value that is stored.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::error::Category;

use super::problem::Problem;

/// The error message for a duplicate name. serde_json passes it through.
const DUPLICATE_NAME_MESSAGE: &str = "a name is given twice in one object";

/// Parses a whole body.
///
/// # Errors
/// 400 with the reason and its line and column. Causes: invalid JSON, and duplicate names at any depth.
pub fn read_json(bytes: &[u8]) -> Result<Value, Problem> {
    if std::str::from_utf8(bytes).is_err() {
        return Err(Problem::bad_request("the body is not JSON: it is not UTF-8"));
    }
    serde_json::from_slice::<UniqueNames>(bytes).map_err(|error| json_problem(&error))?;
    serde_json::from_slice(bytes).map_err(|error| json_problem(&error))
}

/// The problem for a parse error. For syntax errors the message contains no part of the input.
pub fn json_problem(error: &serde_json::Error) -> Problem {
    match error.classify() {
        Category::Syntax | Category::Eof => Problem::bad_request(format!("the body is not JSON: {error}")),
        Category::Data | Category::Io => Problem::bad_request(format!(
            "the body is refused: {DUPLICATE_NAME_MESSAGE}: line {}, column {}",
            error.line(),
            error.column()
        )),
    }
}

struct UniqueNames;

impl<'de> Deserialize<'de> for UniqueNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueNamesVisitor)
    }
}

struct UniqueNamesVisitor;

impl<'de> Visitor<'de> for UniqueNamesVisitor {
    type Value = UniqueNames;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<UniqueNames, E> {
        Ok(UniqueNames)
    }

    fn visit_i64<E>(self, _: i64) -> Result<UniqueNames, E> {
        Ok(UniqueNames)
    }

    fn visit_u64<E>(self, _: u64) -> Result<UniqueNames, E> {
        Ok(UniqueNames)
    }

    fn visit_f64<E>(self, _: f64) -> Result<UniqueNames, E> {
        Ok(UniqueNames)
    }

    fn visit_str<E>(self, _: &str) -> Result<UniqueNames, E> {
        Ok(UniqueNames)
    }

    fn visit_unit<E>(self) -> Result<UniqueNames, E> {
        Ok(UniqueNames)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<UniqueNames, A::Error> {
        while items.next_element::<UniqueNames>()?.is_some() {}
        Ok(UniqueNames)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<UniqueNames, A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            if !names.insert(name) {
                return Err(A::Error::custom(DUPLICATE_NAME_MESSAGE));
            }
            members.next_value::<UniqueNames>()?;
        }
        Ok(UniqueNames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(body: &[u8]) -> Option<String> {
        read_json(body).err().map(|problem| problem.message().to_owned())
    }

    #[test]
    fn a_name_is_given_once_at_every_depth() {
        for good in [r#"{"a":{"a":[{"a":1},{"a":2}]}}"#, "[1,-1,1.5,true,null,\"x\"]", "{}"] {
            assert_eq!(reason(good.as_bytes()), None, "{good}");
        }
        for bad in [r#"{"a":1,"a":1}"#, r#"[{"b":{"a":1,"\u0061":2}}]"#] {
            assert!(reason(bad.as_bytes()).expect("refused").contains("given twice"), "{bad}");
        }
    }

    #[test]
    fn the_reason_is_true() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        for (body, word) in [
            ("{", "EOF"),
            ("{\"a\":1}x", "trailing characters"),
            ("{\"a\":\"\\ud800\"}", "hex escape"),
            ("{\"a\":1e999}", "number out of range"),
            ("{\"a\":01}", "invalid number"),
            (&*deep, "recursion limit"),
            ("\u{feff}{}", "expected value"),
        ] {
            let reason = reason(body.as_bytes()).expect("refused");
            assert!(reason.contains(word), "{body}: {reason}");
        }
        assert!(reason(&[b'"', 0xff, b'"']).expect("refused").contains("UTF-8"));
    }
}
