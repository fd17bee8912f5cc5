//! The types of a read model: object, filter, and order.

use async_graphql::dynamic::{Enum, EnumItem, InputObject, InputValue, Object};
use queries::ReadModel;
use schemas::engine::{Column, Kind, Model};

use super::kinds::{self, Types};
use super::{nodes, pages, relations};

/// Adds them.
pub fn add(types: &mut Types, read_models: &'static [ReadModel], model: &'static Model) {
    let mut object = Object::new(model.object).description(model.description).implement(nodes::NODE);
    for column in model.all_columns().filter(|column| column.visible) {
        object = object.field(kinds::column_field(types, column));
    }
    types.add(relations::add(object, read_models, model));
    pages::add_connection(types, model.object);

    let mut filter = InputObject::new(format!("{}Filter", model.object))
        .description(format!("A filter of {}. Every condition must be met.", model.many));
    for column in model.filters() {
        filter = filter.field(filter_field(types, column));
    }
    types.add(filter);

    let mut order = Enum::new(format!("{}Order", model.object))
        .description(format!("The order of a list of {}. Texts are compared by their bytes.", model.many));
    for column in model.orders() {
        let name = column.name.to_uppercase();
        let item = |direction: &str, first: &str| {
            EnumItem::new(format!("{name}_{direction}"))
                .description(format!("By `{}`, the {first} first.", column.graphql_name))
        };
        order = order.item(item("ASC", "lowest")).item(item("DESC", "highest"));
    }
    types.add(order);
}

fn filter_field(types: &mut Types, column: &'static Column) -> InputValue {
    if column.range {
        let ty = types.input(column.kind, true);
        let name = range_name(&column.kind);
        let bound =
            |name: &str, description: &str| InputValue::new(name, ty.clone()).description(description);
        types.add(
            InputObject::new(name)
                .description("A range. Either end may be open.")
                .field(bound("from", "The lowest value in the range."))
                .field(bound("before", "The lowest value above the range.")),
        );
        return InputValue::new(column.filter_name, async_graphql::dynamic::TypeRef::named(name))
            .description(column.description);
    }
    let description = if column.prefix {
        format!("{} The filter compares its start; upper and lower case differ.", column.description)
    } else {
        column.description.to_owned()
    };
    InputValue::new(column.filter_name, types.input(column.kind, true)).description(description)
}

fn range_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Timestamp => "DateTimeRange",
        Kind::Date => "DateRange",
        Kind::Int32 => "IntRange",
        Kind::Unsigned64 | Kind::Signed64 => "Int64Range",
        _ => "StringRange",
    }
}
