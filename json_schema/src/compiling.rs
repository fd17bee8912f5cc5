//! Compiles the keywords of an expanded schema into checks.

use std::collections::BTreeMap;

use schemas::engine::Json;
use schemas::engine::exact_json::Number;

use super::error::{InvalidSchema, invalid, path};
use super::patterns::Patterns;

/// Approximate bytes of memory for each byte of an expanded schema.
const MEMORY_BYTES_PER_SOURCE_BYTE: usize = 16;
/// Maximum significant digits of a divisor, so that remainders are exact in 128 bits.
const DIVISOR_DIGITS_MAX: usize = 18;

const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

/// A compiled schema.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) root: Schema,
    pub(super) patterns: Patterns,
    /// Its approximate memory in bytes.
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) enum Schema {
    Nothing,
    All(Vec<Check>),
}

/// A set of types, one bit for each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Types(u8);

/// Minimum and maximum of a count, both included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) least: usize,
    pub(super) most: usize,
}

#[derive(Debug)]
pub(super) enum Check {
    Types(Types),
    /// In ascending order.
    Enum(Vec<Json>),
    Const(Json),
    Minimum {
        limit: Number,
        is_open: bool,
    },
    Maximum {
        limit: Number,
        is_open: bool,
    },
    MultipleOf(Number),
    Chars(Range),
    Pattern(usize),
    Length(Range),
    UniqueItems,
    Items {
        first: Vec<Schema>,
        others: Option<Box<Schema>>,
    },
    Contains {
        schema: Box<Schema>,
        range: Range,
    },
    Members(Range),
    Required(Vec<Box<str>>),
    DependentRequired(Vec<(Box<str>, Vec<Box<str>>)>),
    DependentSchemas(Vec<(Box<str>, Schema)>),
    Names(Box<Schema>),
    Properties {
        named: BTreeMap<Box<str>, Schema>,
        patterned: Vec<(usize, Schema)>,
        others: Option<Box<Schema>>,
    },
    AllOf(Vec<Schema>),
    AnyOf(Vec<Schema>),
    OneOf(Vec<Schema>),
    Not(Box<Schema>),
    If {
        test: Box<Schema>,
        then: Option<Box<Schema>>,
        otherwise: Option<Box<Schema>>,
    },
}

pub(super) fn program(expanded: Json) -> Result<Program, InvalidSchema> {
    let bytes = expanded.size() * MEMORY_BYTES_PER_SOURCE_BYTE;
    let mut compiler = Compiler { patterns: Patterns::default() };
    let root = compiler.schema(expanded, "")?;
    let bytes = bytes + compiler.patterns.bytes();
    Ok(Program { root, patterns: compiler.patterns, bytes })
}

struct Compiler {
    patterns: Patterns,
}

/// The keywords of a schema that are not compiled yet.
struct Keywords<'a> {
    rest: BTreeMap<Box<str>, Json>,
    at: &'a str,
}

impl Keywords<'_> {
    fn take(&mut self, name: &str) -> Option<(Json, String)> {
        self.rest.remove(name).map(|value| (value, path(self.at, name)))
    }

    fn number(&mut self, name: &str) -> Result<Option<Number>, InvalidSchema> {
        match self.take(name) {
            Some((Json::Number(number), _)) => Ok(Some(number)),
            Some((_, at)) => Err(invalid(&at, "must be a number")),
            None => Ok(None),
        }
    }

    fn count(&mut self, name: &str) -> Result<Option<usize>, InvalidSchema> {
        let Some((value, at)) = self.take(name) else { return Ok(None) };
        let count = value.as_number().and_then(Number::to_count);
        count.map(Some).ok_or_else(|| invalid(&at, "must be a whole number that is not negative"))
    }

    fn range(&mut self, least: &str, most: &str) -> Result<Option<Range>, InvalidSchema> {
        let (least, most) = (self.count(least)?, self.count(most)?);
        let range = Range { least: least.unwrap_or(0), most: most.unwrap_or(usize::MAX) };
        Ok((least.is_some() || most.is_some()).then_some(range))
    }

    fn flag(&mut self, name: &str) -> Result<bool, InvalidSchema> {
        match self.take(name) {
            Some((Json::Bool(flag), _)) => Ok(flag),
            Some((_, at)) => Err(invalid(&at, "must be true or false")),
            None => Ok(false),
        }
    }
}

