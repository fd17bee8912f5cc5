//! Which schemas are taken, what they find, and that checking has an end.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

fn text(schema: &Value) -> JsonText {
    schema.clone().into()
}

fn exact(text: &str) -> Json {
    Json::parse(text).expect("JSON")
}

fn compiled(schema: &str) -> CompiledSchema {
    compile(&JsonText::parse(schema).expect("JSON")).unwrap_or_else(|error| panic!("{schema}: {error:?}"))
}

fn is_valid(schema: &str, data: &str) -> bool {
    compiled(schema).check(&exact(data), &mut Budget::new()).is_empty()
}

#[test]
fn data_are_checked_and_every_error_has_its_place() {
    let schema = json!({
        "$schema": expansion::DRAFT,
        "$defs": {"points": {"type": "integer", "minimum": 0}},
        "type": "object",
        "properties": {"earned": {"$ref": "#/$defs/points"}, "code": {"pattern": "^[A-Z]+$"},
                       "tags": {"items": {"type": "string"}}},
        "required": ["earned"],
        "additionalProperties": false,
    });
    let compiled = compile(&text(&schema)).expect("a usable schema");
    let check = |data: Value| compiled.check(&exact(&data.to_string()), &mut Budget::new());
    assert!(check(json!({"earned": 5, "code": "AB"})).is_empty());
    let places = |data: Value| -> Vec<String> { check(data).into_iter().map(|error| error.at).collect() };
    assert_eq!(places(json!({"earned": -1})), ["earned"]);
    assert_eq!(places(json!({})), [""]);
    assert_eq!(places(json!({"earned": 1, "tags": ["a", 1]})), ["tags.1"]);
    assert_eq!(places(json!({"earned": 1, "more": 1})), [""]);
    assert_eq!(places(json!({"earned": "secret", "code": "x", "more": 1})).len(), 3);
    let told = format!("{:?}", check(json!({"earned": "canary"})));
    assert!(!told.contains("canary"), "{told}");
}

#[test]
fn what_reaches_beyond_the_schema_is_refused() {
    for refused in [
        json!({"$ref": "https://example.com/schema.json"}),
        json!({"$ref": "file:///etc/passwd"}),
        json!({"$ref": "#"}),
        json!({"$ref": "#/$defs/missing"}),
        json!({"$id": "https://example.com/x"}),
        json!({"properties": {"a": {"$dynamicRef": "#x"}}}),
        json!({"$schema": "http://json-schema.org/draft-07/schema#"}),
        json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"items": {"$ref": "#/$defs/a"}}}}),
        json!({"$defs": {"a": {"$ref": "#/$defs/a"}}}),
        json!({"unevaluatedProperties": false}),
        json!({"properties": {"a": {"$defs": {}}}}),
        json!(true),
        json!([]),
    ] {
        assert!(compile(&text(&refused)).is_err(), "{refused}");
    }
}

#[test]
fn malformed_schemas_are_refused() {
    for malformed in [
        json!({"type": "nothing"}),
        json!({"type": []}),
        json!({"type": ["string", "string"]}),
        json!({"properties": []}),
        json!({"properties": {"a": 1}}),
        json!({"required": "a"}),
        json!({"required": ["a", "a"]}),
        json!({"required": [1]}),
        json!({"dependentRequired": {"a": "b"}}),
        json!({"dependentSchemas": {"a": "b"}}),
        json!({"minimum": "1"}),
        json!({"multipleOf": 0}),
        json!({"multipleOf": -1}),
        json!({"minLength": -1}),
        json!({"maxItems": 1.5}),
        json!({"uniqueItems": "yes"}),
        json!({"allOf": []}),
        json!({"anyOf": {}}),
        json!({"not": 1}),
        json!({"enum": 1}),
        json!({"title": 1}),
        json!({"deprecated": "no"}),
        json!({"pattern": "("}),
        json!({"pattern": 1}),
        json!({"patternProperties": {"(": {}}}),
        // Look-around needs backtracking.
        json!({"pattern": "(?=a)b"}),
        json!({"pattern": r"(a)\1"}),
    ] {
        assert!(compile(&text(&malformed)).is_err(), "{malformed}");
        let error = compile(&text(&json!({"items": malformed}))).expect_err("refused inside as well");
        assert!(error.at.starts_with("items"), "{malformed}: {error:?}");
    }
}

