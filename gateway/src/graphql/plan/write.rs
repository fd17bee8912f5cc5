//! Writes PostgreSQL's binary fields as JSON.

use chrono::{Datelike, Timelike};
use queries::value::{date, items, time};
use schemas::engine::Kind;
use uuid::Uuid;

use crate::graphql::engine::kinds::graphql_name;

/// The bytes of an answer.
pub(super) type Out = Vec<u8>;

/// A comma before every item but the first.
pub(super) fn separator(out: &mut Out, index: usize) {
    if index > 0 {
        out.push(b',');
    }
}

pub(super) fn boolean(value: bool, out: &mut Out) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

pub(super) fn number(value: i64, out: &mut Out) {
    use std::io::Write;
    write!(out, "{value}").expect("writing to memory");
}

/// A field of a row. `None` if the bytes are not of this kind.
pub(super) fn field(kind: &Kind, bytes: Option<&[u8]>, out: &mut Out) -> Option<()> {
    let Some(bytes) = bytes else {
        out.extend_from_slice(b"null");
        return Some(());
    };
    match kind {
        Kind::Id => quoted(out, |out| uuid(bytes, out))?,
        Kind::Text => text(std::str::from_utf8(bytes).ok()?, out),
        Kind::Enumeration(enumeration) => {
            text(graphql_name(enumeration, std::str::from_utf8(bytes).ok()?), out);
        }
        Kind::Boolean => boolean(*bytes.first()? != 0, out),
        Kind::Int32 => number(i64::from(i32::from_be_bytes(bytes.try_into().ok()?)), out),
        Kind::Unsigned64 | Kind::Signed64 => quoted(out, |out| {
            number(i64::from_be_bytes(bytes.try_into().ok()?), out);
            Some(())
        })?,
        Kind::Date => quoted(out, |out| day(date(bytes)?, out))?,
        Kind::Timestamp => quoted(out, |out| moment(bytes, out))?,
        Kind::List(item @ (Kind::Text | Kind::Enumeration(_) | Kind::Id)) => {
            out.push(b'[');
            for (index, bytes) in items(bytes)?.into_iter().enumerate() {
                separator(out, index);
                field(item, Some(bytes), out)?;
            }
            out.push(b']');
        }
        // The plan leaves them to the executor.
        Kind::ValueObject(_) | Kind::List(_) => return None,
    }
    Some(())
}

fn quoted(out: &mut Out, write: impl FnOnce(&mut Out) -> Option<()>) -> Option<()> {
    out.push(b'"');
    write(out)?;
    out.push(b'"');
    Some(())
}

fn uuid(bytes: &[u8], out: &mut Out) -> Option<()> {
    let mut buffer = Uuid::encode_buffer();
    out.extend_from_slice(Uuid::from_slice(bytes).ok()?.hyphenated().encode_lower(&mut buffer).as_bytes());
    Some(())
}

/// A text. Most have nothing to escape.
fn text(text: &str, out: &mut Out) {
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("writing to memory");
    }
}

/// `2026-01-02`. Years have four digits.
fn day(date: impl Datelike, out: &mut Out) -> Option<()> {
    digits(u32::try_from(date.year()).ok().filter(|year| *year <= 9999)?, 4, out);
    out.push(b'-');
    digits(date.month(), 2, out);
    out.push(b'-');
    digits(date.day(), 2, out);
    Some(())
}

/// `2026-01-02T03:04:05.000000Z`.
fn moment(bytes: &[u8], out: &mut Out) -> Option<()> {
    let time = time(bytes)?;
    day(time, out)?;
    out.push(b'T');
    digits(time.hour(), 2, out);
    out.push(b':');
    digits(time.minute(), 2, out);
    out.push(b':');
    digits(time.second(), 2, out);
    out.push(b'.');
    digits(time.timestamp_subsec_micros(), 6, out);
    out.push(b'Z');
    Some(())
}

fn digits(mut number: u32, width: usize, out: &mut Out) {
    let start = out.len();
    out.resize(start + width, b'0');
    for digit in out[start..].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use schemas::engine::recorded::timestamp;

    use super::*;
    use crate::graphql::engine::kinds::output;

    fn written(kind: Kind, bytes: &[u8]) -> String {
        let mut out = Vec::new();
        field(&kind, Some(bytes), &mut out).expect("of this kind");
        String::from_utf8(out).expect("UTF-8")
    }

    /// What the executor writes for the same bytes.
    fn executed(kind: Kind, bytes: &[u8]) -> String {
        let stored = queries::value::json(&kind, Some(bytes)).expect("of this kind");
        serde_json::to_string(&output(&kind, &stored)).expect("serialises")
    }

    #[test]
    fn fields_are_written_as_the_executor_writes_them() {
        let big = i64::MAX.to_be_bytes();
        for micros in [0_i64, -1, 1, 845_000_000_123_456, -30_000_000_000_000_000, 250_000_000_000_000_000] {
            let bytes = micros.to_be_bytes();
            assert_eq!(written(Kind::Timestamp, &bytes), executed(Kind::Timestamp, &bytes), "{micros}");
            let shown = timestamp(time(&bytes).expect("a time"));
            assert_eq!(written(Kind::Timestamp, &bytes), format!("\"{shown}\""));
        }
        for text in [
            "",
            "Ada",
            "a \"quote\" and a \\",
            "line\nbreak",
            "\u{7f}\u{80}\u{2028}",
            "Zo\u{eb} \u{10348}",
            "\u{1}",
        ] {
            assert_eq!(written(Kind::Text, text.as_bytes()), executed(Kind::Text, text.as_bytes()), "{text}");
        }
        for (kind, bytes) in [
            (Kind::Id, &[7_u8; 16][..]),
            (Kind::Boolean, &[1]),
            (Kind::Boolean, &[0]),
            (Kind::Int32, &[255, 255, 255, 254]),
            (Kind::Unsigned64, &big),
            (Kind::Date, &[0, 0, 0, 59]),
            (Kind::List(&Kind::Text), b"\0\0\0\x01\0\0\0\0\0\0\0\x19\0\0\0\x01\0\0\0\x01\0\0\0\x02a\""),
        ] {
            assert_eq!(written(kind, bytes), executed(kind, bytes), "{kind:?}");
        }
    }

    #[test]
    fn bytes_of_another_kind_make_the_plan_give_up() {
        for (kind, bytes) in [(Kind::Id, &b"short"[..]), (Kind::Text, &[255]), (Kind::Unsigned64, &[1])] {
            assert_eq!(field(&kind, Some(bytes), &mut Vec::new()), None, "{kind:?}");
        }
        let mut out = Vec::new();
        field(&Kind::Text, None, &mut out).expect("a null");
        assert_eq!(out, b"null");
    }
}
