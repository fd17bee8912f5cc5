//! The GraphQL form of each kind: its type, and its values.

use std::collections::BTreeMap;

use async_graphql::dynamic::{
    Enum, EnumItem, Field, FieldFuture, InputObject, InputValue, Object, Scalar, Type, TypeRef,
};
use async_graphql::indexmap::IndexMap;
use async_graphql::{Name, Value};
use schemas::engine::recorded::timestamp;
use schemas::engine::{Column, EnumerationType, FieldType, Kind, ValueObjectType, parse_time};
use serde_json::Value as Json;
use uuid::Uuid;

use super::rows::Shown;

/// The types of the schema by name. Each is built once.
#[derive(Default)]
pub struct Types {
    /// All types so far.
    pub all: BTreeMap<String, Type>,
}

impl Types {
    /// Adds a type, unless there is one with its name.
    pub fn add(&mut self, ty: impl Into<Type>) {
        let ty = ty.into();
        let name = match &ty {
            Type::Scalar(scalar) => scalar.type_name(),
            Type::Object(object) => object.type_name(),
            Type::InputObject(input) => input.type_name(),
            Type::Enum(enumeration) => enumeration.type_name(),
            Type::Interface(interface) => interface.type_name(),
            _ => unreachable!("the schema has no other types"),
        };
        self.all.entry(name.to_owned()).or_insert(ty);
    }

    /// The type of a field of an object.
    pub fn output(&mut self, kind: Kind, optional: bool) -> TypeRef {
        let named = self.named(kind, false);
        if optional { named } else { TypeRef::NonNull(Box::new(named)) }
    }

    /// The type of a field of an input.
    pub fn input(&mut self, kind: Kind, optional: bool) -> TypeRef {
        let named = self.named(kind, true);
        if optional { named } else { TypeRef::NonNull(Box::new(named)) }
    }

    fn named(&mut self, kind: Kind, input: bool) -> TypeRef {
        match kind {
            Kind::Id => TypeRef::named("ID"),
            Kind::Text => TypeRef::named("String"),
            Kind::Boolean => TypeRef::named("Boolean"),
            Kind::Int32 => TypeRef::named("Int"),
            Kind::Unsigned64 | Kind::Signed64 => TypeRef::named("Int64"),
            Kind::Date => TypeRef::named("Date"),
            Kind::Timestamp => TypeRef::named("DateTime"),
            Kind::Enumeration(enumeration) => {
                self.add(enum_of(enumeration));
                TypeRef::named(enumeration.name)
            }
            Kind::ValueObject(value_object) if input => {
                let name = format!("{}Input", value_object.name);
                let object = with_inputs(self, InputObject::new(&name), value_object.fields);
                self.add(object.description(value_object.description));
                TypeRef::named(name)
            }
            Kind::ValueObject(value_object) => {
                let object = self.object_of(value_object);
                self.add(object);
                TypeRef::named(value_object.name)
            }
            Kind::List(item) => TypeRef::List(Box::new(TypeRef::NonNull(Box::new(self.named(*item, input))))),
        }
    }

    fn object_of(&mut self, value_object: &'static ValueObjectType) -> Object {
        let object = Object::new(value_object.name).description(value_object.description);
        FieldType::public(value_object.fields).into_iter().fold(object, |object, field| {
            let (name, ty) = (field.name, self.output(field.kind, field.optional));
            let read = Field::new(field.graphql_name, ty, move |ctx| {
                let part = ctx.parent_value.as_value().and_then(|value| match value {
                    Value::Object(fields) => fields.get(name),
                    _ => None,
                });
                FieldFuture::from_value(part.cloned().filter(|value| *value != Value::Null))
            });
            object.field(read.description(field.description))
        })
    }
}

fn enum_of(enumeration: &EnumerationType) -> Enum {
    let item = |value: &schemas::engine::EnumerationValue| {
        EnumItem::new(value.graphql_name).description(value.description)
    };
    Enum::new(enumeration.name)
        .items(enumeration.values.iter().map(item))
        .description(enumeration.description)
}

/// Adds the fields that clients give to an input.
pub fn with_inputs(types: &mut Types, object: InputObject, fields: &'static [FieldType]) -> InputObject {
    FieldType::public(fields).into_iter().fold(object, |object, field| {
        let ty = types.input(field.kind, field.optional);
        object.field(InputValue::new(field.graphql_name, ty).description(field.description))
    })
}

