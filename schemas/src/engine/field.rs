//! The kinds of fields, and the reader of inputs. Every layer (JSON, SQL, GraphQL) handles each kind, so a new kind does
//! not compile until all do. The reader collects every error with its path.

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::time::parse_time;

/// The kind of a field.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A UUID.
    Id,
    /// A text, compared by its bytes.
    Text,
    /// True or false.
    Boolean,
    /// An integer of 32 bits.
    Int32,
    /// An integer of 64 bits that is never negative.
    Unsigned64,
    /// An integer of 64 bits.
    Signed64,
    /// A day without a time.
    Date,
    /// A time in UTC, with microseconds.
    Timestamp,
    /// One of a few values.
    Enumeration(&'static EnumerationType),
    /// A group of fields.
    ValueObject(&'static ValueObjectType),
    /// A list of values of this kind.
    List(&'static Kind),
}

impl Kind {
    /// Whether it is a single value, which an index can serve.
    pub const fn is_single_value(&self) -> bool {
        !matches!(self, Self::ValueObject(_) | Self::List(_))
    }
}

/// An enumeration.
#[derive(Debug)]
pub struct EnumerationType {
    /// Its name in Rust and GraphQL.
    pub name: &'static str,
    /// Its doc comment.
    pub description: &'static str,
    /// Its values; the first one is the default.
    pub values: &'static [EnumerationValue],
}

/// A value of an enumeration.
#[derive(Debug)]
pub struct EnumerationValue {
    /// Its name in events and tables, such as `past_due`.
    pub stored: &'static str,
    /// Its name in GraphQL, such as `PAST_DUE`.
    pub graphql_name: &'static str,
    /// Its doc comment.
    pub description: &'static str,
}

/// A group of fields.
#[derive(Debug)]
pub struct ValueObjectType {
    /// Its name in Rust and GraphQL.
    pub name: &'static str,
    /// Its doc comment.
    pub description: &'static str,
    /// Its fields.
    pub fields: &'static [FieldType],
}

/// A field of a command or a value object.
#[derive(Debug)]
pub struct FieldType {
    /// Its name in Rust, events and tables.
    pub name: &'static str,
    /// Its name in GraphQL.
    pub graphql_name: &'static str,
    /// Its doc comment, or that of its type.
    pub description: &'static str,
    /// Its kind. Meaningless if the field is internal.
    pub kind: Kind,
    /// Whether it may be absent.
    pub optional: bool,
    /// Whether only the product gives it.
    pub internal: bool,
    /// Whether its own fields stand among the others.
    pub flatten: bool,
    /// Maximum items, if it is a list.
    pub items_max: Option<usize>,
}

impl FieldType {
    /// The fields that clients give. Flattened value objects are replaced by their fields.
    pub fn public(fields: &'static [Self]) -> Vec<&'static Self> {
        let given = fields.iter().filter(|field| !field.internal);
        given
            .flat_map(|field| match field.kind {
                Kind::ValueObject(value_object) if field.flatten => Self::public(value_object.fields),
                _ => vec![field],
            })
            .collect()
    }
}

/// A type that a field may have.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a field",
    note = "fields hold texts with rules (`Name`, `Email`, ...), ids, dates, times, integers, booleans, an \
            `#[enumeration]`, a `#[value_object]`, or an `Option` or `Vec` of these"
)]
pub trait Field: Sized {
    /// Its kind.
    const KIND: Kind;
    /// Whether it may be absent.
    const OPTIONAL: bool = false;
    /// The description of a field of this type that has no doc comment of its own.
    const DESCRIPTION: &'static str = "";

    /// Reads it from JSON. Errors are added to the reader.
    fn read(reader: &mut InputReader, value: &Value) -> Option<Self>;

    /// Its value if nothing was given.
    fn absent(reader: &mut InputReader) -> Option<Self> {
        reader.refuse("must be given")
    }
}

/// A struct of fields, written by `#[value_object]`.
pub trait ValueObject: Field {
    /// Its description.
    const TYPE: &'static ValueObjectType;
    /// Reads its fields from an object.
    fn read_fields(reader: &mut InputReader, input: &Input) -> Option<Self>;
}

/// An enum without fields, written by `#[enumeration]`.
pub trait Enumeration: Field + Copy {
    /// Its description.
    const TYPE: &'static EnumerationType;
    /// The name in events and tables.
    fn as_str(self) -> &'static str;
}

impl<T: Field> Field for Option<T> {
    const KIND: Kind = T::KIND;
    const OPTIONAL: bool = true;
    const DESCRIPTION: &'static str = T::DESCRIPTION;

    fn read(reader: &mut InputReader, value: &Value) -> Option<Self> {
        T::read(reader, value).map(Some)
    }

    fn absent(_reader: &mut InputReader) -> Option<Self> {
        Some(None)
    }
}

impl<T: Field> Field for Vec<T> {
    const KIND: Kind = Kind::List(&T::KIND);

    fn read(reader: &mut InputReader, value: &Value) -> Option<Self> {
        reader.items(value)
    }
}

impl Field for Uuid {
    const KIND: Kind = Kind::Id;

    fn read(reader: &mut InputReader, value: &Value) -> Option<Self> {
        let text = reader.text(value)?;
        Self::parse_str(text).ok().or_else(|| reader.refuse("must be a UUID"))
    }
}

impl Field for String {
    const KIND: Kind = Kind::Text;

    fn read(reader: &mut InputReader, value: &Value) -> Option<Self> {
        reader.text(value).map(str::to_owned)
    }
}

impl Field for bool {
    const KIND: Kind = Kind::Boolean;

    fn read(reader: &mut InputReader, value: &Value) -> Option<Self> {
        value.as_bool().or_else(|| reader.refuse("must be true or false"))
    }
}

impl Field for i32 {
    const KIND: Kind = Kind::Int32;

    fn read(reader: &mut InputReader, value: &Value) -> Option<Self> {
        let number = value.as_i64().and_then(|number| Self::try_from(number).ok());
        number.or_else(|| reader.refuse("must be an integer of 32 bits"))
    }
}

impl Field for u32 {
    const KIND: Kind = Kind::Int32;

    fn read(reader: &mut InputReader, value: &Value) -> Option<Self> {
        let number = value.as_i64().and_then(|number| i32::try_from(number).ok());
        let number = number.and_then(|number| Self::try_from(number).ok());
        number.or_else(|| reader.refuse("must be an integer of 32 bits that is not negative"))
    }
}

impl Field for u64 {
    const KIND: Kind = Kind::Unsigned64;

    fn read(reader: &mut InputReader, value: &Value) -> Option<Self> {
        let number = value.as_str().map_or_else(|| value.as_u64(), |digits| digits.parse().ok());
        let number = number.filter(|number| i64::try_from(*number).is_ok());
        number.or_else(|| reader.refuse("must be an integer that is not negative, as decimal digits"))
    }
}

impl Field for i64 {
    const KIND: Kind = Kind::Signed64;

    fn read(reader: &mut InputReader, value: &Value) -> Option<Self> {
        let number = value.as_str().map_or_else(|| value.as_i64(), |digits| digits.parse().ok());
        number.or_else(|| reader.refuse("must be an integer of 64 bits, as decimal digits"))
    }
}

impl Field for NaiveDate {
    const KIND: Kind = Kind::Date;

    fn read(reader: &mut InputReader, value: &Value) -> Option<Self> {
        let text = reader.text(value)?;
        // `parse` alone would accept `2026-1-2`.
        let date = (text.len() == 10).then(|| text.parse().ok()).flatten();
        date.or_else(|| reader.refuse("must be a date such as 2026-01-02"))
    }
}

impl Field for DateTime<Utc> {
    const KIND: Kind = Kind::Timestamp;

    fn read(reader: &mut InputReader, value: &Value) -> Option<Self> {
        let text = reader.text(value)?;
        parse_time(text).map_or_else(|error| reader.refuse(error.message), Some)
    }
}

/// An object that a client sent.
pub type Input = Map<String, Value>;

/// Maximum errors that are collected for one input.
const ERRORS_MAX: usize = 100;

/// An error in an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputError {
    /// The path to the value: names of fields, and indexes of items.
    pub path: Vec<String>,
    /// A message for people, in lower case, without a full stop.
    pub message: String,
}

