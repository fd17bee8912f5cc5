//! JSON whose numbers keep their exact value. `serde_json::Value` rounds numbers beyond 64 bits to doubles, so neither
//! what tenants send as JSON Schemas nor the data checked against them may go through it.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// Maximum nesting, as `serde_json` has it.
const DEPTH_MAX: usize = 128;
/// Maximum digits of a number's exponent.
const EXPONENT_DIGITS_MAX: usize = 15;

/// JSON as it was sent, without the whitespace between its tokens: numbers, strings and the order of members are kept.
/// Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct JsonText(Arc<str>);

/// Text that is not JSON, or not within the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotJson {
    /// The grammar does not allow it.
    #[error("is not JSON")]
    Malformed,
    /// Two members of an object have one name.
    #[error("has an object with two members of one name")]
    NameRepeated,
    /// Nested more deeply than 128 levels.
    #[error("is nested too deeply")]
    TooDeep,
    /// An exponent has more than 15 digits.
    #[error("has a number whose exponent is out of range")]
    ExponentOutOfRange,
}

/// A JSON value. Equality and order go by value: `1`, `1.0` and `10e-1` are one number.
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

/// A decimal number of any size: the sign, and `0.<digits>` times ten to the power of `exponent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Number {
    is_negative: bool,
    /// Without zeros at either end; empty for zero.
    digits: Box<[u8]>,
    exponent: i64,
}

impl JsonText {
    /// Checks that the text is one JSON value and drops the whitespace between tokens.
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
    /// Reads one JSON value (RFC 8259).
    pub fn parse(text: &str) -> Result<Self, NotJson> {
        let mut reader = Reader { text, at: 0 };
        let value = reader.value(0)?;
        reader.skip_whitespace();
        if reader.at == text.len() { Ok(value) } else { Err(NotJson::Malformed) }
    }

    /// The member of an object.
    pub fn get(&self, name: &str) -> Option<&Json> {
        self.as_object()?.get(name)
    }

    /// The members of an object.
    pub fn as_object(&self) -> Option<&BTreeMap<Box<str>, Json>> {
        if let Self::Object(members) = self { Some(members) } else { None }
    }

    /// The values of an array.
    pub fn as_array(&self) -> Option<&[Json]> {
        if let Self::Array(values) = self { Some(values) } else { None }
    }

    /// A string.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// A number.
    pub fn as_number(&self) -> Option<&Number> {
        if let Self::Number(number) = self { Some(number) } else { None }
    }

    /// About the bytes of its text, and at least the number of its values.
    pub fn size(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) => 4,
            Self::Number(number) => 1 + number.digits.len(),
            Self::String(text) => 2 + text.len(),
            Self::Array(values) => 2 + values.iter().map(|value| 1 + value.size()).sum::<usize>(),
            Self::Object(members) => {
                2 + members.iter().map(|(name, value)| 4 + name.len() + value.size()).sum::<usize>()
            }
        }
    }
}

impl Number {
    fn parse(text: &str) -> Result<Self, NotJson> {
        let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let well_formed =
            |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let has_leading_zero = whole.len() > 1 && whole.starts_with('0');
        if !well_formed(whole)
            || has_leading_zero
            || !well_formed(unsigned)
            || (mantissa.contains('.') && !well_formed(fraction))
        {
            return Err(NotJson::Malformed);
        }
        if unsigned.trim_start_matches('0').len() > EXPONENT_DIGITS_MAX {
            return Err(NotJson::ExponentOutOfRange);
        }
        let exponent: i64 = exponent.parse().map_err(|_| NotJson::ExponentOutOfRange)?;
        let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        let end = digits.iter().rposition(|digit| *digit != b'0').map_or(zeros, |last| last + 1);
        if zeros == digits.len() {
            return Ok(Self { is_negative: false, digits: Box::default(), exponent: 0 });
        }
        let exponent = exponent + whole.len() as i64 - zeros as i64;
        Ok(Self { is_negative, digits: digits[zeros..end].into(), exponent })
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        self.digits.is_empty()
    }

    /// Whether it is below zero.
    pub fn is_negative(&self) -> bool {
        self.is_negative
    }

    /// Whether nothing stands behind its decimal point.
    pub fn is_integer(&self) -> bool {
        self.exponent >= self.digits.len() as i64
    }

    /// Its value where it is a whole number that is not negative; what is too large becomes the largest.
    pub fn to_count(&self) -> Option<usize> {
        if self.is_negative || !self.is_integer() {
            return None;
        }
        let zeros = self.exponent - self.digits.len() as i64;
        if self.exponent > 19 {
            return Some(usize::MAX);
        }
        let digits = self.digits.iter().copied().chain((0..zeros).map(|_| b'0'));
        Some(
            digits.fold(0usize, |value, digit| {
                value.saturating_mul(10).saturating_add(usize::from(digit - b'0'))
            }),
        )
    }

    /// Significant digits.
    pub fn digits(&self) -> usize {
        self.digits.len()
    }