impl Compiler {
    fn schema(&mut self, schema: Json, at: &str) -> Result<Schema, InvalidSchema> {
        let keywords = match schema {
            Json::Bool(true) => return Ok(Schema::All(Vec::new())),
            Json::Bool(false) => return Ok(Schema::Nothing),
            Json::Object(keywords) => keywords,
            _ => return Err(invalid(at, "must be a schema")),
        };
        let mut keywords = Keywords { rest: keywords, at };
        let mut checks = Vec::new();
        self.values(&mut keywords, &mut checks)?;
        self.arrays(&mut keywords, &mut checks)?;
        self.objects(&mut keywords, &mut checks)?;
        self.combinations(&mut keywords, &mut checks)?;
        // Unknown keywords are annotations.
        Ok(Schema::All(checks))
    }

    fn values(&mut self, keywords: &mut Keywords<'_>, checks: &mut Vec<Check>) -> Result<(), InvalidSchema> {
        if let Some((value, at)) = keywords.take("type") {
            checks.push(Check::Types(Types::parse(value, &at)?));
        }
        if let Some((value, at)) = keywords.take("enum") {
            let Json::Array(mut values) = value else { return Err(invalid(&at, "must be a list")) };
            values.sort_unstable();
            values.dedup();
            checks.push(Check::Enum(values));
        }
        if let Some((value, _)) = keywords.take("const") {
            checks.push(Check::Const(value));
        }
        for (name, is_open) in [("minimum", false), ("exclusiveMinimum", true)] {
            checks.extend(keywords.number(name)?.map(|limit| Check::Minimum { limit, is_open }));
        }
        for (name, is_open) in [("maximum", false), ("exclusiveMaximum", true)] {
            checks.extend(keywords.number(name)?.map(|limit| Check::Maximum { limit, is_open }));
        }
        if let Some(divisor) = keywords.number("multipleOf")? {
            let at = path(keywords.at, "multipleOf");
            if divisor.is_zero() || divisor.is_negative() {
                return Err(invalid(&at, "must be above zero"));
            }
            if divisor.digits() > DIVISOR_DIGITS_MAX {
                return Err(invalid(&at, format!("has at most {DIVISOR_DIGITS_MAX} significant digits")));
            }
            checks.push(Check::MultipleOf(divisor));
        }
        checks.extend(keywords.range("minLength", "maxLength")?.map(Check::Chars));
        if let Some((value, at)) = keywords.take("pattern") {
            let pattern = value.as_str().ok_or_else(|| invalid(&at, "must be a regular expression"))?;
            checks.push(Check::Pattern(self.patterns.add(pattern, &at)?));
        }
        Ok(())
    }

    fn arrays(&mut self, keywords: &mut Keywords<'_>, checks: &mut Vec<Check>) -> Result<(), InvalidSchema> {
        checks.extend(keywords.range("minItems", "maxItems")?.map(Check::Length));
        if keywords.flag("uniqueItems")? {
            checks.push(Check::UniqueItems);
        }
        let first = self.list(keywords, "prefixItems")?.unwrap_or_default();
        let others = self.one(keywords, "items")?;
        if !first.is_empty() || others.is_some() {
            checks.push(Check::Items { first, others });
        }
        let schema = self.one(keywords, "contains")?;
        let (least, most) = (keywords.count("minContains")?, keywords.count("maxContains")?);
        if let Some(schema) = schema {
            let range = Range { least: least.unwrap_or(1), most: most.unwrap_or(usize::MAX) };
            checks.push(Check::Contains { schema, range });
        }
        Ok(())
    }

    fn objects(&mut self, keywords: &mut Keywords<'_>, checks: &mut Vec<Check>) -> Result<(), InvalidSchema> {
        checks.extend(keywords.range("minProperties", "maxProperties")?.map(Check::Members));
        if let Some((value, at)) = keywords.take("required") {
            checks.push(Check::Required(names(value, &at)?));
        }
        if let Some((value, at)) = keywords.take("dependentRequired") {
            let Json::Object(map) = value else {
                return Err(invalid(&at, "must hold lists of names by name"));
            };
            let dependent = map.into_iter().map(|(name, value)| {
                let needed = names(value, &path(&at, &name))?;
                Ok((name, needed))
            });
            checks.push(Check::DependentRequired(dependent.collect::<Result<_, _>>()?));
        }
        if let Some((value, at)) = keywords.take("dependentSchemas") {
            let dependent = self.named(value, &at)?;
            checks.push(Check::DependentSchemas(dependent.into_iter().collect()));
        }
        checks.extend(self.one(keywords, "propertyNames")?.map(Check::Names));
        let named = match keywords.take("properties") {
            Some((value, at)) => self.named(value, &at)?,
            None => BTreeMap::new(),
        };
        let mut patterned = Vec::new();
        if let Some((value, at)) = keywords.take("patternProperties") {
            let Json::Object(map) = value else { return Err(invalid(&at, "must hold schemas by name")) };
            for (pattern, schema) in map {
                let at = path(&at, &pattern);
                patterned.push((self.patterns.add(&pattern, &at)?, self.schema(schema, &at)?));
            }
        }
        let others = self.one(keywords, "additionalProperties")?;
        if !named.is_empty() || !patterned.is_empty() || others.is_some() {
            checks.push(Check::Properties { named, patterned, others });
        }
        Ok(())
    }

