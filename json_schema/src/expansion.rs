//! Resolves references and removes annotations, within limits.

use std::collections::BTreeMap;

use schemas::engine::{Json, JsonText};

use super::error::{InvalidSchema, invalid, path};
use super::limits::{
    DEPTH_MAX, EXPANDED_BYTES_MAX, PATTERN_CHARS_MAX, PATTERNS_MAX, SCHEMA_BYTES_MAX, SUBSCHEMAS_MAX,
};

pub(super) const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";
/// Keywords that do not affect validity, with the type of their values. `format` is one of them, as in 2020-12 by
/// default.
const ANNOTATION_KEYWORDS: [(&str, Kind); 12] = [
    ("title", Kind::Text),
    ("description", Kind::Text),
    ("$comment", Kind::Text),
    ("format", Kind::Text),
    ("contentEncoding", Kind::Text),
    ("contentMediaType", Kind::Text),
    ("deprecated", Kind::Flag),
    ("readOnly", Kind::Flag),
    ("writeOnly", Kind::Flag),
    ("examples", Kind::List),
    ("contentSchema", Kind::Schema),
    ("default", Kind::Any),
];
/// Unsupported keywords: names, references to other documents, and keywords that depend on the evaluation of others.
const UNSUPPORTED_KEYWORDS: [&str; 10] = [
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
/// Keywords with one schema as value.
const SUBSCHEMA_KEYWORDS: [&str; 8] =
    ["not", "if", "then", "else", "items", "contains", "additionalProperties", "propertyNames"];
/// Keywords with a list of schemas.
const SUBSCHEMA_LIST_KEYWORDS: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
/// Keywords with schemas by name.
const NAMED_SUBSCHEMA_KEYWORDS: [&str; 3] = ["properties", "patternProperties", "dependentSchemas"];

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Flag,
    List,
    Schema,
    Any,
}

impl Kind {
    fn admits(self, value: &Json) -> bool {
        matches!(
            (self, value),
            (Self::Any, _)
                | (Self::Text, Json::String(_))
                | (Self::Flag, Json::Bool(_))
                | (Self::List, Json::Array(_))
                | (Self::Schema, Json::Object(_) | Json::Bool(_))
        )
    }
}

/// An equivalent schema without references and annotations.
///
/// # Errors
/// [`InvalidSchema`] if the schema exceeds a limit or uses an unsupported keyword.
pub fn expand(schema: &JsonText) -> Result<Json, InvalidSchema> {
    if schema.as_str().len() > SCHEMA_BYTES_MAX {
        return Err(invalid("", format!("a schema has at most {SCHEMA_BYTES_MAX} bytes")));
    }
    let schema = schema.json();
    let Some(root) = schema.as_object() else { return Err(invalid("", "a schema is an object")) };
    if let Some(draft) = root.get("$schema")
        && draft.as_str().map(|draft| draft.trim_end_matches('#')) != Some(DRAFT)
    {
        return Err(invalid("$schema", format!("must be {DRAFT}")));
    }
    let definitions = match root.get("$defs") {
        Some(definitions) => {
            Some(definitions.as_object().ok_or_else(|| invalid("$defs", "must be an object"))?)
        }
        None => None,
    };
    let mut expansion = Expansion { definitions, open: Vec::new(), subschemas: 0, bytes: 0, patterns: 0 };
    for (name, definition) in definitions.into_iter().flatten() {
        expansion.open.push(name.to_string());
        expansion.expand(definition, &format!("$defs.{name}"), 1)?;
        expansion.open.pop();
    }
    expansion.expand(&schema, "", 0)
}

struct Expansion<'a> {
    definitions: Option<&'a BTreeMap<Box<str>, Json>>,
    /// The definitions that are being expanded, to detect a cycle.
    open: Vec<String>,
    subschemas: usize,
    bytes: usize,
    patterns: usize,
}