    /// Whether it is a whole multiple of the divisor, which is above zero and has at most 18 significant digits.
    pub fn is_multiple_of(&self, divisor: &Number) -> bool {
        if self.is_zero() {
            return true;
        }
        let scale = |number: &Number| number.exponent - number.digits.len() as i64;
        // In lowest terms neither ends in a zero: below the divisor's scale nothing but zero is a multiple.
        let Ok(mut shift) = u64::try_from(scale(self) - scale(divisor)) else { return false };
        let modulus = divisor.digits.iter().fold(0u128, |value, digit| value * 10 + u128::from(digit - b'0'));
        if modulus == 0 {
            return false;
        }
        let mut rest =
            self.digits.iter().fold(0u128, |value, digit| (value * 10 + u128::from(digit - b'0')) % modulus);
        // times 10^shift, by squaring.
        let mut power = 10 % modulus;
        while shift > 0 {
            if shift % 2 == 1 {
                rest = rest * power % modulus;
            }
            power = power * power % modulus;
            shift /= 2;
        }
        rest == 0
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |number: &Number| match (number.is_zero(), number.is_negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        let size = || self.exponent.cmp(&other.exponent).then_with(|| self.digits.cmp(&other.digits));
        match sign(self).cmp(&sign(other)) {
            Ordering::Equal if self.is_zero() => Ordering::Equal,
            Ordering::Equal if self.is_negative => size().reverse(),
            Ordering::Equal => size(),
            different => different,
        }
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = std::str::from_utf8(&self.digits).map_err(|_| fmt::Error)?;
        let sign = if self.is_negative { "-" } else { "" };
        let length = digits.len() as i64;
        match self.exponent {
            _ if digits.is_empty() => f.write_str("0"),
            exponent if exponent >= length && exponent <= 40 => {
                write!(f, "{sign}{digits}{}", "0".repeat((exponent - length) as usize))
            }
            exponent if exponent > 0 && exponent < length => {
                let (whole, fraction) = digits.split_at(exponent as usize);
                write!(f, "{sign}{whole}.{fraction}")
            }
            exponent if (-20..=0).contains(&exponent) => {
                write!(f, "{sign}0.{}{digits}", "0".repeat(-exponent as usize))
            }
            exponent => write!(f, "{sign}0.{digits}e{exponent}"),
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

    /// The next byte that is no whitespace, consumed.
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

    fn number(text: &str) -> Number {
        Number::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn numbers_compare_by_value_however_they_are_written() {
        let rising = [
            "-1e400",
            "-100000000000000000002",
            "-100000000000000000001",
            "-2.5",
            "-2",
            "-1e-400",
            "0",
            "1e-400",
            "0.1",
            "0.10000000000000000000001",
            "1",
            "9007199254740992.5",
            "9007199254740993",
            "100000000000000000001",
            "100000000000000000002",
            "1e400",
            "1.0000001e400",
        ];
        for (index, one) in rising.iter().enumerate() {
            for (other_index, other) in rising.iter().enumerate() {
                assert_eq!(number(one).cmp(&number(other)), index.cmp(&other_index), "{one} and {other}");
            }
        }
        for same in ["10", "10.0", "1e1", "1E+1", "100e-1", "0.01e3", "10.000"] {
            assert_eq!(number(same), number("10"), "{same}");
        }
        assert_eq!(number("-0"), number("0e9"));
    }

    #[test]
    fn multiples_are_exact() {
        for (value, divisor) in [("19.99", "0.01"), ("1e308", "3e0"), ("0", "7"), ("-6", "3"), ("1.1", "0.1")]
        {
            let expected = value != "1e308";
            assert_eq!(number(value).is_multiple_of(&number(divisor)), expected, "{value} of {divisor}");
        }
        assert!(number("9007199254740994").is_multiple_of(&number("2")));
        assert!(!number("9007199254740993").is_multiple_of(&number("2")));
        assert!(number("1e400").is_multiple_of(&number("125")));
        assert!(!number("0.5").is_multiple_of(&number("1")));
        assert!(!number("15").is_multiple_of(&number("10")));
    }

    #[test]
    fn whole_numbers_and_counts() {
        assert!(["1.0", "1e2", "-5", "0", "1e400"].iter().all(|text| number(text).is_integer()));
        assert!(["1.5", "1e-1", "9007199254740992.5"].iter().all(|text| !number(text).is_integer()));
        let counts = ["0", "12.0", "3e3", "1e400", "-1", "1.5"].map(|text| number(text).to_count());
        assert_eq!(counts, [Some(0), Some(12), Some(3000), Some(usize::MAX), None, None]);
    }

    #[test]
    fn a_text_keeps_its_tokens_and_loses_its_whitespace() {
        let sent = "{ \"b\" : [1e+20, 100000000000000000001, 1.10],\n \"a\" :\t\"x \\\" y\" }";
        let text = JsonText::parse(sent).expect("JSON");
        let kept = r#"{"b":[1e+20,100000000000000000001,1.10],"a":"x \" y"}"#;
        assert_eq!(text.as_str(), kept);
        assert_eq!(serde_json::to_string(&text).expect("serialises"), kept);
        #[derive(Serialize, Deserialize)]
        struct Holder {
            schema: JsonText,
        }
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
                prop_assert_eq!(told, *number);
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
