//! Values of columns: as parameters of statements, and as PostgreSQL sends them in its binary format.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use schemas::engine::recorded::timestamp;
use schemas::engine::{Kind, parse_time};
use serde_json::Value as Json;
use store::sql::Value;
use uuid::Uuid;

/// A value that a statement compares a column with.
#[derive(Debug, Clone, PartialEq)]
pub enum Parameter {
    /// `uuid`.
    Uuid(Uuid),
    /// `text`.
    Text(String),
    /// `boolean`.
    Boolean(bool),
    /// `integer`.
    Integer(i32),
    /// `bigint`.
    Number(i64),
    /// `date`.
    Date(NaiveDate),
    /// `timestamptz`.
    Time(DateTime<Utc>),
}

impl Parameter {
    /// The parameter for a value in its stored form. `None` if no row can hold the value.
    pub fn of(kind: &Kind, stored: &Json) -> Option<Self> {
        Some(match kind {
            Kind::Id => Self::Uuid(Uuid::parse_str(stored.as_str()?).ok()?),
            Kind::Text | Kind::Enumeration(_) => {
                // PostgreSQL refuses a text with a zero character, even as a parameter.
                Self::Text(stored.as_str().filter(|text| !text.contains('\0'))?.to_owned())
            }
            Kind::Boolean => Self::Boolean(stored.as_bool()?),
            Kind::Int32 => Self::Integer(i32::try_from(stored.as_i64()?).ok()?),
            Kind::Unsigned64 | Kind::Signed64 => Self::Number(stored.as_i64()?),
            Kind::Date => Self::Date(stored.as_str()?.parse().ok()?),
            Kind::Timestamp => Self::Time(parse_time(stored.as_str()?).ok()?),
            Kind::ValueObject(_) | Kind::List(_) => return None,
        })
    }

    /// The parameter for a binary field. `None` for a null, and if the bytes are not of this kind.
    pub fn of_field(kind: &Kind, bytes: Option<&[u8]>) -> Option<Self> {
        let bytes = bytes?;
        Some(match kind {
            Kind::Id => Self::Uuid(Uuid::from_slice(bytes).ok()?),
            Kind::Text | Kind::Enumeration(_) => Self::Text(std::str::from_utf8(bytes).ok()?.to_owned()),
            Kind::Boolean => Self::Boolean(*bytes.first()? != 0),
            Kind::Int32 => Self::Integer(i32::from_be_bytes(bytes.try_into().ok()?)),
            Kind::Unsigned64 | Kind::Signed64 => Self::Number(i64::from_be_bytes(bytes.try_into().ok()?)),
            Kind::Date => Self::Date(date(bytes)?),
            Kind::Timestamp => Self::Time(time(bytes)?),
            Kind::ValueObject(_) | Kind::List(_) => return None,
        })
    }

    pub(crate) fn value(&self) -> Value<'_> {
        match self {
            Self::Uuid(uuid) => Value::Uuid(*uuid),
            Self::Text(text) => Value::Text(text),
            Self::Boolean(boolean) => Value::Bool(*boolean),
            Self::Integer(number) => Value::Int4(*number),
            Self::Number(number) => Value::Int8(*number),
            Self::Date(date) => Value::Date(*date),
            Self::Time(time) => Value::Timestamptz(*time),
        }
    }
}

/// The microseconds between 1970 and 2000, the epoch of PostgreSQL.
const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;
/// The days from 0001-01-01 to 2000-01-01, plus one.
const EPOCH_DAYS: i32 = 730_120;

/// The time of a binary `timestamptz`.
pub fn time(bytes: &[u8]) -> Option<DateTime<Utc>> {
    let microseconds = i64::from_be_bytes(bytes.try_into().ok()?);
    DateTime::from_timestamp_micros(microseconds.checked_add(EPOCH_MICROSECONDS)?)
}

