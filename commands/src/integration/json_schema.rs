//! JSON Schemas that tenants hand in: what of JSON Schema 2020-12 they may use, and checking data against them. A schema
//! is a program that the product runs for somebody else, so its size, its references, its patterns and the work that it
//! makes are bounded before it is kept.

use std::sync::Arc;

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::{Map, Value};

/// The largest schema in bytes, as compact JSON.
pub const SCHEMA_BYTES_MAX: usize = 64 * 1024;
/// The most subschemas once references are written out.
const SUBSCHEMAS_MAX: usize = 2_000;
/// The most patterns, each of which becomes an automaton.
const PATTERNS_MAX: usize = 50;
const PATTERN_CHARS_MAX: usize = 500;
/// The largest automaton of a pattern in bytes.
const PATTERN_BYTES_MAX: usize = 256 * 1024;
const DEPTH_MAX: usize = 32;
/// Subschemas times values of one event: far above what records need, a fraction of a second of work.
const WORK_MAX: usize = 4_000_000;
/// The most errors that are told of one event.
const ERRORS_MAX: usize = 20;
const MESSAGE_CHARS_MAX: usize = 200;

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";
/// Keywords that say nothing about which data are valid. A format is one of them, as 2020-12 has it by default.
const ANNOTATIONS: [&str; 9] = [
    "title",
    "description",
    "$comment",
    "examples",
    "default",
    "deprecated",
    "readOnly",
    "writeOnly",
    "format",
];
/// Keywords that are not taken: names and references beyond the schema, and what depends on how others were evaluated.
const REFUSED: [&str; 10] = [
    "$id",
    "$anchor",
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
    "$vocabulary",
    "definitions",
    "unevaluatedProperties",
    "unevaluatedItems",
];
/// Keywords that hold one schema.
const ONE: [&str; 8] =
    ["not", "if", "then", "else", "items", "contains", "additionalProperties", "propertyNames"];
/// Keywords that hold a list of schemas.
const LIST: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
/// Keywords that hold schemas by name.
const NAMED: [&str; 3] = ["properties", "patternProperties", "dependentSchemas"];

/// Why a schema is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidSchema {
    /// Where, with dots; empty for the schema as a whole.
    pub at: String,
    /// For people.
    pub message: String,
}

/// A schema without references and annotations, and how much work it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Expanded {
    /// Equivalent to the schema that was given.
    pub schema: Value,
    /// Subschemas and listed values.
    pub cost: usize,
}

/// A schema ready to check data.
#[derive(Debug, Clone)]
pub struct Compiled {
    validator: Arc<Validator>,
    cost: usize,
}

/// What is wrong with one value of an event's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidData {
    /// The path to it, with dots; empty for the data as a whole.
    pub at: String,
    /// For people; never the value itself.
    pub message: String,
}

/// The schema without references and annotations, where it keeps to the limits.
pub fn expand(schema: &Value) -> Result<Expanded, InvalidSchema> {
    if schema.to_string().len() > SCHEMA_BYTES_MAX {
        return Err(invalid("", format!("a schema has at most {SCHEMA_BYTES_MAX} bytes")));
    }
    let Value::Object(root) = schema else { return Err(invalid("", "a schema is an object")) };
    if root
        .get("$schema")
        .is_some_and(|draft| draft.as_str().map(|draft| draft.trim_end_matches('#')) != Some(DRAFT))
    {
        return Err(invalid("$schema", format!("must be {DRAFT}")));
    }
    // The meta-schema first, so that every keyword has the shape that is taken for granted below.
    if let Err(error) = jsonschema::draft202012::meta::validate(schema) {
        let at = dotted(error.instance_path().as_str());
        let message = shortened(&error.to_string());
        return Err(InvalidSchema { at, message });
    }
    let definitions = root.get("$defs").and_then(Value::as_object);
    let mut expansion = Expansion { definitions, open: Vec::new(), subschemas: 0, listed: 0, patterns: 0 };
    for (name, definition) in definitions.into_iter().flatten() {
        expansion.open.push(name.clone());
        expansion.expand(definition, &format!("$defs.{name}"), 1)?;
        expansion.open.pop();
    }
    let schema = expansion.expand(schema, "", 0)?;
    Ok(Expanded { schema, cost: expansion.subschemas + expansion.listed })
}

