//! Refuses costly documents before the GraphQL library sees them.
//!
//! The library's own checks expand every fragment spread anew and run after validation, so that a document of a
//! kilobyte can hold a thread for ever. Here every fragment is measured once, so that the work is linear in the text.

use std::collections::HashMap;

use async_graphql::Name;
use async_graphql::parser::parse_query;
use async_graphql::parser::types::{
    DocumentOperations, ExecutableDocument, Field, OperationDefinition, OperationType, Selection,
    SelectionSet,
};

use super::scan::scan;

/// How much a document may ask for.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say what is limited")]
pub struct Limits {
    pub bytes: usize,
    pub tokens: usize,
    pub nesting: usize,
    pub operations: usize,
    pub fragments: usize,
    pub variables: usize,
    pub directives: usize,
    pub root_fields: usize,
    pub depth: usize,
    pub introspection_depth: usize,
    pub introspection_lists: usize,
    pub aliases: usize,
    /// Fields and fragments after every spread is expanded.
    pub selections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 16 * 1024,
            tokens: 2_000,
            nesting: 32,
            operations: 5,
            fragments: 50,
            variables: 64,
            directives: 50,
            root_fields: 10,
            depth: 12,
            introspection_depth: 16,
            introspection_lists: 3,
            aliases: 30,
            selections: 5_000,
        }
    }
}

/// Why a document is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It asks for too much.
    #[error("the document has {actual} {what}; at most {limit} are allowed")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: usize,
        /// How much there is, at least.
        actual: usize,
    },
    /// It is no GraphQL, or a fragment spreads itself.
    #[error("{0}")]
    Malformed(String),
}

/// A document that passed, with what the executor wants to know of it.
#[derive(Debug)]
pub struct Checked {
    /// The parsed document.
    pub document: ExecutableDocument,
    /// What the operation that will run selects.
    pub selections: SelectionSet,
    /// The operation that will run.
    pub operation: OperationDefinition,
    /// Whether the operation that will run changes anything.
    pub is_mutation: bool,
    /// The names of the fields at the operation's root, fragments expanded.
    pub root_fields: Vec<String>,
}

/// Checks a document and picks the operation that will run.
///
/// # Errors
/// [`Refusal`] if the document asks for too much, or is no GraphQL.
pub fn check(text: &str, operation: Option<&str>, limits: &Limits) -> Result<Checked, Refusal> {
    within("bytes", text.len(), limits.bytes)?;
    let scanned = scan(text);
    within("tokens", scanned.tokens, limits.tokens)?;
    within("nested brackets", scanned.nesting, limits.nesting)?;

    let document = parse_query(text).map_err(|error| {
        let place = error.positions().next();
        Refusal::Malformed(place.map_or_else(
            || "the document is no GraphQL".to_owned(),
            |place| format!("the document is no GraphQL at line {}, column {}", place.line, place.column),
        ))
    })?;
    within("operations", document.operations.iter().count(), limits.operations)?;
    within("fragments", document.fragments.len(), limits.fragments)?;

    let mut walk = Walk { document: &document, measured: HashMap::new() };
    for (_, operation) in document.operations.iter() {
        within("variables", operation.node.variable_definitions.len(), limits.variables)?;
        let mut measure = walk.selection_set(&operation.node.selection_set.node)?;
        measure.directives += operation.node.directives.len();
        measure.within(limits)?;
        within("root fields", walk.root_fields(&operation.node, limits).len(), limits.root_fields)?;
    }
    // Validation also visits fragments that no operation uses.
    for (name, fragment) in &document.fragments {
        let mut measure = walk.fragment(name)?;
        // Levels of the schema's own types (`__Type`) are only ever levels of introspection.
        if fragment.node.type_condition.node.on.node.starts_with("__") {
            measure.introspection_depth = measure.depth.max(measure.introspection_depth);
            measure.depth = 0;
        }
        measure.within(limits)?;
    }

    let chosen = chosen(&document.operations, operation)?;
    let root_fields = walk.root_fields(chosen, limits);
    let is_mutation = chosen.ty == OperationType::Mutation;
    let (selections, operation) = (chosen.selection_set.node.clone(), chosen.clone());
    Ok(Checked { document, selections, operation, is_mutation, root_fields })
}

fn chosen<'a>(
    operations: &'a DocumentOperations,
    name: Option<&str>,
) -> Result<&'a OperationDefinition, Refusal> {
    let found = match (operations, name.filter(|name| !name.is_empty())) {
        (DocumentOperations::Single(operation), None) => Some(operation),
        (DocumentOperations::Multiple(named), None) if named.len() == 1 => named.values().next(),
        (DocumentOperations::Multiple(named), Some(name)) => named.get(name),
        _ => None,
    };
    found.map(|operation| &operation.node).ok_or_else(|| {
        Refusal::Malformed("the document has no such operation, or several and none is named".to_owned())
    })
}

fn within(what: &'static str, actual: usize, limit: usize) -> Result<(), Refusal> {
    if actual > limit { Err(Refusal::Limit { what, limit, actual }) } else { Ok(()) }
}

