//! Scalars of the schema that GraphQL does not have.

use async_graphql::{InputValueError, InputValueResult, Scalar, ScalarType, Value};
use chrono::{DateTime as Time, Utc};
use schemas::engine::parse_time;
use schemas::engine::recorded::timestamp;

/// A whole number of 64 bits, as a string of decimal digits, because JSON numbers lose precision above 2^53.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Int64(pub u64);

/// A whole number of 64 bits, as a string of decimal digits, because JSON numbers lose precision above 2^53. As an
/// input a number does as well.
#[Scalar(name = "Int64")]
impl ScalarType for Int64 {
    fn parse(value: Value) -> InputValueResult<Self> {
        let parsed = match &value {
            Value::String(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
            Value::Number(number) => number.as_u64(),
            _ => None,
        };
        match parsed {
            // What PostgreSQL and every other party can hold.
            Some(number) if i64::try_from(number).is_ok() => Ok(Self(number)),
            _ => Err(InputValueError::expected_type(value)),
        }
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.to_string())
    }
}

/// A time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DateTime(pub Time<Utc>);

/// A time in UTC (RFC 3339) with microseconds.
#[Scalar(name = "DateTime", specified_by_url = "https://www.rfc-editor.org/rfc/rfc3339")]
impl ScalarType for DateTime {
    fn parse(value: Value) -> InputValueResult<Self> {
        match &value {
            Value::String(text) => match parse_time(text) {
                Ok(time) => Ok(Self(time)),
                Err(_) => Err(InputValueError::expected_type(value)),
            },
            _ => Err(InputValueError::expected_type(value)),
        }
    }

    fn to_value(&self) -> Value {
        Value::String(timestamp(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_four_bits_travel_as_text() {
        assert_eq!(Int64(u64::MAX).to_value(), Value::from("18446744073709551615"));
        for (input, expected) in [
            (Value::from("9007199254740993"), 9_007_199_254_740_993),
            (Value::from(7), 7),
            (Value::from("0"), 0),
        ] {
            assert_eq!(Int64::parse(input).map(|number| number.0).ok(), Some(expected));
        }
        for bad in [
            Value::from("-1"),
            Value::from(-1),
            Value::from("1.5"),
            Value::from("+1"),
            Value::from(""),
            Value::Null,
        ] {
            assert!(Int64::parse(bad).is_err());
        }
        assert!(Int64::parse(Value::from("9223372036854775808")).is_err());
    }

    #[test]
    fn times_are_utc_with_microseconds() {
        let time = DateTime::parse(Value::from("2026-01-02T03:04:05+01:00")).expect("a time");
        assert_eq!(time.to_value(), Value::from("2026-01-02T02:04:05.000000Z"));
        assert!(DateTime::parse(Value::from("yesterday")).is_err());
    }
}
