//! Whether a schema accepts everything that another one accepted. The rule is sound and conservative: what it allows is
//! always right, and a change that it cannot follow needs a new version although it might be harmless.
//!
//! It compares keyword by keyword, on schemas without references and annotations ([`expand`](super::json_schema::expand)):
//! limits may loosen, listed values may become more, required names may become fewer, an assertion may go; what holds
//! inner schemas is compared inside. A property may be added only where the old schema refused it, or with a schema that
//! accepts anything, because data with another value under that name were valid before. Everything else must stay.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Limits from below and from above.
const LEAST: [&str; 5] = ["minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"];
const MOST: [&str; 5] = ["maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"];

/// Ok where `new` accepts all that `old` accepts; else the path to a keyword at which it does not, or may not.
pub fn accepts_all(old: &Value, new: &Value) -> Result<(), String> {
    narrower(old, new).map_or(Ok(()), Err)
}

/// The path to a keyword at which `new` refuses what `old` accepted, or may refuse it.
fn narrower(old: &Value, new: &Value) -> Option<String> {
    if old == new || is_anything(new) || *old == Value::Bool(false) {
        return None;
    }
    let (old, new) = match (old, new) {
        (Value::Object(old), Value::Object(new)) => (old.clone(), new),
        (Value::Bool(true), Value::Object(new)) => (Map::new(), new),
        _ => return Some("false".to_owned()),
    };
    let mut names: BTreeSet<&str> = new.keys().map(String::as_str).collect();
    // Loosening what others are tied to may narrow those: they are looked at although the new schema lacks them.
    names.extend(["properties", "additionalProperties", "items", "prefixItems"]);
    for name in ["patternProperties", "contains", "minContains", "maxContains", "if", "then", "else"] {
        if old.contains_key(name) {
            names.insert(name);
        }
    }
    names.into_iter().find_map(|name| keyword(name, &old, new))
}

fn keyword(name: &str, old: &Map<String, Value>, new: &Map<String, Value>) -> Option<String> {
    let (before, now) = (old.get(name), new.get(name));
    let here = || Some(name.to_owned());
    match (name, before, now) {
        ("properties" | "additionalProperties" | "patternProperties", ..) => match name {
            "properties" => properties(old, new),
            // Compared with the properties.
            _ => None,
        },
        ("items", ..) => {
            let (before, now) = (before.unwrap_or(&Value::Bool(true)), now.unwrap_or(&Value::Bool(true)));
            within("items", narrower(before, now))
        }
        ("prefixItems", ..) => prefix_items(before, now),
        (_, before, now) if before == now => None,
        ("type", Some(before), Some(now)) => {
            let (before, now) = (listed(before), listed(now));
            let kept = |kind: &&Value| {
                now.contains(kind) || (**kind == "integer" && now.iter().any(|kind| *kind == "number"))
            };
            if before.iter().all(kept) { None } else { here() }
        }
        ("enum" | "const", ..) => {
            let values = |schema: &Map<String, Value>| -> Option<Vec<Value>> {
                let of_const = schema.get("const").map(|value| vec![value.clone()]);
                of_const.or_else(|| schema.get("enum").and_then(Value::as_array).cloned())
            };
            let (Some(before), Some(now)) = (values(old), now) else { return here() };
            let now =
                if name == "const" { vec![now.clone()] } else { now.as_array().cloned().unwrap_or_default() };
            if before.iter().all(|value| now.contains(value)) { None } else { here() }
        }
        ("required", before, Some(now)) => {
            let before = before.map(listed).unwrap_or_default();
            if listed(now).iter().all(|field| before.contains(field)) { None } else { here() }
        }
        ("anyOf", Some(before), Some(now)) => {
            let (before, now) = (listed(before), listed(now));
            let kept = |old: &&Value| now.iter().any(|new| narrower(old, new).is_none());
            if before.iter().all(kept) { None } else { here() }
        }
        (limit, Some(before), Some(now)) if LEAST.contains(&limit) => {
            if at_most(now, before) {
                None
            } else {
                here()
            }
        }
        (limit, Some(before), Some(now)) if MOST.contains(&limit) => {
            if at_most(before, now) {
                None
            } else {
                here()
            }
        }
        ("uniqueItems", _, Some(Value::Bool(false))) => None,
        _ => here(),
    }
}