    fn combinations(
        &mut self,
        keywords: &mut Keywords<'_>,
        checks: &mut Vec<Check>,
    ) -> Result<(), InvalidSchema> {
        checks.extend(self.list(keywords, "allOf")?.map(Check::AllOf));
        checks.extend(self.list(keywords, "anyOf")?.map(Check::AnyOf));
        checks.extend(self.list(keywords, "oneOf")?.map(Check::OneOf));
        checks.extend(self.one(keywords, "not")?.map(Check::Not));
        let test = self.one(keywords, "if")?;
        let (then, otherwise) = (self.one(keywords, "then")?, self.one(keywords, "else")?);
        checks.extend(test.map(|test| Check::If { test, then, otherwise }));
        Ok(())
    }

    fn one(&mut self, keywords: &mut Keywords<'_>, name: &str) -> Result<Option<Box<Schema>>, InvalidSchema> {
        let Some((value, at)) = keywords.take(name) else { return Ok(None) };
        self.schema(value, &at).map(|schema| Some(Box::new(schema)))
    }

    fn list(
        &mut self,
        keywords: &mut Keywords<'_>,
        name: &str,
    ) -> Result<Option<Vec<Schema>>, InvalidSchema> {
        let Some((value, at)) = keywords.take(name) else { return Ok(None) };
        let Json::Array(list) = value else { return Err(invalid(&at, "must be a list of schemas")) };
        let inner = list.into_iter().enumerate();
        inner
            .map(|(index, schema)| self.schema(schema, &path(&at, &index.to_string())))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    fn named(&mut self, value: Json, at: &str) -> Result<BTreeMap<Box<str>, Schema>, InvalidSchema> {
        let Json::Object(map) = value else { return Err(invalid(at, "must hold schemas by name")) };
        let inner = map.into_iter().map(|(name, schema)| {
            let schema = self.schema(schema, &path(at, &name))?;
            Ok((name, schema))
        });
        inner.collect()
    }
}

fn names(value: Json, at: &str) -> Result<Vec<Box<str>>, InvalidSchema> {
    let wrong = || invalid(at, "must be a list of names, each once");
    let Json::Array(values) = value else { return Err(wrong()) };
    let listed = values.len();
    let name = |value| if let Json::String(name) = value { Some(name) } else { None };
    let mut names = values.into_iter().map(name).collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
    names.sort_unstable();
    names.dedup();
    if names.len() == listed { Ok(names) } else { Err(wrong()) }
}

impl Types {
    fn parse(value: Json, at: &str) -> Result<Self, InvalidSchema> {
        let listed = match value {
            Json::String(_) => vec![value],
            Json::Array(list) if !list.is_empty() => list,
            _ => return Err(invalid(at, "must be a type or a list of types")),
        };
        let mut types = 0;
        for name in &listed {
            let known = TYPES.iter().position(|known| name.as_str() == Some(known));
            let bit =
                1 << known.ok_or_else(|| invalid(at, format!("a type is one of {}", TYPES.join(", "))))?;
            if types & bit != 0 {
                return Err(invalid(at, "must list each type once"));
            }
            types |= bit;
        }
        Ok(Self(types))
    }

    pub(super) fn admit(self, data: &Json) -> bool {
        let kinds = match data {
            Json::Null => 0b1,
            Json::Bool(_) => 0b10,
            Json::Number(number) if number.is_integer() => 0b1100,
            Json::Number(_) => 0b1000,
            Json::String(_) => 0b1_0000,
            Json::Array(_) => 0b10_0000,
            Json::Object(_) => 0b100_0000,
        };
        self.0 & kinds != 0
    }

    /// The names of the types, for messages.
    pub(super) fn names(self) -> String {
        let listed = TYPES.iter().enumerate().filter(|(bit, _)| self.0 & (1 << bit) != 0);
        listed.map(|(_, name)| *name).collect::<Vec<_>>().join(" or ")
    }
}

impl Range {
    pub(super) fn contains(self, count: usize) -> bool {
        (self.least..=self.most).contains(&count)
    }
}