#[test]
fn a_schema_that_grows_by_its_references_is_refused() {
    let mut definitions = Map::new();
    definitions.insert("a0".to_owned(), json!({"type": "string"}));
    for level in 1..30 {
        let inner = json!({"$ref": format!("#/$defs/a{}", level - 1)});
        definitions.insert(format!("a{level}"), json!({"allOf": [inner, inner]}));
    }
    assert!(expand(&text(&json!({"$defs": definitions, "$ref": "#/$defs/a29"}))).is_err());
    let mut deep = json!({});
    for _ in 0..40 {
        deep = json!({"items": deep});
    }
    assert!(expand(&text(&deep)).is_err());
    assert!(expand(&text(&json!({"description": "x".repeat(SCHEMA_BYTES_MAX)}))).is_err());
    let patterns: Vec<Value> = (0..60).map(|_| json!({"pattern": "a"})).collect();
    assert!(expand(&text(&json!({"anyOf": patterns}))).is_err());
}

#[test]
fn what_references_repeat_is_counted_each_time() {
    // 48 KB of schema, and 490 MiB once each reference holds its own copy.
    for large in [
        json!({"const": "x".repeat(30_000)}),
        json!({"enum": (0..4_000).collect::<Vec<_>>()}),
        json!({"required": (0..3_000).map(|number| format!("member-{number}")).collect::<Vec<_>>()}),
        json!({"x-note": "x".repeat(30_000)}),
        json!({"properties": {"x".repeat(30_000): true}}),
        json!({"dependentRequired": {"a": (0..3_000).map(|number| number.to_string()).collect::<Vec<_>>()}}),
    ] {
        let refer = |times: usize| {
            let references: Vec<Value> = (0..times).map(|_| json!({"$ref": "#/$defs/large"})).collect();
            text(&json!({"$defs": {"large": large.clone()}, "anyOf": references}))
        };
        let error = compile(&refer(700)).expect_err("too large");
        assert!(error.message.contains("once references are written out"), "{error:?}");
        let kept = compile(&refer(2)).expect("small enough");
        assert!(kept.bytes() < 32 * EXPANDED_BYTES_MAX);
    }
}

#[test]
fn a_compiled_schema_weighs_what_it_holds() {
    let weight = |schema: Value| compile(&text(&schema)).expect("usable").bytes();
    assert!(weight(json!({"const": "x".repeat(20_000)})) > weight(json!({"const": "x"})) + 20_000);
    assert!(weight(json!({"pattern": r"^\p{L}{1,4}$"})) > weight(json!({"pattern": "^x$"})) + 10_000);
}

#[test]
fn patterns_are_bounded_one_by_one_and_in_all() {
    for dear in [r"((a{1,100}){1,100}){1,100}", r"\p{L}{1000}", r"(\p{L}|\p{N}|x{500}){50}"] {
        for schema in [
            json!({"pattern": dear}),
            json!({"patternProperties": {dear: {}}}),
            json!({"propertyNames": {"pattern": dear}}),
        ] {
            let error = compile(&text(&schema)).expect_err("too large");
            assert!(error.message.contains("automat"), "{error:?}");
        }
    }
    let pattern = r"^([a-z]{1,400}x|y){1,5}$";
    let uses = |count: usize| {
        let references: Vec<Value> = (0..count).map(|_| json!({"$ref": "#/$defs/a"})).collect();
        text(&json!({"$defs": {"a": {"pattern": pattern}}, "allOf": references}))
    };
    assert!(compile(&uses(2)).is_ok());
    let error = compile(&uses(40)).expect_err("too many");
    assert!(error.message.contains("in all"), "{error:?}");
    let different: Vec<Value> =
        (0..40).map(|number| json!({"pattern": format!("{pattern}|{number}")})).collect();
    assert!(compile(&text(&json!({"allOf": different}))).is_err());
}