fn properties(old: &Map<String, Value>, new: &Map<String, Value>) -> Option<String> {
    let empty = Map::new();
    let of = |schema: &Map<String, Value>| {
        schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_else(|| empty.clone())
    };
    let others = |schema: &Map<String, Value>| {
        schema.get("additionalProperties").cloned().unwrap_or(Value::Bool(true))
    };
    let (old_named, new_named) = (of(old), of(new));
    let (old_others, new_others) = (others(old), others(new));
    if old.get("patternProperties") != new.get("patternProperties") {
        return Some("patternProperties".to_owned());
    }
    // Which names a pattern means is not looked into: with patterns the named properties stay the same.
    let same_names = old_named.keys().eq(new_named.keys());
    if old.contains_key("patternProperties") && !same_names {
        return Some("properties".to_owned());
    }
    let names: BTreeSet<&String> = old_named.keys().chain(new_named.keys()).collect();
    for name in names {
        let before = old_named.get(name).unwrap_or(&old_others);
        let now = new_named.get(name).unwrap_or(&new_others);
        if let Some(at) = narrower(before, now) {
            return within(&format!("properties.{name}"), Some(at));
        }
    }
    within("additionalProperties", narrower(&old_others, &new_others))
}

fn prefix_items(before: Option<&Value>, now: Option<&Value>) -> Option<String> {
    match (before.map(listed), now.map(listed)) {
        (None, None) => None,
        (Some(before), Some(now)) if before.len() == now.len() => {
            let mut pairs = before.into_iter().zip(now).enumerate();
            pairs.find_map(|(index, (old, new))| within(&format!("prefixItems.{index}"), narrower(old, new)))
        }
        _ => Some("prefixItems".to_owned()),
    }
}

fn within(name: &str, at: Option<String>) -> Option<String> {
    at.map(|at| format!("{name}.{at}"))
}

fn is_anything(schema: &Value) -> bool {
    *schema == Value::Bool(true) || schema.as_object().is_some_and(Map::is_empty)
}

/// One value or the values of a list.
fn listed(value: &Value) -> Vec<&Value> {
    value.as_array().map_or_else(|| vec![value], |list| list.iter().collect())
}