/// The schema ready to check data, where it can be used at all.
pub fn compile(schema: &Value) -> Result<Compiled, InvalidSchema> {
    let Expanded { schema, cost } = expand(schema)?;
    // Patterns run in linear time: `regex` has no backtracking, and so no look-around and no back-references.
    let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX);
    let validator = jsonschema::options()
        .with_draft(Draft::Draft202012)
        .should_validate_formats(false)
        .with_pattern_options(patterns)
        .offline()
        .build(&schema)
        .map_err(|error| invalid(&dotted(error.instance_path().as_str()), shortened(&error.to_string())))?;
    Ok(Compiled { validator: Arc::new(validator), cost })
}

impl Compiled {
    /// What is wrong with an event's data; nothing where they are valid.
    pub fn check(&self, data: &Value) -> Vec<InvalidData> {
        if self.cost.saturating_mul(values(data)) > WORK_MAX {
            let message = "has too many values for a schema of this size".to_owned();
            return vec![InvalidData { at: String::new(), message }];
        }
        let errors = self.validator.iter_errors(data).take(ERRORS_MAX);
        errors
            .map(|error| InvalidData {
                at: dotted(error.instance_path().as_str()),
                message: shortened(&error.masked_with("the value").to_string()),
            })
            .collect()
    }
}

/// How many values there are in a value, itself included.
fn values(data: &Value) -> usize {
    match data {
        Value::Array(list) => 1 + list.iter().map(values).sum::<usize>(),
        Value::Object(map) => 1 + map.values().map(values).sum::<usize>(),
        _ => 1,
    }
}

struct Expansion<'a> {
    definitions: Option<&'a Map<String, Value>>,
    /// The definitions within which we are, so that a circle is noticed.
    open: Vec<String>,
    subschemas: usize,
    listed: usize,
    patterns: usize,
}

impl Expansion<'_> {
    fn expand(&mut self, schema: &Value, at: &str, depth: usize) -> Result<Value, InvalidSchema> {
        self.subschemas += 1;
        if self.subschemas > SUBSCHEMAS_MAX {
            let most =
                format!("a schema has at most {SUBSCHEMAS_MAX} subschemas once references are written out");
            return Err(invalid(at, most));
        }
        if depth > DEPTH_MAX {
            return Err(invalid(at, format!("a schema is at most {DEPTH_MAX} levels deep")));
        }
        let Value::Object(keywords) = schema else { return Ok(schema.clone()) };
        let mut expanded = Map::new();
        let mut referred = None;
        for (keyword, value) in keywords {
            let inner = path(at, keyword);
            match keyword.as_str() {
                "$ref" => referred = Some(self.refer(value, &inner, depth)?),
                "$defs" | "$schema" if depth == 0 && at.is_empty() => {}
                "$defs" | "$schema" => return Err(invalid(&inner, "stands at the root of a schema only")),
                name if ANNOTATIONS.contains(&name) => {}
                name if REFUSED.contains(&name) => return Err(invalid(&inner, "is not supported here")),
                name => {
                    expanded.insert(keyword.clone(), self.keyword(name, value, &inner, depth)?);
                }
            }
        }
        match referred {
            Some(target) if expanded.is_empty() => Ok(target),
            Some(target) => {
                let all = expanded.entry("allOf").or_insert_with(|| Value::Array(Vec::new()));
                all.as_array_mut().expect("the meta-schema has been checked").push(target);
                Ok(Value::Object(expanded))
            }
            None => Ok(Value::Object(expanded)),
        }
    }

    fn keyword(&mut self, name: &str, value: &Value, at: &str, depth: usize) -> Result<Value, InvalidSchema> {
        if ONE.contains(&name) {
            return self.expand(value, at, depth + 1);
        }
        match value {
            Value::Array(list) if LIST.contains(&name) => {
                let inner = list.iter().enumerate();
                let inner = inner
                    .map(|(index, schema)| self.expand(schema, &path(at, &index.to_string()), depth + 1));
                inner.collect::<Result<Vec<_>, _>>().map(Value::Array)
            }
            Value::Object(map) if NAMED.contains(&name) => {
                let mut inner = Map::new();
                for (key, schema) in map {
                    if name == "patternProperties" {
                        self.pattern(key, at)?;
                    }
                    inner.insert(key.clone(), self.expand(schema, &path(at, key), depth + 1)?);
                }
                Ok(Value::Object(inner))
            }
            Value::String(pattern) if name == "pattern" => self.pattern(pattern, at).map(|()| value.clone()),
            Value::Array(list) => {
                self.listed += list.len();
                Ok(value.clone())
            }
            _ => Ok(value.clone()),
        }
    }

    fn refer(&mut self, reference: &Value, at: &str, depth: usize) -> Result<Value, InvalidSchema> {
        let reference = reference.as_str().unwrap_or_default();
        let name = reference.strip_prefix("#/$defs/").filter(|name| !name.contains(['/', '~', '%']));
        let Some(name) = name else {
            return Err(invalid(at, "must look like #/$defs/<name>: references stay within the schema"));
        };
        let Some(target) = self.definitions.and_then(|definitions| definitions.get(name)) else {
            return Err(invalid(at, "refers to a definition that is not there"));
        };
        if self.open.iter().any(|open| open == name) {
            return Err(invalid(at, "refers in a circle"));
        }
        self.open.push(name.to_owned());
        let target = self.expand(target, at, depth + 1);
        self.open.pop();
        target
    }

    fn pattern(&mut self, pattern: &str, at: &str) -> Result<(), InvalidSchema> {
        self.patterns += 1;
        if self.patterns > PATTERNS_MAX || pattern.chars().count() > PATTERN_CHARS_MAX {
            let most =
                format!("a schema has at most {PATTERNS_MAX} patterns of {PATTERN_CHARS_MAX} characters");
            return Err(invalid(at, most));
        }
        Ok(())
    }
}

