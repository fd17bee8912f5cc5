//! The JSON parser for exports. It accepts exactly what `docs/audit-format.md` allows, so that verifiers in other
//! languages can accept exactly the same files.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// Maximum nesting of arrays and objects.
const DEPTH_MAX: usize = 128;
/// Maximum digits of a number's exponent, so that exact values can be compared with a 64-bit exponent.
const EXPONENT_DIGITS_MAX: usize = 9;

/// A syntax error and its byte offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at byte {at}")]
pub struct JsonError {
    at: usize,
    problem: &'static str,
}

/// A JSON value. Numbers keep their text, because no number type holds all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number as it is written.
    Number(&'a str),
    /// A string.
    Text(Cow<'a, str>),
    /// An array.
    List(Vec<Self>),
    /// An object. No member occurs twice.
    Object(Members<'a>),
}

/// The members of an object.
pub type Members<'a> = BTreeMap<Cow<'a, str>, Json<'a>>;

impl<'a> Json<'a> {
    /// Parses a text that is one value.
    ///
    /// # Errors
    /// [`JsonError`] with the byte offset of the problem.
    pub fn parse(text: &'a str) -> Result<Self, JsonError> {
        let mut reader = Reader { text, at: 0 };
        let value = reader.value(DEPTH_MAX)?;
        reader.skip_space();
        if reader.at == text.len() { Ok(value) } else { Err(reader.error("there is more behind the value")) }
    }

    /// The value as JSON on one line. Numbers keep their text.
    pub fn write(&self) -> String {
        let mut text = String::new();
        self.write_with(&mut text, &|number| number.to_owned());
        text
    }

    /// Canonical JSON: equal values give the same text. Members are sorted, and numbers are written by their exact
    /// value.
    pub fn canonical(&self) -> String {
        let mut text = String::new();
        self.write_with(&mut text, &exact);
        text
    }

    fn write_with(&self, text: &mut String, number: &impl Fn(&str) -> String) {
        match self {
            Self::Null => text.push_str("null"),
            Self::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
            Self::Number(value) => text.push_str(&number(value)),
            Self::Text(value) => write_text(text, value),
            Self::List(values) => {
                text.push('[');
                for (index, value) in values.iter().enumerate() {
                    text.push_str(if index > 0 { "," } else { "" });
                    value.write_with(text, number);
                }
                text.push(']');
            }
            Self::Object(members) => {
                text.push('{');
                for (index, (name, value)) in members.iter().enumerate() {
                    text.push_str(if index > 0 { "," } else { "" });
                    write_text(text, name);
                    text.push(':');
                    value.write_with(text, number);
                }
                text.push('}');
            }
        }
    }
}

fn write_text(text: &mut String, value: &str) {
    text.push_str(&serde_json::to_string(value).expect("a string serialises"));
}

/// A number's sign, its digits without leading and trailing zeros, and its power of ten.
fn exact(number: &str) -> String {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let exponent: i64 = exponent.parse().expect("the reader has checked the exponent");
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [whole, fraction].concat();
    let significant = digits.trim_end_matches('0');
    let exponent = exponent - fraction.len() as i64 + (digits.len() - significant.len()) as i64;
    match significant.trim_start_matches('0') {
        "" => "0".to_owned(),
        significant => format!("{sign}{significant}e{exponent}"),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn error(&self, problem: &'static str) -> JsonError {
        JsonError { at: self.at, problem }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_while(&mut self, is_meant: impl Fn(u8) -> bool) -> usize {
        let begin = self.at;
        while self.peek().is_some_and(&is_meant) {
            self.at += 1;
        }
        self.at - begin
    }

    fn skip_space(&mut self) {
        self.skip_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self, depth: usize) -> Result<Json<'a>, JsonError> {
        self.skip_space();
        match self.peek() {
            Some(b'"') => self.string().map(Json::Text),
            Some(b'-' | b'0'..=b'9') => self.number().map(Json::Number),
            Some(b'[' | b'{') if depth == 0 => Err(self.error("values are nested too deep")),
            Some(b'[') => self.list(depth - 1),
            Some(b'{') => self.object(depth - 1),
            _ => self.word(),
        }
    }

    fn word(&mut self) -> Result<Json<'a>, JsonError> {
        for (word, value) in [("null", Json::Null), ("true", Json::Bool(true)), ("false", Json::Bool(false))]
        {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.error("a value is missing"))
    }

    fn number(&mut self) -> Result<&'a str, JsonError> {
        let begin = self.at;
        let missing = "a number lacks digits";
        self.take(b'-');
        if !self.take(b'0') && self.skip_while(|byte| byte.is_ascii_digit()) == 0 {
            return Err(self.error(missing));
        }
        if self.take(b'.') && self.skip_while(|byte| byte.is_ascii_digit()) == 0 {
            return Err(self.error(missing));
        }
        if self.take(b'e') || self.take(b'E') {
            let _sign = self.take(b'+') || self.take(b'-');
            match self.skip_while(|byte| byte.is_ascii_digit()) {
                0 => return Err(self.error(missing)),
                1..=EXPONENT_DIGITS_MAX => {}
                _ => return Err(self.error("a number's exponent is too long")),
            }
        }
        Ok(&self.text[begin..self.at])
    }

    fn list(&mut self, depth: usize) -> Result<Json<'a>, JsonError> {
        let mut values = Vec::new();
        self.at += 1;
        self.skip_space();
        if self.take(b']') {
            return Ok(Json::List(values));
        }
        loop {
            values.push(self.value(depth)?);
            self.skip_space();
            if self.take(b']') {
                return Ok(Json::List(values));
            }
            if !self.take(b',') {
                return Err(self.error("an array lacks a comma or its end"));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json<'a>, JsonError> {
        let mut members = Members::new();
        self.at += 1;
        self.skip_space();
        if self.take(b'}') {
            return Ok(Json::Object(members));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.error("a member lacks its name"));
            }
            let name = self.string()?;
            self.skip_space();
            if !self.take(b':') {
                return Err(self.error("a member lacks its colon"));
            }
            let value = self.value(depth)?;
            if members.insert(name, value).is_some() {
                return Err(self.error("a member occurs twice"));
            }
            self.skip_space();
            if self.take(b'}') {
                return Ok(Json::Object(members));
            }
            if !self.take(b',') {
                return Err(self.error("an object lacks a comma or its end"));
            }
        }
    }

    fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        self.at += 1;
        let mut read = Cow::Borrowed("");
        loop {
            let begin = self.at;
            self.skip_while(|byte| byte >= b' ' && byte != b'"' && byte != b'\\');
            let piece = &self.text[begin..self.at];
            if read.is_empty() {
                read = Cow::Borrowed(piece);
            } else {
                read.to_mut().push_str(piece);
            }
            if self.take(b'"') {
                return Ok(read);
            }
            if !self.take(b'\\') {
                return Err(self.error("a string does not end, or holds a control character"));
            }
            read.to_mut().push(self.escape()?);
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let wrong = self.error("an escape that does not exist");
        let byte = self.peek().ok_or(wrong)?;
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.unit()?;
                let units = if (0xd800..0xdc00).contains(&first) {
                    if !(self.take(b'\\') && self.take(b'u')) {
                        return Err(self.error("half a surrogate pair"));
                    }
                    vec![first, self.unit()?]
                } else {
                    vec![first]
                };
                match char::decode_utf16(units).next() {
                    Some(Ok(read)) => read,
                    _ => return Err(self.error("half a surrogate pair")),
                }
            }
            _ => return Err(wrong),
        })
    }

    fn unit(&mut self) -> Result<u16, JsonError> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let unit = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok());
        let unit = unit.ok_or_else(|| self.error("an escape that does not exist"))?;
        self.at += 4;
        Ok(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_the_other_reader_of_this_workspace_reads() {
        for text in [
            "null",
            " [ ] ",
            "{ }",
            r#"{"b":[1,-0.5e+3,true,false,null],"a":{"":"x"}}"#,
            r#""\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00é\u007f""#,
            "\t{\"a\"\r\n:\n1 , \"b\": [ 1 , 2 ]}\n",
            "1e400",
        ] {
            let read = Json::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            if let Ok(expected) = serde_json::from_str::<serde_json::Value>(text) {
                assert_eq!(
                    serde_json::from_str::<serde_json::Value>(&read.write()).ok(),
                    Some(expected),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in [
            "",
            " ",
            "nul",
            "NaN",
            "Infinity",
            "-Infinity",
            "-",
            "01",
            "+1",
            "1.",
            ".5",
            "1e",
            "1e+",
            "0x1",
            "1 2",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[",
            "{",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{'a':1}",
            "{1:1}",
            "\"",
            "\"a",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u+123\"",
            "\"\\u12g4\"",
            "\"\n\"",
            "\"\u{1}\"",
            "\u{feff}1",
            "1\u{a0}",
            "// a\n1",
            "1e1234567890",
            "\"\\ud800\"",
            "\"\\ud800x\"",
            "\"\\udc00\"",
            "\"\\ud800\\u0041\"",
            "\"\\ud800\\ud800\"",
            "{\"a\":1,\"a\":1}",
            "{\"a\":1,\"\\u0061\":2}",
            "[{\"b\":{\"a\":1,\"a\":1}}]",
        ] {
            assert!(Json::parse(text).is_err(), "{text:?}");
        }
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(Json::parse(&nested(DEPTH_MAX)).is_ok());
        assert!(Json::parse(&nested(DEPTH_MAX + 1)).is_err());
        assert!(Json::parse(&"[".repeat(1 << 20)).is_err());
    }

    #[test]
    fn numbers_are_equal_by_their_exact_value() {
        let canonical = |text| Json::parse(text).expect("JSON").canonical();
        for (one, same) in [
            ("1", "1.0"),
            ("100", "1e2"),
            ("0.5", "50E-2"),
            ("0", "-0.000e9"),
            ("-12.50", "-125e-1"),
            ("10", "1e+01"),
        ] {
            assert_eq!(canonical(one), canonical(same), "{one} {same}");
        }
        for (one, other) in [
            ("100000000000000000001", "100000000000000000002"),
            ("0.1", "0.10000000000000001"),
            ("1", "-1"),
            ("1e400", "1e401"),
            ("1", "true"),
            ("1", "\"1\""),
        ] {
            assert_ne!(canonical(one), canonical(other), "{one} {other}");
        }
        assert_eq!(canonical(r#"{"b":1,"a":2}"#), canonical(r#"{"a": 2.0, "\u0062": 1}"#));
    }
}
