//! Puts the fields of an answer into the order in which they were asked for, as the specification wants. The library
//! resolves the fields of an object side by side and lists them as they come; rows are plain data and come in order.

use async_graphql::indexmap::IndexMap;
use async_graphql::parser::types::{ExecutableDocument, Selection, SelectionSet};
use async_graphql::{Name, Value};

/// Orders an object and the objects in it, down to the first list.
pub fn arrange(value: &mut Value, set: &SelectionSet, document: &ExecutableDocument) {
    let Value::Object(fields) = value else { return };
    let mut next = 0;
    place(fields, &mut next, set, document);
}

fn place(
    fields: &mut IndexMap<Name, Value>,
    next: &mut usize,
    set: &SelectionSet,
    document: &ExecutableDocument,
) {
    for selection in &set.items {
        match &selection.node {
            Selection::Field(field) => {
                let Some(at) = fields.get_index_of(&field.node.response_key().node) else { continue };
                // A field asked for twice stands where it was asked for first.
                if at < *next {
                    continue;
                }
                fields.move_index(at, *next);
                if let Some((_, value)) = fields.get_index_mut(*next) {
                    arrange(value, &field.node.selection_set.node, document);
                }
                *next += 1;
            }
            Selection::InlineFragment(inline) => {
                place(fields, next, &inline.node.selection_set.node, document);
            }
            Selection::FragmentSpread(spread) => {
                if let Some(fragment) = document.fragments.get(&spread.node.fragment_name.node) {
                    place(fields, next, &fragment.node.selection_set.node, document);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use async_graphql::parser::parse_query;
    use serde_json::json;

    use super::*;

    fn arranged(query: &str, answer: serde_json::Value) -> String {
        let document = parse_query(query).expect("a document");
        let mut value = Value::from_json(answer).expect("an answer");
        let (_, operation) = document.operations.iter().next().expect("an operation");
        arrange(&mut value, &operation.node.selection_set.node, &document);
        serde_json::to_string(&value).expect("JSON")
    }

    #[test]
    fn fields_stand_in_the_order_of_the_question() {
        let query = "{ z a { y b } ...F z m: q } fragment F on Query { k ... { c } }";
        let answer = json!({"a": {"b": 1, "y": 2}, "c": 3, "k": 4, "m": 5, "z": 6});
        assert_eq!(arranged(query, answer), r#"{"z":6,"a":{"y":2,"b":1},"k":4,"c":3,"m":5}"#);
    }

    #[test]
    fn a_field_asked_for_twice_stands_where_it_was_first() {
        let answer = json!({"a": {"b": 1, "c": 2}, "z": 6});
        assert_eq!(arranged("{ z a { c } a { b } }", answer.clone()), r#"{"z":6,"a":{"c":2,"b":1}}"#);
        assert_eq!(arranged("{ x { y } }", json!(null)), "null");
    }
}