#[test]
fn patterns_are_those_of_ecma_script() {
    assert!(is_valid(r#"{"pattern":"^\\d+$"}"#, r#""123""#));
    assert!(!is_valid(r#"{"pattern":"^\\d+$"}"#, "\"\u{0661}\""), "digits are those of ASCII");
    assert!(is_valid(r#"{"pattern":"^\\w+$"}"#, r#""a_1""#));
    assert!(!is_valid(r#"{"pattern":"^\\w+$"}"#, "\"\u{e9}\""));
    assert!(is_valid(r#"{"pattern":"^\\p{L}+$"}"#, "\"\u{e9}\""));
    assert!(is_valid(r#"{"pattern":"b"}"#, r#""abc""#), "not anchored");
}

#[test]
fn checking_ends_when_the_budget_is_spent() {
    let long = format!("\"{}\"", "a".repeat(200_000));
    let many = format!("[{}]", vec![r#""a""#; 20_000].join(","));
    let wide: Vec<Value> = (0..500).map(|number| json!({"minLength": 1_000 + number})).collect();
    let dear = compiled(r#"{"pattern":"^([a-z]{1,400}x|y){1,5}$"}"#);
    let broad = compile(&text(&json!({"items": {"not": {"anyOf": wide}}}))).expect("usable");
    for (schema, data) in [(&dear, &long), (&broad, &many)] {
        let errors = schema.check(&exact(data), &mut Budget::new());
        assert_eq!(errors.into_iter().map(|error| error.code).collect::<Vec<_>>(), ["schema_work_exceeded"]);
    }
    // The budget is that of a request: many events together are bounded as one is.
    let (mut budget, short) = (Budget::new(), exact(&format!("\"{}\"", "a".repeat(4_000))));
    let spent = (0..100).find(|_| {
        let errors = dear.check(&short, &mut budget);
        errors.iter().any(|error| error.code == "schema_work_exceeded")
    });
    assert!(spent.is_some_and(|events| events > 0), "{spent:?}");
    // What records need is far from it.
    let ordinary = compiled(r#"{"items":{"pattern":"^[\\w.+-]+@[\\w-]+[.][\\w.-]+$"}}"#);
    let addresses = format!("[{}]", vec![r#""somebody.or.other@mail.example.com""#; 4_000].join(","));
    assert!(ordinary.check(&exact(&addresses), &mut Budget::new()).is_empty());
}

#[test]
fn many_different_items_are_compared_in_little_time() {
    let items = (0..40_000).map(|number| format!("\"item-{number:06}\"")).collect::<Vec<_>>().join(",");
    assert!(is_valid(r#"{"uniqueItems":true}"#, &format!("[{items}]")));
    assert!(!is_valid(r#"{"uniqueItems":true}"#, &format!("[{items},\"item-000007\"]")));
    let listed = (0..6_000).map(|number| number.to_string()).collect::<Vec<_>>().join(",");
    assert!(is_valid(&format!(r#"{{"items":{{"enum":[{listed}]}}}}"#), &format!("[{listed},{listed}]")));
}

#[test]
fn no_more_errors_are_made_than_are_told() {
    let items = vec!["1"; 50_000].join(",");
    let errors =
        compiled(r#"{"items":{"type":"string"}}"#).check(&exact(&format!("[{items}]")), &mut Budget::new());
    assert_eq!(errors.len(), 20);
}

#[test]
fn numbers_are_exact() {
    for (schema, data, valid) in [
        (r#"{"maximum":9007199254740993}"#, "9007199254740993", true),
        (r#"{"maximum":9007199254740993}"#, "9007199254740993.5", false),
        (r#"{"maximum":9007199254740993}"#, "9007199254740994", false),
        (r#"{"exclusiveMaximum":9007199254740993}"#, "9007199254740992.5", true),
        (r#"{"exclusiveMinimum":100000000000000000001}"#, "100000000000000000001", false),
        (r#"{"exclusiveMinimum":100000000000000000001}"#, "100000000000000000002", true),
        (r#"{"minimum":1e400}"#, "1e399", false),
        (r#"{"minimum":1e400}"#, "1e401", true),
        (r#"{"const":100000000000000000001}"#, "100000000000000000002", false),
        (r#"{"const":100000000000000000001}"#, "100000000000000000001.0", true),
        (r#"{"enum":[1e20,0.1]}"#, "100000000000000000000", true),
        (r#"{"enum":[1e20,0.1]}"#, "0.1000000000000000000001", false),
        (r#"{"uniqueItems":true}"#, "[100000000000000000001,100000000000000000002]", true),
        (r#"{"uniqueItems":true}"#, "[100000000000000000001,1.00000000000000000001e20]", false),
        (r#"{"uniqueItems":true}"#, r#"[{"a":1},{"a":1.0}]"#, false),
        (r#"{"multipleOf":0.01}"#, "19.99", true),
        (r#"{"multipleOf":0.01}"#, "19.999", false),
        (r#"{"multipleOf":3}"#, "100000000000000000002", true),
        (r#"{"multipleOf":3}"#, "100000000000000000001", false),
        (r#"{"multipleOf":7}"#, "1e400", false),
        (r#"{"type":"integer"}"#, "100000000000000000001", true),
        (r#"{"type":"integer"}"#, "9007199254740992.5", false),
        (r#"{"type":"integer"}"#, "1e400", true),
        (r#"{"minLength":1e400}"#, r#""a""#, false),
        (r#"{"maxLength":1e400}"#, r#""a""#, true),
    ] {
        assert_eq!(is_valid(schema, data), valid, "{schema} and {data}");
    }
    let beyond = JsonText::parse(r#"{"multipleOf":1.000000000000000000001}"#).expect("JSON");
    assert!(compile(&beyond).expect_err("refused").message.contains("significant digits"));
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        (-3i64..4).prop_map(|number| json!(number)),
        Just(json!(2.5)),
        Just(json!(1.0)),
        Just(json!("a")),
        Just(json!("bcd")),
        Just(json!("\u{e9}a")),
        Just(json!(null)),
        Just(json!(true)),
    ]
}

fn instance() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(2, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::btree_map("[abx]", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn keyword() -> impl Strategy<Value = Value> {
    let kind =
        prop::sample::select(vec!["integer", "number", "string", "object", "array", "null", "boolean"]);
    let count = |name: &'static str| (0u32..3).prop_map(move |number| json!({name: number}));
    let limit = |name: &'static str| {
        prop_oneof![Just(json!({name: 1})), Just(json!({name: 2.5})), Just(json!({name: -1}))]
    };
    let leaves = prop_oneof![
        Just(json!(true)),
        Just(json!(false)),
        kind.prop_map(|kind| json!({"type": kind})),
        prop::collection::vec(instance(), 0..3).prop_map(|values| json!({"enum": values})),
        instance().prop_map(|value| json!({"const": value})),
        prop_oneof![limit("minimum"), limit("maximum"), limit("exclusiveMinimum"), limit("exclusiveMaximum")],
        prop_oneof![count("minLength"), count("maxLength"), count("minItems"), count("maxItems")],
        prop_oneof![count("minProperties"), count("maxProperties")],
        prop::sample::select(vec![json!(2), json!(0.5), json!(3)]).prop_map(|of| json!({"multipleOf": of})),
        prop::sample::select(vec!["^a", "[bc]", "^.$"]).prop_map(|pattern| json!({"pattern": pattern})),
        Just(json!({"uniqueItems": true})),
        prop::collection::btree_set("[ab]", 0..3).prop_map(|names| json!({"required": names})),
        prop::collection::btree_set("[ab]", 0..3)
            .prop_map(|names| json!({"dependentRequired": {"x": names}})),
    ];
    leaves.prop_recursive(3, 20, 3, |inner| {
        let list = prop::collection::vec(inner.clone(), 1..3);
        let named = prop::collection::btree_map("[ab]", inner.clone(), 0..3);
        prop_oneof![
            list.clone().prop_map(|list| json!({"allOf": list})),
            list.clone().prop_map(|list| json!({"anyOf": list})),
            list.clone().prop_map(|list| json!({"oneOf": list})),
            inner.clone().prop_map(|inner| json!({"not": inner})),
            (list.clone(), inner.clone())
                .prop_map(|(list, items)| json!({"prefixItems": list, "items": items})),
            (inner.clone(), 0u32..3, 0u32..3)
                .prop_map(|(inner, least, most)| json!({"contains": inner, "minContains": least, "maxContains": most})),
            inner.clone().prop_map(|inner| json!({"contains": inner})),
            (named.clone(), inner.clone(), inner.clone()).prop_map(|(named, pattern, others)| {
                json!({"properties": named, "patternProperties": {"^x": pattern}, "additionalProperties": others})
            }),
            named.clone().prop_map(|named| json!({"properties": named, "additionalProperties": false})),
            named.prop_map(|named| json!({"dependentSchemas": named})),
            inner.clone().prop_map(|inner| json!({"propertyNames": inner})),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(test, then, other)| json!({"if": test, "then": then, "else": other})),
            inner.prop_map(|inner| json!({"$ref": "#/$defs/inner", "$defs": {"inner": inner}})),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn it_finds_what_another_validator_finds(schema in keyword(), instances in prop::collection::vec(instance(), 8)) {
        let hoisted = json!({"allOf": [schema]});
        let Ok(ours) = compile(&text(&hoisted)) else { return Ok(()) };
        let theirs = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .should_validate_formats(false)
            .build(&hoisted)
            .expect("what we take, others take");
        for instance in &instances {
            let errors = ours.check(&exact(&instance.to_string()), &mut Budget::new());
            prop_assert_eq!(errors.is_empty(), theirs.is_valid(instance), "{} and {}: {:?}", hoisted, instance, errors);
        }
    }
}
