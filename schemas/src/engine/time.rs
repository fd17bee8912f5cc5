//! Parses times of clients.

use chrono::{DateTime, Datelike, Utc};
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::invalid_value::InvalidValue;

/// Parses an RFC 3339 time with a year from 0000 to 9999.
///
/// # Errors
/// `time_invalid` for any other text, also for years with a sign, which some parsers accept.
pub fn parse_time(text: &str) -> Result<DateTime<Utc>, InvalidValue> {
    let invalid = || InvalidValue::new("time_invalid", "must be a time as in RFC 3339");
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| invalid())?.with_timezone(&Utc);
    if (0..=9999).contains(&time.year()) { Ok(time) } else { Err(invalid()) }
}

/// Parses an optional field; for `#[serde(deserialize_with)]`.
///
/// # Errors
/// `D::Error` when the field is not a text, or when [`parse_time`] rejects the text.
pub fn deserialize_time<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<DateTime<Utc>>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| parse_time(&text).map_err(|error| D::Error::custom(error.message))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_four_digits_of_year() {
        for good in ["2026-01-02T03:04:05Z", "2026-01-02t03:04:05.123456+01:00", "0000-01-01T00:00:00Z"] {
            assert!(parse_time(good).is_ok(), "{good}");
        }
        for bad in [
            "+12026-01-02T03:04:05Z",
            "-0001-01-02T03:04:05Z",
            "9999-12-31T23:59:59-01:00",
            "0000-01-01T00:00:00+01:00",
            "2026-01-02",
            "2026-01-02T03:04:05",
            "noon",
            "",
        ] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