/// A stored value as a value of GraphQL.
pub fn output(kind: &Kind, stored: &Json) -> Value {
    match (kind, stored) {
        (_, Json::Null) => Value::Null,
        (Kind::Enumeration(enumeration), Json::String(stored)) => {
            Value::Enum(Name::new(graphql_name(enumeration, stored)))
        }
        (Kind::Unsigned64 | Kind::Signed64, number) => Value::String(number.to_string()),
        (Kind::Timestamp, Json::String(text)) => {
            Value::String(parse_time(text).map_or_else(|_| text.clone(), timestamp))
        }
        (Kind::ValueObject(value_object), Json::Object(fields)) => {
            let entry = |field: &&FieldType| {
                let stored = fields.get(field.name).unwrap_or(&Json::Null);
                (Name::new(field.name), output(&field.kind, stored))
            };
            let fields: IndexMap<Name, Value> =
                FieldType::public(value_object.fields).iter().map(entry).collect();
            Value::Object(fields)
        }
        (Kind::List(item), Json::Array(items)) => {
            Value::List(items.iter().map(|stored| output(item, stored)).collect())
        }
        (_, stored) => Value::from_json(stored.clone()).unwrap_or_default(),
    }
}

/// The name in GraphQL of a stored value of an enumeration.
pub fn graphql_name<'a>(enumeration: &'static EnumerationType, stored: &'a str) -> &'a str {
    let value = enumeration.values.iter().find(|value| value.stored == stored);
    value.map_or(stored, |value| value.graphql_name)
}

/// The field of an object that shows a column.
pub fn column_field(types: &mut Types, column: &'static Column) -> Field {
    let field = Field::new(column.graphql_name, types.output(column.kind, column.optional), |ctx| {
        let shown = ctx.parent_value.downcast_ref::<Shown>();
        FieldFuture::from_value(shown.and_then(|shown| shown.column(column)))
    });
    field.description(column.description)
}

/// Whether a value is an integer of 64 bits that is not negative, as digits or as a number.
fn is_int64(value: &Value) -> bool {
    let number = match value {
        Value::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse::<u64>().ok(),
        Value::Number(number) => number.as_u64(),
        _ => None,
    };
    // PostgreSQL holds no larger one.
    number.is_some_and(|number| i64::try_from(number).is_ok())
}

/// Adds the scalars that GraphQL does not have.
pub fn add_scalars(types: &mut Types) {
    types.add(Scalar::new("Int64").validator(is_int64).description(
        "An integer of 64 bits, as a string of decimal digits, because JSON numbers lose precision above 2^53. \
         As an input, a number is accepted too.",
    ));
    let time = |value: &Value| matches!(value, Value::String(text) if parse_time(text).is_ok());
    types.add(
        Scalar::new("DateTime")
            .validator(time)
            .specified_by_url("https://www.rfc-editor.org/rfc/rfc3339")
            .description("A time in UTC (RFC 3339) with microseconds."),
    );
    let id = |value: &Value| matches!(value, Value::String(text) if Uuid::parse_str(text).is_ok());
    types.add(
        Scalar::new("UUID")
            .validator(id)
            .specified_by_url("https://www.rfc-editor.org/rfc/rfc9562")
            .description("A UUID (RFC 9562)."),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_int64_is_digits_or_a_number_that_is_not_negative() {
        for good in [Value::from("9007199254740993"), Value::from(7), Value::from("0")] {
            assert!(is_int64(&good), "{good}");
        }
        for bad in ["-1", "1.5", "+1", "", "9223372036854775808"].map(Value::from) {
            assert!(!is_int64(&bad), "{bad}");
        }
        assert!(!is_int64(&Value::from(-1)) && !is_int64(&Value::Null));
    }

    #[test]
    fn times_have_microseconds_and_numbers_are_text() {
        let time = output(&Kind::Timestamp, &"2026-01-02T03:04:05+01:00".into());
        assert_eq!(time, Value::from("2026-01-02T02:04:05.000000Z"));
        assert_eq!(output(&Kind::Unsigned64, &7.into()), Value::from("7"));
        assert_eq!(output(&Kind::List(&Kind::Text), &serde_json::json!(["a"])), Value::from(vec!["a"]));
    }
}
