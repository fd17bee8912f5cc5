//! A group of statements with their parameters, encoded as far as no connection is needed.

use std::io;
use std::ops::Range;

use bytes::{BufMut, BytesMut};
use chrono::{DateTime, NaiveDate, Utc};
use postgres_protocol::Oid;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::error::ReadError;

/// Maximum bytes of the parameters of one group. A larger group is refused.
const GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;
/// PostgreSQL counts times from the year 2000: seconds and days since 1970.
const EPOCH_SECONDS: i64 = 946_684_800;
const EPOCH_DAYS: i32 = 10_957;
const BINARY: i16 = 1;

/// One statement of a group. Its text stays prepared on the connections, so use few different texts.
#[derive(Debug, Clone, Copy)]
pub struct Read<'a> {
    /// The text, with `$1`, `$2`, ... for the values.
    pub sql: &'a str,
    /// The values.
    pub values: &'a [Value<'a>],
}

/// A value of a statement with its type in PostgreSQL.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the names are those of the types in PostgreSQL")]
pub enum Value<'a> {
    Bool(bool),
    Int4(i32),
    Int8(i64),
    Text(&'a str),
    Bytea(&'a [u8]),
    Uuid(Uuid),
    Timestamptz(DateTime<Utc>),
    Date(NaiveDate),
    TextArray(&'a [&'a str]),
    UuidArray(&'a [Uuid]),
}

/// The statements of a group.
pub(super) struct Group {
    pub(super) statements: Vec<GroupStatement>,
    bytes: BytesMut,
}

pub(super) struct GroupStatement {
    pub(super) sql: Box<str>,
    pub(super) types: Box<[Oid]>,
    binding: Range<usize>,
}

impl Group {
    /// # Errors
    /// [`ReadError::TooLarge`] when the parameters are too large or too many.
    pub(super) fn new(reads: &[Read<'_>]) -> Result<Self, ReadError> {
        let mut group = Self { statements: Vec::with_capacity(reads.len()), bytes: BytesMut::new() };
        for read in reads {
            let start = group.bytes.len();
            bind(read.values, &mut group.bytes).map_err(|_| ReadError::TooLarge)?;
            if group.bytes.len() > GROUP_BYTES_MAX {
                return Err(ReadError::TooLarge);
            }
            group.statements.push(GroupStatement {
                sql: read.sql.into(),
                types: read.values.iter().map(Value::oid).collect(),
                binding: start..group.bytes.len(),
            });
        }
        Ok(group)
    }

    /// The part of `Bind` behind the names of portal and statement.
    pub(super) fn binding(&self, statement: &GroupStatement) -> &[u8] {
        &self.bytes[statement.binding.clone()]
    }
}

/// All values and all columns are in the binary format.
fn bind(values: &[Value<'_>], out: &mut BytesMut) -> io::Result<()> {
    out.put_i16(1);
    out.put_i16(BINARY);
    out.put_u16(u16::try_from(values.len()).map_err(io::Error::other)?);
    for value in values {
        sized(out, |out| value.write(out))?;
    }
    out.put_i16(1);
    out.put_i16(BINARY);
    Ok(())
}

/// Writes what `write` writes behind its length in bytes.
fn sized(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> io::Result<()> {
    let start = out.len();
    out.put_i32(0);
    write(out)?;
    let length = i32::try_from(out.len() - start - 4).map_err(io::Error::other)?;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

impl Value<'_> {
    fn oid(&self) -> Oid {
        let kind = match self {
            Self::Bool(_) => Type::BOOL,
            Self::Int4(_) => Type::INT4,
            Self::Int8(_) => Type::INT8,
            Self::Text(_) => Type::TEXT,
            Self::Bytea(_) => Type::BYTEA,
            Self::Uuid(_) => Type::UUID,
            Self::Timestamptz(_) => Type::TIMESTAMPTZ,
            Self::Date(_) => Type::DATE,
            Self::TextArray(_) => Type::TEXT_ARRAY,
            Self::UuidArray(_) => Type::UUID_ARRAY,
        };
        kind.oid()
    }

    fn write(&self, out: &mut BytesMut) -> io::Result<()> {
        match self {
            Self::Bool(value) => out.put_u8(u8::from(*value)),
            Self::Int4(value) => out.put_i32(*value),
            Self::Int8(value) => out.put_i64(*value),
            Self::Text(value) => out.put_slice(value.as_bytes()),
            Self::Bytea(value) => out.put_slice(value),
            Self::Uuid(value) => out.put_slice(value.as_bytes()),
            Self::Timestamptz(value) => out.put_i64(value.timestamp_micros() - EPOCH_SECONDS * 1_000_000),
            Self::Date(value) => out.put_i32(value.to_epoch_days() - EPOCH_DAYS),
            Self::TextArray(values) => return array(&Type::TEXT, values, |text| text.as_bytes(), out),
            Self::UuidArray(values) => return array(&Type::UUID, values, |uuid| uuid.as_bytes(), out),
        }
        Ok(())
    }
}

/// An array of one dimension, counted from 1, without nulls.
fn array<T>(element: &Type, values: &[T], bytes: impl Fn(&T) -> &[u8], out: &mut BytesMut) -> io::Result<()> {
    out.put_i32(i32::from(!values.is_empty()));
    out.put_i32(0);
    out.put_u32(element.oid());
    if !values.is_empty() {
        out.put_i32(i32::try_from(values.len()).map_err(io::Error::other)?);
        out.put_i32(1);
    }
    for value in values {
        sized(out, |out| {
            out.put_slice(bytes(value));
            Ok(())
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio_postgres::types::ToSql;

    use super::*;

    /// Each value is written like the other client writes it.
    #[test]
    fn values_are_encoded_like_those_of_transactions() {
        let uuids = [Uuid::from_u128(7), Uuid::from_u128(u128::MAX)];
        let time = DateTime::from_timestamp_micros(1_700_000_000_123_456).expect("a time");
        let early = DateTime::from_timestamp_micros(-1).expect("a time");
        let date = NaiveDate::from_ymd_opt(1999, 12, 31).expect("a date");
        let cases: [(Value<'_>, &dyn ToSql); 12] = [
            (Value::Bool(true), &true),
            (Value::Int4(-5), &-5_i32),
            (Value::Int8(i64::MAX), &i64::MAX),
            (Value::Text("Ä"), &"Ä"),
            (Value::Text(""), &""),
            (Value::Bytea(&[0, 1]), &&[0_u8, 1][..]),
            (Value::Uuid(uuids[0]), &uuids[0]),
            (Value::Timestamptz(time), &time),
            (Value::Timestamptz(early), &early),
            (Value::Date(date), &date),
            (Value::TextArray(&["a", ""]), &&["a", ""][..]),
            (Value::UuidArray(&uuids), &&uuids[..]),
        ];
        for (value, other) in cases {
            let kind = Type::from_oid(value.oid()).expect("a type");
            let (mut ours, mut theirs) = (BytesMut::new(), BytesMut::new());
            value.write(&mut ours).expect("it is small");
            other.to_sql_checked(&kind, &mut theirs).expect("encodes");
            assert_eq!(ours, theirs, "{value:?}");
        }
    }

    #[test]
    fn a_group_beyond_the_maximum_is_refused() {
        let large = "x".repeat(GROUP_BYTES_MAX);
        let read = |values: &[Value<'_>]| Group::new(&[Read { sql: "select $1", values }]).map(drop);
        assert!(matches!(read(&[Value::Text(&large)]), Err(ReadError::TooLarge)));
        assert!(matches!(read(&vec![Value::Bool(true); 70_000]), Err(ReadError::TooLarge)));
        read(&[Value::Text(&large[..1_000])]).expect("it is small");
    }
}
