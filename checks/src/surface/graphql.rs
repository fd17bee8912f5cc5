//! Items of a GraphQL schema: types, fields with their arguments, inputs, values of enums.

use async_graphql_parser::parse_schema;
use async_graphql_parser::types::{FieldDefinition, InputValueDefinition, TypeKind, TypeSystemDefinition};

use super::items::{Items, Promise};

/// The items of the schema.
pub fn items(_file: &str, text: &str) -> anyhow::Result<Items> {
    let mut items = Items::new();
    for definition in parse_schema(text)?.definitions {
        let TypeSystemDefinition::Type(definition) = definition else { continue };
        let owner = definition.node.name.node.to_string();
        items.insert(format!("type: {owner}"), Promise::Exists);
        match definition.node.kind {
            TypeKind::Scalar => {}
            TypeKind::Object(object) => {
                object.fields.iter().for_each(|field| insert_field(&mut items, &owner, &field.node));
            }
            TypeKind::Interface(interface) => {
                interface.fields.iter().for_each(|field| insert_field(&mut items, &owner, &field.node));
            }
            TypeKind::Enum(list) => {
                items.extend(list.values.iter().map(|value| exists("value", &owner, &value.node.value.node)));
            }
            TypeKind::Union(union) => {
                items.extend(union.members.iter().map(|member| exists("member", &owner, &member.node)));
            }
            TypeKind::InputObject(input) => {
                for field in &input.fields {
                    items.insert(format!("input: {owner}.{}", field.node.name.node), sent(&field.node));
                }
            }
        }
    }
    Ok(items)
}

fn exists(kind: &str, owner: &str, name: &str) -> (String, Promise) {
    (format!("{kind}: {owner}.{name}"), Promise::Exists)
}

fn sent(value: &InputValueDefinition) -> Promise {
    let kind = value.ty.node.to_string();
    Promise::Sent { kind, is_required: !value.ty.node.nullable && value.default_value.is_none() }
}

fn insert_field(items: &mut Items, owner: &str, field: &FieldDefinition) {
    let name = format!("{owner}.{}", field.name.node);
    for argument in &field.arguments {
        items.insert(format!("argument: {name}.{}", argument.node.name.node), sent(&argument.node));
    }
    items.insert(format!("field: {name}"), Promise::Read(field.ty.node.to_string()));
}