/// Reads an input. It goes on after an error, so that all errors are found.
#[derive(Debug, Default)]
pub struct InputReader {
    path: Vec<String>,
    /// The errors so far, at most 100.
    pub errors: Vec<InputError>,
}

impl InputReader {
    /// The field with this name.
    pub fn field<T: Field>(&mut self, input: &Input, name: &str) -> Option<T> {
        self.at(name, |reader| match input.get(name) {
            None | Some(Value::Null) => T::absent(reader),
            Some(value) => T::read(reader, value),
        })
    }

    /// The list with this name, with at most `items_max` items.
    pub fn bounded_field<T: Field>(&mut self, input: &Input, name: &str, items_max: usize) -> Option<T> {
        if input.get(name).and_then(Value::as_array).is_some_and(|items| items.len() > items_max) {
            return self.at(name, |reader| reader.refuse(format!("must have at most {items_max} items")));
        }
        self.field(input, name)
    }

    /// Adds an error at the current path. Returns `None`, so that a reader can return it.
    pub fn refuse<T>(&mut self, message: impl Into<String>) -> Option<T> {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(InputError { path: self.path.clone(), message: message.into() });
        }
        None
    }

    /// A text.
    pub fn text<'v>(&mut self, value: &'v Value) -> Option<&'v str> {
        value.as_str().or_else(|| self.refuse("must be a text"))
    }

    /// A value object.
    pub fn value_object<T: ValueObject>(&mut self, value: &Value) -> Option<T> {
        match value {
            Value::Object(input) => T::read_fields(self, input),
            _ => self.refuse("must be an object"),
        }
    }

    /// The items of a list. A single value counts as a list of one (GraphQL specification, section 3.11).
    pub fn items<T: Field>(&mut self, value: &Value) -> Option<Vec<T>> {
        let single = std::slice::from_ref(value);
        let items = value.as_array().map_or(single, Vec::as_slice);
        let read =
            items.iter().enumerate().map(|(index, item)| self.at(index, |reader| T::read(reader, item)));
        read.collect::<Vec<_>>().into_iter().collect()
    }

    fn at<T>(&mut self, step: impl ToString, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        self.path.push(step.to_string());
        let found = read(self);
        self.path.pop();
        found
    }
}
