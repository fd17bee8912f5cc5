//! Checks whether a schema accepts everything that another one accepted. The check is sound and conservative: it never
//! allows an incompatible change, but it may reject a harmless one, which then needs a new version.
//!
//! It compares schemas without references and annotations ([`json_schema::expand`]), keyword by keyword:
//!
//! - Limits may loosen, enumerated values may be added, required names may be removed, an assertion may be removed.
//! - Inner schemas are compared recursively.
//! - A property may be added only if the old schema rejected it, or if its schema accepts any value: earlier data may
//!   have any value under that name.
//! - Everything else must stay the same.

use std::collections::{BTreeMap, BTreeSet};

use schemas::engine::Json;

/// The keywords of a schema, or schemas by name.
type Map = BTreeMap<Box<str>, Json>;

const ANY_SCHEMA: Json = Json::Bool(true);
/// Keywords that are lower and upper limits.
const LOWER_BOUND_KEYWORDS: [&str; 5] =
    ["minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"];
const UPPER_BOUND_KEYWORDS: [&str; 5] =
    ["maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"];

/// Maximum bytes of schemas that one comparison visits. Each alternative is compared with each other one.
const COMPARED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Checks that `new` accepts everything that `old` accepts.
///
/// # Errors
/// The path to a keyword at which it does not, or may not.
pub fn check_compatibility(old: &Json, new: &Json) -> Result<(), String> {
    Comparison { work: 0 }.find_incompatibility(old, new).map_or(Ok(()), Err)
}

struct Comparison {
    work: usize,
}

impl Comparison {
    /// The path to a keyword at which `new` rejects, or may reject, what `old` accepted.
    fn find_incompatibility(&mut self, old: &Json, new: &Json) -> Option<String> {
        self.work = self.work.saturating_add(old.size()).saturating_add(new.size());
        if self.work > COMPARED_BYTES_MAX {
            return Some("too_much_to_compare".to_owned());
        }
        if old == new || accepts_anything(new) || *old == Json::Bool(false) {
            return None;
        }
        let anything = Map::new();
        let (old, new) = match (old, new) {
            (Json::Object(old), Json::Object(new)) => (old, new),
            (Json::Bool(true), Json::Object(new)) => (&anything, new),
            _ => return Some("false".to_owned()),
        };
        let mut names: BTreeSet<&str> = new.keys().map(|name| &**name).collect();
        // Loosening one keyword may narrow another that depends on it. So dependent keywords are compared even if the
        // new schema lacks them.
        names.extend(["properties", "additionalProperties", "items", "prefixItems"]);
        for name in ["patternProperties", "contains", "minContains", "maxContains", "if", "then", "else"] {
            if old.contains_key(name) {
                names.insert(name);
            }
        }
        names.into_iter().find_map(|name| self.keyword(name, old, new))
    }

    fn keyword(&mut self, name: &str, old: &Map, new: &Map) -> Option<String> {
        let (before, now) = (old.get(name), new.get(name));
        let here = || Some(name.to_owned());
        match (name, before, now) {
            ("properties", ..) => self.properties(old, new),
            // These are compared together with the properties.
            ("additionalProperties" | "patternProperties", ..) => None,
            ("items", ..) => within(
                "items",
                self.find_incompatibility(before.unwrap_or(&ANY_SCHEMA), now.unwrap_or(&ANY_SCHEMA)),
            ),
            ("prefixItems", ..) => self.prefix_items(before, now),
            (_, before, now) if before == now => None,
            ("type", Some(before), Some(now)) => {
                let now = listed(now);
                let has = |kind: &str| now.iter().any(|known| known.as_str() == Some(kind));
                let kept = |kind: &Json| {
                    kind.as_str().is_some_and(|kind| has(kind) || (kind == "integer" && has("number")))
                };
                if listed(before).iter().all(kept) { None } else { here() }
            }
            ("enum" | "const", _, Some(now)) => {
                let values = |schema: &Json| -> BTreeSet<Json> { listed(schema).iter().cloned().collect() };
                let now = if name == "const" { BTreeSet::from([now.clone()]) } else { values(now) };
                let kept = match (old.get("const"), old.get("enum")) {
                    (Some(value), _) => now.contains(value),
                    (None, Some(before)) => listed(before).iter().all(|value| now.contains(value)),
                    (None, None) => false,
                };
                if kept { None } else { here() }
            }
            ("required", before, Some(now)) => {
                let before: BTreeSet<&Json> = before.map(listed).unwrap_or_default().iter().collect();
                if listed(now).iter().all(|field| before.contains(field)) { None } else { here() }
            }
            ("anyOf", Some(before), Some(now)) => {
                for old in listed(before) {
                    if !listed(now).iter().any(|new| self.find_incompatibility(old, new).is_none()) {
                        return here();
                    }
                }
                None
            }
            (limit, Some(before), Some(now)) if LOWER_BOUND_KEYWORDS.contains(&limit) => {
                if at_most(now, before) { None } else { here() }
            }
            (limit, Some(before), Some(now)) if UPPER_BOUND_KEYWORDS.contains(&limit) => {
                if at_most(before, now) { None } else { here() }
            }
            ("uniqueItems", _, Some(Json::Bool(false))) => None,
            _ => here(),
        }
    }