/// The day of a binary `date`.
pub fn date(bytes: &[u8]) -> Option<NaiveDate> {
    let days = i32::from_be_bytes(bytes.try_into().ok()?);
    NaiveDate::from_num_days_from_ce_opt(EPOCH_DAYS)?.checked_add_signed(TimeDelta::days(i64::from(days)))
}

/// The items of a binary array of one dimension without nulls.
pub fn items(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let word = |at: usize| Some(i32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    if word(0)? == 0 {
        return Some(Vec::new());
    }
    let (count, mut at) = (usize::try_from(word(12)?).ok()?, 20);
    let mut found = Vec::with_capacity(count.min(bytes.len()));
    for _ in 0..count {
        let length = usize::try_from(word(at)?).ok()?;
        found.push(bytes.get(at + 4..at + 4 + length)?);
        at += 4 + length;
    }
    Some(found)
}

/// The JSON of a binary field. `None` if the bytes are not of this kind.
pub fn json(kind: &Kind, bytes: Option<&[u8]>) -> Option<Json> {
    let Some(bytes) = bytes else { return Some(Json::Null) };
    Some(match kind {
        Kind::Id => Json::String(Uuid::from_slice(bytes).ok()?.to_string()),
        Kind::Text | Kind::Enumeration(_) => Json::String(std::str::from_utf8(bytes).ok()?.to_owned()),
        Kind::Boolean => Json::Bool(*bytes.first()? != 0),
        Kind::Int32 => i32::from_be_bytes(bytes.try_into().ok()?).into(),
        Kind::Unsigned64 | Kind::Signed64 => i64::from_be_bytes(bytes.try_into().ok()?).into(),
        Kind::Date => Json::String(date(bytes)?.to_string()),
        Kind::Timestamp => Json::String(timestamp(time(bytes)?)),
        Kind::List(item @ (Kind::Text | Kind::Enumeration(_) | Kind::Id)) => {
            let items = items(bytes)?.into_iter().map(|bytes| json(item, Some(bytes)));
            Json::Array(items.collect::<Option<_>>()?)
        }
        // The first byte is the version of the format.
        Kind::ValueObject(_) | Kind::List(_) => serde_json::from_slice(bytes.get(1..)?).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_fields_become_json() {
        let id = Uuid::from_u128(7);
        let time = 1_000_000_i64.to_be_bytes();
        for (kind, bytes, expected) in [
            (Kind::Id, &id.as_bytes()[..], Json::from(id.to_string())),
            (Kind::Text, b"Ada", "Ada".into()),
            (Kind::Boolean, &[1], true.into()),
            (Kind::Int32, &[255, 255, 255, 255], (-1).into()),
            (Kind::Unsigned64, &[0, 0, 0, 0, 0, 0, 0, 9], 9.into()),
            (Kind::Timestamp, &time, "2000-01-01T00:00:01.000000Z".into()),
            (Kind::Date, &[0, 0, 0, 31], "2000-02-01".into()),
            (Kind::List(&Kind::Int32), b"\x01[1,2]", serde_json::json!([1, 2])),
        ] {
            assert_eq!(json(&kind, Some(bytes)), Some(expected), "{kind:?}");
        }
        assert_eq!(json(&Kind::Text, None), Some(Json::Null));
        assert_eq!(json(&Kind::Id, Some(b"short")), None);
    }

    #[test]
    fn arrays_are_read_item_by_item() {
        let array =
            [&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 25, 0, 0, 0, 2, 0, 0, 0, 1][..], b"\0\0\0\x01a\0\0\0\x02bc"];
        assert_eq!(
            json(&Kind::List(&Kind::Text), Some(&array.concat())),
            Some(serde_json::json!(["a", "bc"]))
        );
        assert_eq!(items(&[0; 12]), Some(vec![]));
        assert_eq!(items(&array.concat()[..25]), None);
    }

    #[test]
    fn a_text_with_a_zero_character_is_in_no_row() {
        assert_eq!(Parameter::of(&Kind::Text, &"a\0b".into()), None);
        assert_eq!(Parameter::of(&Kind::Text, &"ab".into()), Some(Parameter::Text("ab".to_owned())));
    }
}