fn at_most(one: &Value, other: &Value) -> bool {
    if let (Some(one), Some(other)) = (one.as_i64(), other.as_i64()) {
        return one <= other;
    }
    // Rounding keeps the order of numbers, but makes neighbours equal.
    one == other || one.as_f64().zip(other.as_f64()).is_some_and(|(one, other)| one < other)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn widens(old: &Value, new: &Value) {
        assert_eq!(accepts_all(old, new), Ok(()), "{old} to {new}");
    }

    #[track_caller]
    fn narrows(old: &Value, new: &Value, at: &str) {
        assert_eq!(accepts_all(old, new), Err(at.to_owned()), "{old} to {new}");
    }

    #[test]
    fn limits_loosen() {
        widens(&json!({"minimum": 2, "maxLength": 5}), &json!({"minimum": 1, "maxLength": 6}));
        widens(&json!({"minimum": 2, "pattern": "a"}), &json!({"pattern": "a"}));
        narrows(&json!({"minimum": 1}), &json!({"minimum": 2}), "minimum");
        narrows(&json!({}), &json!({"maxItems": 2}), "maxItems");
        narrows(&json!({"minimum": 1}), &json!({"exclusiveMinimum": 1}), "exclusiveMinimum");
    }

    #[test]
    fn listed_values_and_types_become_more() {
        widens(&json!({"enum": ["a"]}), &json!({"enum": ["b", "a"]}));
        widens(&json!({"const": 1}), &json!({"enum": [1, 2]}));
        widens(&json!({"type": "integer"}), &json!({"type": ["number", "null"]}));
        narrows(&json!({"enum": ["a", "b"]}), &json!({"enum": ["a"]}), "enum");
        narrows(&json!({"type": "number"}), &json!({"type": "integer"}), "type");
        narrows(&json!({}), &json!({"type": "string"}), "type");
    }

    #[test]
    fn a_property_is_added_where_it_was_refused_before() {
        let closed =
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": false});
        let more = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                          "additionalProperties": false});
        widens(&closed, &more);
        narrows(&more, &closed, "properties.b.false");
        let open = json!({"properties": {"a": {"type": "string"}}});
        let open_more = json!({"properties": {"a": {"type": "string"}, "b": {"type": "string"}}});
        narrows(&open, &open_more, "properties.b.type");
        widens(&open, &json!({"properties": {"a": {"type": "string"}, "b": {}}}));
        narrows(&closed, &json!({"properties": {"a": {"type": "string"}}, "required": ["a"]}), "required");
        narrows(&json!({}), &json!({"additionalProperties": false}), "additionalProperties.false");
    }

    #[test]
    fn what_is_tied_to_others_stays() {
        narrows(
            &json!({"contains": {"type": "string"}, "minContains": 0}),
            &json!({"contains": {"type": "string"}}),
            "minContains",
        );
        narrows(
            &json!({"if": {"type": "string"}, "then": {"minLength": 1}}),
            &json!({"if": {"type": "string"}}),
            "then",
        );
        narrows(
            &json!({"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}),
            &json!({"items": {"type": "integer"}}),
            "prefixItems",
        );
        narrows(
            &json!({"patternProperties": {"^x": {"type": "string"}}, "additionalProperties": false}),
            &json!({"additionalProperties": false}),
            "patternProperties",
        );
        widens(&json!({"anyOf": [{"minimum": 5}]}), &json!({"anyOf": [{"type": "string"}, {"minimum": 4}]}));
    }

    fn leaf() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(json!(1)),
            Just(json!(2.5)),
            Just(json!("a")),
            Just(json!("bcd")),
            Just(json!(null)),
            Just(json!(true)),
        ]
    }

    fn instance() -> impl Strategy<Value = Value> {
        leaf().prop_recursive(2, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
                prop::collection::btree_map("[abx]", inner, 0..3)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn schema() -> impl Strategy<Value = Value> {
        let kind = prop_oneof![
            Just("integer"),
            Just("number"),
            Just("string"),
            Just("object"),
            Just("array"),
            Just("null")
        ];
        let simple = prop_oneof![
            Just(json!(true)),
            Just(json!(false)),
            Just(json!({})),
            kind.clone().prop_map(|kind| json!({"type": kind})),
            prop::collection::vec(kind, 1..3).prop_map(|kinds| {
                let kinds: BTreeSet<&str> = kinds.into_iter().collect();
                json!({"type": kinds})
            }),
            prop::collection::vec(leaf(), 1..3).prop_map(|values| json!({"enum": values})),
            leaf().prop_map(|value| json!({"const": value})),
            (0..3).prop_map(|limit| json!({"minimum": limit})),
            (0..3).prop_map(|limit| json!({"maxLength": limit, "minItems": limit})),
            Just(json!({"pattern": "^a"})),
            Just(json!({"uniqueItems": true})),
        ];
        simple.prop_recursive(3, 16, 3, |inner| {
            let named = prop::collection::btree_map("[ab]", inner.clone(), 0..3);
            let names = prop::collection::btree_set("[ab]", 0..2);
            let list = prop::collection::vec(inner.clone(), 1..3);
            prop_oneof![
                (named.clone(), names, prop::option::of(inner.clone())).prop_map(
                    |(named, required, others)| {
                        let mut schema = json!({"properties": named, "required": required});
                        if let Some(others) = others {
                            schema["additionalProperties"] = others;
                        }
                        schema
                    }
                ),
                (list.clone(), inner.clone())
                    .prop_map(|(list, items)| json!({"prefixItems": list, "items": items})),
                inner.clone().prop_map(|items| json!({"items": items})),
                list.clone().prop_map(|list| json!({"anyOf": list})),
                list.clone().prop_map(|list| json!({"allOf": list})),
                list.prop_map(|list| json!({"oneOf": list})),
                inner.clone().prop_map(|inner| json!({"not": inner})),
                inner.clone().prop_map(|inner| json!({"contains": inner, "maxContains": 1})),
                inner.clone().prop_map(
                    |inner| json!({"patternProperties": {"^x": inner}, "additionalProperties": false})
                ),
                (inner.clone(), inner).prop_map(|(test, then)| json!({"if": test, "then": then})),
            ]
        })
    }

    /// The same schema with one keyword somewhere taken from another schema, or taken away: near enough that the rule
    /// often allows the change.
    fn changed(schema: &Value, other: &Value, at: usize) -> Value {
        let (Value::Object(map), Value::Object(donor)) = (schema, other) else { return other.clone() };
        let mut map = map.clone();
        let names: Vec<String> = map.keys().cloned().collect();
        match (names.get(at % (names.len() + 1)), donor.iter().next()) {
            (Some(name), _) if at.is_multiple_of(3) => drop(map.remove(name)),
            (Some(name), _) if map[name].is_object() => {
                let inner = changed(&map[name], other, at / 2);
                map.insert(name.clone(), inner);
            }
            (_, Some((name, value))) => drop(map.insert(name.clone(), value.clone())),
            _ => {}
        }
        Value::Object(map)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn what_the_rule_allows_loses_nothing(
            old in schema(), other in schema(), at in 0usize..12,
            instances in prop::collection::vec(instance(), 12),
        ) {
            for new in [changed(&old, &other, at), other] {
                if accepts_all(&old, &new).is_err() {
                    continue;
                }
                let before = jsonschema::draft202012::new(&old).expect("a schema");
                let now = jsonschema::draft202012::new(&new).expect("a schema");
                for instance in &instances {
                    prop_assert!(
                        !before.is_valid(instance) || now.is_valid(instance),
                        "{old} to {new} loses {instance}"
                    );
                }
            }
        }
    }
}