/// What a selection set asks for, all spreads expanded. Sums saturate: they may be astronomical.
#[derive(Debug, Clone, Copy, Default)]
struct Measure {
    selections: usize,
    aliases: usize,
    directives: usize,
    depth: usize,
    introspection_depth: usize,
    introspection_lists: usize,
}

impl Measure {
    fn add(&mut self, other: Self) {
        self.selections = self.selections.saturating_add(other.selections);
        self.aliases = self.aliases.saturating_add(other.aliases);
        self.directives = self.directives.saturating_add(other.directives);
        self.depth = self.depth.max(other.depth);
        self.introspection_depth = self.introspection_depth.max(other.introspection_depth);
        self.introspection_lists = self.introspection_lists.max(other.introspection_lists);
    }

    fn within(&self, limits: &Limits) -> Result<(), Refusal> {
        within("selections", self.selections, limits.selections)?;
        within("aliases", self.aliases, limits.aliases)?;
        within("directives", self.directives, limits.directives)?;
        within("levels", self.depth, limits.depth)?;
        within("levels of introspection", self.introspection_depth, limits.introspection_depth)?;
        within("nested lists of introspection", self.introspection_lists, limits.introspection_lists)
    }
}

struct Walk<'a> {
    document: &'a ExecutableDocument,
    /// `None` while the fragment is being measured: meeting it again is a cycle.
    measured: HashMap<&'a Name, Option<Measure>>,
}

impl<'a> Walk<'a> {
    fn selection_set(&mut self, set: &'a SelectionSet) -> Result<Measure, Refusal> {
        let mut sum = Measure::default();
        for selection in &set.items {
            let mut measure = match &selection.node {
                Selection::Field(field) => self.field(&field.node)?,
                Selection::FragmentSpread(spread) => self.fragment(&spread.node.fragment_name.node)?,
                Selection::InlineFragment(inline) => self.selection_set(&inline.node.selection_set.node)?,
            };
            measure.selections = measure.selections.saturating_add(1);
            measure.directives = measure.directives.saturating_add(selection.node.directives().len());
            sum.add(measure);
        }
        Ok(sum)
    }

    fn field(&mut self, field: &'a Field) -> Result<Measure, Refusal> {
        let mut measure = self.selection_set(&field.selection_set.node)?;
        measure.aliases = measure.aliases.saturating_add(usize::from(field.alias.is_some()));
        match field.name.node.as_str() {
            "__schema" | "__type" => {
                measure.introspection_depth = 1 + measure.depth.max(measure.introspection_depth);
                measure.depth = 0;
            }
            name => {
                measure.depth += 1;
                if measure.introspection_depth > 0 {
                    measure.introspection_depth += 1;
                }
                // The schema's own fields never nest as those of introspection do.
                let is_list = matches!(
                    name,
                    "types"
                        | "fields"
                        | "args"
                        | "inputFields"
                        | "enumValues"
                        | "possibleTypes"
                        | "interfaces"
                        | "directives"
                );
                measure.introspection_lists += usize::from(is_list);
            }
        }
        Ok(measure)
    }

    fn fragment(&mut self, name: &'a Name) -> Result<Measure, Refusal> {
        match self.measured.get(name) {
            Some(Some(measure)) => return Ok(*measure),
            Some(None) => return Err(Refusal::Malformed(format!("the fragment {name} spreads itself"))),
            None => {}
        }
        // An unknown fragment is for validation to report.
        let Some(fragment) = self.document.fragments.get(name) else { return Ok(Measure::default()) };
        self.measured.insert(name, None);
        let measure = self.selection_set(&fragment.node.selection_set.node)?;
        self.measured.insert(name, Some(measure));
        Ok(measure)
    }