fn invalid(at: &str, message: impl Into<String>) -> InvalidSchema {
    InvalidSchema { at: at.to_owned(), message: message.into() }
}

fn path(at: &str, name: &str) -> String {
    let name: String = name.chars().take(64).collect();
    if at.is_empty() { name } else { format!("{at}.{name}") }
}

/// A JSON pointer with dots, as the paths of fields are written everywhere else.
fn dotted(pointer: &str) -> String {
    let path = pointer.trim_start_matches('/').replace('/', ".").replace("~1", "/").replace("~0", "~");
    path.chars().take(MESSAGE_CHARS_MAX).collect()
}

fn shortened(message: &str) -> String {
    message.chars().take(MESSAGE_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn data_are_checked_and_every_error_has_its_place() {
        let schema = json!({
            "$schema": DRAFT,
            "$defs": {"points": {"type": "integer", "minimum": 0}},
            "type": "object",
            "properties": {"earned": {"$ref": "#/$defs/points"}, "code": {"pattern": "^[A-Z]+$"}},
            "required": ["earned"],
            "additionalProperties": false,
        });
        let compiled = compile(&schema).expect("a usable schema");
        assert!(compiled.check(&json!({"earned": 5, "code": "AB"})).is_empty());
        let places = |data: Value| -> Vec<String> {
            compiled.check(&data).into_iter().map(|error| error.at).collect()
        };
        assert_eq!(places(json!({"earned": -1})), ["earned"]);
        assert_eq!(places(json!({})), [""]);
        assert_eq!(places(json!({"earned": "secret", "code": "x"})).len(), 2);
        let told = format!("{:?}", compiled.check(&json!({"earned": "canary"})));
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
            assert!(compile(&refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn malformed_schemas_are_refused() {
        for malformed in [
            json!({"type": "nothing"}),
            json!({"properties": []}),
            json!({"required": "a"}),
            json!({"minimum": "1"}),
            json!({"pattern": "("}),
            // Look-around needs backtracking.
            json!({"pattern": "(?=a)b"}),
        ] {
            assert!(compile(&malformed).is_err(), "{malformed}");
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
        assert!(expand(&json!({"$defs": definitions, "$ref": "#/$defs/a29"})).is_err());
        let mut deep = json!({});
        for _ in 0..40 {
            deep = json!({"items": deep});
        }
        assert!(expand(&deep).is_err());
        assert!(expand(&json!({"description": "x".repeat(SCHEMA_BYTES_MAX)})).is_err());
        let patterns: Vec<Value> = (0..60).map(|_| json!({"pattern": "a"})).collect();
        assert!(expand(&json!({"anyOf": patterns})).is_err());
        assert!(compile(&json!({"pattern": "((a{1,100}){1,100}){1,100}"})).is_err());
    }

    #[test]
    fn the_work_of_one_event_is_bounded() {
        let branches: Vec<Value> = (0..1_500).map(|number| json!({"const": number})).collect();
        let compiled = compile(&json!({"items": {"anyOf": branches}})).expect("a usable schema");
        assert!(compiled.check(&json!([1, 2, 3])).is_empty());
        let many: Vec<u32> = vec![1; 20_000];
        assert_eq!(compiled.check(&json!(many)).len(), 1);
    }
}
