//! Puts the fields of an answer into the order in which they were asked for, as the specification wants. The library
//! resolves the fields of an object side by side and lists them as they come.

use async_graphql::indexmap::IndexMap;
use async_graphql::parser::types::{ExecutableDocument, Selection, SelectionSet};
use async_graphql::{Name, Value};

/// Orders an object and all objects in it.
pub fn arrange(value: &mut Value, set: &SelectionSet, document: &ExecutableDocument) {
    if let Value::Object(fields) = value {
        arrange_all(vec![fields], &[set], document);
    }
}

/// Orders objects that the same selection sets were asked for.
fn arrange_all(
    mut objects: Vec<&mut IndexMap<Name, Value>>,
    sets: &[&SelectionSet],
    document: &ExecutableDocument,
) {
    let mut keys: IndexMap<&str, Vec<&SelectionSet>> = IndexMap::new();
    for set in sets {
        collect(set, document, &mut keys);
    }
    for object in &mut objects {
        let mut next = 0;
        for key in keys.keys() {
            if let Some(at) = object.get_index_of(*key) {
                if at != next {
                    object.move_index(at, next);
                }
                next += 1;
            }
        }
    }
    let nested = keys.into_iter().filter(|(_, sets)| sets.iter().any(|set| !set.items.is_empty()));
    for (key, sets) in nested {
        let mut inner = Vec::new();
        for value in objects.iter_mut().filter_map(|object| object.get_mut(key)) {
            collect_objects(value, &mut inner);
        }
        if !inner.is_empty() {
            arrange_all(inner, &sets, document);
        }
    }
}

/// The keys of an object in order, each with the selection sets that it was asked for with.
fn collect<'a>(
    set: &'a SelectionSet,
    document: &'a ExecutableDocument,
    keys: &mut IndexMap<&'a str, Vec<&'a SelectionSet>>,
) {
    for selection in &set.items {
        match &selection.node {
            Selection::Field(field) => {
                let key = field.node.response_key().node.as_str();
                keys.entry(key).or_default().push(&field.node.selection_set.node);
            }
            Selection::InlineFragment(inline) => collect(&inline.node.selection_set.node, document, keys),
            Selection::FragmentSpread(spread) => {
                if let Some(fragment) = document.fragments.get(&spread.node.fragment_name.node) {
                    collect(&fragment.node.selection_set.node, document, keys);
                }
            }
        }
    }
}

fn collect_objects<'a>(value: &'a mut Value, objects: &mut Vec<&'a mut IndexMap<Name, Value>>) {
    match value {
        Value::Object(fields) => objects.push(fields),
        Value::List(items) => items.iter_mut().for_each(|item| collect_objects(item, objects)),
        _ => {}
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

    #[test]
    fn the_objects_of_lists_are_ordered_as_well() {
        let answer = json!({"a": [{"b": 1, "c": {"e": 3, "d": 4}}, null, {"c": null, "b": 2}]});
        let ordered = r#"{"a":[{"c":{"d":4,"e":3},"b":1},null,{"c":null,"b":2}]}"#;
        assert_eq!(arranged("{ a { c { d } b c { e } } }", answer), ordered);
    }
}