    fn properties(&mut self, old: &Map, new: &Map) -> Option<String> {
        let nothing = Map::new();
        let (old_named, new_named) = (named(old).unwrap_or(&nothing), named(new).unwrap_or(&nothing));
        let old_others = old.get("additionalProperties").unwrap_or(&ANY_SCHEMA);
        let new_others = new.get("additionalProperties").unwrap_or(&ANY_SCHEMA);
        if old.get("patternProperties") != new.get("patternProperties") {
            return Some("patternProperties".to_owned());
        }
        // The names that a pattern matches are not computed: with patterns, the named properties must stay the same.
        let same_names = old_named.keys().eq(new_named.keys());
        if old.contains_key("patternProperties") && !same_names {
            return Some("properties".to_owned());
        }
        let names: BTreeSet<&str> = old_named.keys().chain(new_named.keys()).map(|name| &**name).collect();
        for name in names {
            let before = old_named.get(name).unwrap_or(old_others);
            let now = new_named.get(name).unwrap_or(new_others);
            if let Some(at) = self.find_incompatibility(before, now) {
                return within(&format!("properties.{name}"), Some(at));
            }
        }
        within("additionalProperties", self.find_incompatibility(old_others, new_others))
    }

    fn prefix_items(&mut self, before: Option<&Json>, now: Option<&Json>) -> Option<String> {
        match (before.map(listed), now.map(listed)) {
            (None, None) => None,
            (Some(before), Some(now)) if before.len() == now.len() => {
                let mut pairs = before.iter().zip(now).enumerate();
                pairs.find_map(|(index, (old, new))| {
                    within(&format!("prefixItems.{index}"), self.find_incompatibility(old, new))
                })
            }
            _ => Some("prefixItems".to_owned()),
        }
    }
}

fn within(name: &str, at: Option<String>) -> Option<String> {
    at.map(|at| format!("{name}.{at}"))
}

fn named(schema: &Map) -> Option<&Map> {
    schema.get("properties").and_then(Json::as_object)
}

fn accepts_anything(schema: &Json) -> bool {
    *schema == ANY_SCHEMA || schema.as_object().is_some_and(Map::is_empty)
}

/// The values of a list, or a single value.
fn listed(value: &Json) -> &[Json] {
    value.as_array().unwrap_or(std::slice::from_ref(value))
}

fn at_most(one: &Json, other: &Json) -> bool {
    one.as_number().zip(other.as_number()).is_some_and(|(one, other)| one <= other)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn exact(text: &str) -> Json {
        Json::parse(text).expect("JSON")
    }

    fn compared(old: &Value, new: &Value) -> Result<(), String> {
        check_compatibility(&exact(&old.to_string()), &exact(&new.to_string()))
    }

    #[track_caller]
    fn widens(old: &Value, new: &Value) {
        assert_eq!(compared(old, new), Ok(()), "{old} to {new}");
    }

    #[track_caller]
    fn narrows(old: &Value, new: &Value, at: &str) {
        assert_eq!(compared(old, new), Err(at.to_owned()), "{old} to {new}");
    }

    #[test]
    fn numbers_that_doubles_hold_alike_are_different() {
        for (old, new) in [
            (r#"{"const":100000000000000000001}"#, r#"{"const":100000000000000000002}"#),
            (r#"{"enum":[9007199254740993.5]}"#, r#"{"enum":[9007199254740994]}"#),
            (r#"{"maximum":9007199254740993}"#, r#"{"maximum":9007199254740992.5}"#),
            (r#"{"minimum":1e400}"#, r#"{"minimum":2e400}"#),
        ] {
            assert!(check_compatibility(&exact(old), &exact(new)).is_err(), "{old} to {new}");
            assert!(check_compatibility(&exact(old), &exact(old)).is_ok());
        }
        let (old, new) = (r#"{"maximum":100000000000000000001}"#, r#"{"maximum":100000000000000000002}"#);
        assert!(check_compatibility(&exact(old), &exact(new)).is_ok());
    }

    #[test]
    fn a_comparison_has_an_end() {
        let many = |number: usize| -> Value {
            let inner: Vec<Value> =
                (0..40).map(|index| json!({"minLength": index, "title": number})).collect();
            let outer: Vec<Value> =
                (0..40).map(|index| json!({"anyOf": inner, "maxLength": index})).collect();
            json!({"anyOf": outer, "minItems": number})
        };
        let begun = std::time::Instant::now();
        assert!(compared(&many(2), &many(1)).is_err());
        assert!(begun.elapsed() < std::time::Duration::from_secs(5));
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
                if compared(&old, &new).is_err() {
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