impl Expansion<'_> {
    fn expand(&mut self, schema: &Json, at: &str, depth: usize) -> Result<Json, InvalidSchema> {
        self.subschemas += 1;
        if self.subschemas > SUBSCHEMAS_MAX {
            let most =
                format!("a schema has at most {SUBSCHEMAS_MAX} subschemas once references are written out");
            return Err(invalid(at, most));
        }
        if depth > DEPTH_MAX {
            return Err(invalid(at, format!("a schema is at most {DEPTH_MAX} levels deep")));
        }
        let keywords = match schema {
            Json::Object(keywords) => keywords,
            Json::Bool(_) => return Ok(schema.clone()),
            _ => return Err(invalid(at, "must be a schema")),
        };
        let mut expanded = BTreeMap::new();
        let mut referred = None;
        for (keyword, value) in keywords {
            let inner = path(at, keyword);
            match &**keyword {
                "$ref" => referred = Some(self.resolve_reference(value, &inner, depth)?),
                "$defs" | "$schema" if depth == 0 && at.is_empty() => {}
                "$defs" | "$schema" => return Err(invalid(&inner, "stands at the root of a schema only")),
                name if UNSUPPORTED_KEYWORDS.contains(&name) => {
                    return Err(invalid(&inner, "is not supported here"));
                }
                name => match ANNOTATION_KEYWORDS.iter().find(|(annotation, _)| *annotation == name) {
                    Some((_, kind)) if kind.admits(value) => {}
                    Some(_) => {
                        return Err(invalid(&inner, "has a value of another type than this keyword takes"));
                    }
                    None => {
                        let value = self.keyword(name, value, &inner, depth)?;
                        expanded.insert(keyword.clone(), value);
                    }
                },
            }
        }
        match referred {
            Some(target) if expanded.is_empty() => Ok(target),
            Some(target) => {
                match expanded.entry("allOf".into()).or_insert_with(|| Json::Array(Vec::new())) {
                    Json::Array(all) => all.push(target),
                    _ => return Err(invalid(at, "allOf must be a list of schemas")),
                }
                Ok(Json::Object(expanded))
            }
            None => Ok(Json::Object(expanded)),
        }
    }

    fn keyword(&mut self, name: &str, value: &Json, at: &str, depth: usize) -> Result<Json, InvalidSchema> {
        self.count_size(name.len(), at)?;
        if SUBSCHEMA_KEYWORDS.contains(&name) {
            return self.expand(value, at, depth + 1);
        }
        if SUBSCHEMA_LIST_KEYWORDS.contains(&name) {
            let Some(list) = value.as_array().filter(|list| !list.is_empty()) else {
                return Err(invalid(at, "must be a list of schemas that is not empty"));
            };
            let inner = list.iter().enumerate();
            let inner =
                inner.map(|(index, schema)| self.expand(schema, &path(at, &index.to_string()), depth + 1));
            return inner.collect::<Result<Vec<_>, _>>().map(Json::Array);
        }
        if NAMED_SUBSCHEMA_KEYWORDS.contains(&name) {
            let Some(named) = value.as_object() else { return Err(invalid(at, "must hold schemas by name")) };
            let mut inner = BTreeMap::new();
            for (key, schema) in named {
                self.count_size(key.len(), at)?;
                if name == "patternProperties" {
                    self.pattern(key, at)?;
                }
                inner.insert(key.clone(), self.expand(schema, &path(at, key), depth + 1)?);
            }
            return Ok(Json::Object(inner));
        }
        if let (Json::String(pattern), "pattern") = (value, name) {
            self.pattern(pattern, at)?;
        }
        // The size is checked before the copy.
        self.count_size(value.size(), at)?;
        Ok(value.clone())
    }

    fn count_size(&mut self, bytes: usize, at: &str) -> Result<(), InvalidSchema> {
        self.bytes += 4 + bytes;
        if self.bytes > EXPANDED_BYTES_MAX {
            let most =
                format!("a schema has at most {EXPANDED_BYTES_MAX} bytes once references are written out");
            return Err(invalid(at, most));
        }
        Ok(())
    }

    fn resolve_reference(&mut self, reference: &Json, at: &str, depth: usize) -> Result<Json, InvalidSchema> {
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