    /// Only for operations whose measure is within the limits: this expands.
    fn root_fields(&self, operation: &'a OperationDefinition, limits: &Limits) -> Vec<String> {
        let mut names = Vec::new();
        let mut sets = vec![&operation.selection_set.node];
        while let Some(set) = sets.pop() {
            for selection in &set.items {
                match &selection.node {
                    Selection::Field(field) => names.push(field.node.name.node.to_string()),
                    Selection::InlineFragment(inline) => sets.push(&inline.node.selection_set.node),
                    Selection::FragmentSpread(spread) => {
                        let fragment = self.document.fragments.get(&spread.node.fragment_name.node);
                        sets.extend(fragment.map(|fragment| &fragment.node.selection_set.node));
                    }
                }
                if names.len() > limits.root_fields {
                    return names;
                }
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    fn refused(text: &str) -> Option<&'static str> {
        match check(text, None, &Limits::default()) {
            Ok(_) => None,
            Err(Refusal::Limit { what, .. }) => Some(what),
            Err(Refusal::Malformed(message)) => panic!("{message}"),
        }
    }

    fn bomb(levels: usize) -> String {
        let mut text = String::from("{ ...F0 }");
        for level in 0..levels {
            write!(text, " fragment F{level} on Query {{ ...F{next} ...F{next} }}", next = level + 1)
                .expect("writes to memory");
        }
        write!(text, " fragment F{levels} on Query {{ me {{ id }} }}").expect("writes to memory");
        text
    }

    #[test]
    fn a_fragment_bomb_is_refused_without_expanding_it() {
        // Were it expanded, this test would run for minutes.
        assert_eq!(refused(&bomb(31)), Some("selections"));
        let unused = bomb(31).replace("{ ...F0 }", "{ me { id } }");
        assert_eq!(refused(&unused), Some("selections"));
        assert_eq!(refused(&bomb(2)), None);
    }

    #[test]
    fn a_fragment_that_spreads_itself_is_malformed() {
        for text in [
            "{ ...A } fragment A on Query { ...A }",
            "{ ...A } fragment A on Query { ...B } fragment B on Query { me { ...A } }",
        ] {
            assert!(matches!(check(text, None, &Limits::default()), Err(Refusal::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn depth_breadth_and_size_are_limited() {
        let deep =
            |levels: usize| format!("{}a{}", "{ a ".repeat(levels), " }".repeat(levels)).replace("a }", "}");
        assert_eq!(refused(&deep(12)), None);
        assert_eq!(refused(&deep(13)), Some("levels"));
        assert_eq!(refused(&deep(40)), Some("nested brackets"));
        assert_eq!(refused(&"{".repeat(10_000)), Some("tokens"));
        assert_eq!(refused(&format!("{{ {} }}", "a ".repeat(1_900))), Some("root fields"));
        assert_eq!(refused(&format!("{{ me {{ {} }} }}", "id ".repeat(1_900))), None);
        assert_eq!(refused(&format!("{{ me {{ {} }} }}", "id ".repeat(2_000))), Some("tokens"));
        assert_eq!(refused(&format!("{{ a(b: \"{}\") }}", "x".repeat(20_000))), Some("bytes"));
    }

    #[test]
    fn aliases_and_directives_are_limited_also_through_fragments() {
        let aliases = |count: usize| (0..count).fold(String::new(), |all, n| format!("{all} a{n}: id"));
        assert_eq!(refused(&format!("{{ me {{ {} }} }}", aliases(30))), None);
        assert_eq!(refused(&format!("{{ me {{ {} }} }}", aliases(31))), Some("aliases"));
        let twice = format!("{{ me {{ ...A a {{ ...A }} }} }} fragment A on User {{ {} }}", aliases(16));
        assert_eq!(refused(&twice), Some("aliases"));
        assert_eq!(refused(&format!("{{ me {} {{ id }} }}", "@a ".repeat(51))), Some("directives"));
    }

    #[test]
    fn the_standard_introspection_query_passes_and_an_amplified_one_does_not() {
        let standard = "query IntrospectionQuery { __schema { queryType { name } mutationType { name } \
            subscriptionType { name } types { ...FullType } directives { name description locations \
            args { ...InputValue } } } } \
            fragment FullType on __Type { kind name description fields(includeDeprecated: true) { name description \
            args { ...InputValue } type { ...TypeRef } isDeprecated deprecationReason } \
            inputFields { ...InputValue } interfaces { ...TypeRef } enumValues(includeDeprecated: true) { name \
            description isDeprecated deprecationReason } possibleTypes { ...TypeRef } } \
            fragment InputValue on __InputValue { name description type { ...TypeRef } defaultValue } \
            fragment TypeRef on __Type { kind name ofType { kind name ofType { kind name ofType { kind name \
            ofType { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name } \
            } } } } } } } }";
        assert_eq!(refused(standard), None);
        // Newer clients ask for one level more.
        let newer =
            standard.replacen("ofType { kind name ofType", "ofType { kind name ofType { kind name ofType", 1)
                + " }";
        assert_eq!(newer.matches("ofType").count(), 9);
        assert_eq!(refused(&newer), None);
        let deep = |kind: &str, levels: usize| {
            format!(
                "{{ me {{ id }} }} fragment F on {kind} {{ {}a{} }}",
                "a { ".repeat(levels),
                " }".repeat(levels)
            )
        };
        assert_eq!(refused(&deep("__Type", 15)), None);
        assert_eq!(refused(&deep("__Type", 16)), Some("levels of introspection"));
        assert_eq!(refused(&deep("User", 12)), Some("levels"));
        let amplified = "{ __schema { types { fields { type { fields { type { fields { name } } } } } } } }";
        assert_eq!(refused(amplified), Some("nested lists of introspection"));
    }

    #[test]
    fn the_operation_that_runs_is_picked_by_name() {
        let text =
            "query A { me { id } } mutation B { renameCustomer { outcome } } fragment F on Query { users }";
        let limits = Limits::default();
        let a = check(text, Some("A"), &limits).expect("passes");
        assert_eq!((a.is_mutation, a.root_fields), (false, vec!["me".to_owned()]));
        assert!(check(text, Some("B"), &limits).expect("passes").is_mutation);
        assert!(check(text, None, &limits).is_err());
        assert!(check(text, Some("C"), &limits).is_err());
        let spread =
            check("{ ...F ... { me { id } } } fragment F on Query { users }", None, &limits).expect("passes");
        assert_eq!(spread.root_fields.len(), 2);
    }
}
