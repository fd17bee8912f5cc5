//! What an operation reads: which read models, and at most how many rows. The rows of a relation are counted for each
//! row of its parents.

use std::collections::{BTreeSet, HashMap};

use async_graphql::Variables;
use async_graphql::parser::types::{
    ExecutableDocument, Field, OperationDefinition, Selection, SelectionSet, VariableDefinition,
};
use async_graphql::{Name, Positioned};
use async_graphql_value::{ConstValue, Value};
use queries::{READ_MODELS, ReadModel, relationships};

use super::guard::Refusal;
use super::pages::{PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX};

/// Maximum rows that an operation may read. A larger one is refused before anything is read.
pub const OPERATION_ROWS_MAX: usize = 10_000;

/// The fields of the schema that read rows, by name. Fields of the same name in several types count as the costlier one.
pub struct ReadingFields {
    fields: HashMap<String, Reading>,
    read_models: &'static [ReadModel],
}

#[derive(Default)]
struct Reading {
    models: BTreeSet<&'static str>,
    is_page: bool,
}

/// What an operation reads.
#[derive(Debug, Default)]
pub struct Cost {
    /// The read models, by the names of their checkpoints.
    pub read_models: BTreeSet<&'static str>,
    pages: Vec<Page>,
    /// The numbers of ids that are looked up.
    ids: Vec<Size>,
}

/// The rows of a field, and what is read for each of them.
#[derive(Debug)]
struct Page {
    size: Size,
    inner: Vec<Page>,
}

#[derive(Debug, Clone)]
enum Size {
    Rows(usize),
    /// The value of a variable, or this number if it has none.
    Variable(Name, usize),
}

impl ReadingFields {
    /// The fields of these read models and of `me`.
    pub fn of(read_models: &'static [ReadModel]) -> Self {
        let mut fields = Self { fields: HashMap::new(), read_models };
        for model in read_models.iter().map(|read_model| read_model.model) {
            fields.add(model.one, model.name, false);
            fields.add(model.many, model.name, true);
            // A history is read from the log; waiting for the read model too is cheap and keeps the rule simple.
            fields.add(&format!("{}History", model.one), model.name, true);
            for relationship in relationships(read_models, model) {
                fields.add(relationship.field, relationship.model.name, relationship.many);
            }
        }
        fields.add("me", queries::CUSTOMERS, false);
        fields
    }

    fn add(&mut self, field: &str, model: &'static str, is_page: bool) {
        let reading = self.fields.entry(field.to_owned()).or_default();
        reading.models.insert(model);
        reading.is_page |= is_page;
    }

    /// What an operation reads. The guard has bounded the document with all fragments expanded.
    pub fn cost(&self, document: &ExecutableDocument, operation: &OperationDefinition) -> Cost {
        let mut cost = Cost::default();
        let walk = Walk { fields: self, document, variables: &operation.variable_definitions };
        let mut pages = Vec::new();
        walk.root(&operation.selection_set.node, &mut cost, &mut pages);
        cost.pages = pages;
        cost
    }
}

impl Default for ReadingFields {
    fn default() -> Self {
        Self::of(&READ_MODELS)
    }
}

struct Walk<'a> {
    fields: &'a ReadingFields,
    document: &'a ExecutableDocument,
    variables: &'a [Positioned<VariableDefinition>],
}

impl Walk<'_> {
    /// The root has fields of its own for rows of any read model.
    fn root(&self, set: &SelectionSet, cost: &mut Cost, pages: &mut Vec<Page>) {
        for selection in &set.items {
            match &selection.node {
                Selection::Field(field) if matches!(field.node.name.node.as_str(), "node" | "nodes") => {
                    cost.read_models.extend(self.fields.read_models.iter().map(|known| known.model.name));
                    let size = self.size(&field.node, &["ids"], 1);
                    cost.ids.push(size.clone());
                    let inner = self.pages(&field.node.selection_set.node, &mut cost.read_models);
                    pages.push(Page { size, inner });
                }
                Selection::Field(field) => self.field(&field.node, &mut cost.read_models, pages),
                Selection::InlineFragment(inline) => self.root(&inline.node.selection_set.node, cost, pages),
                Selection::FragmentSpread(spread) => {
                    if let Some(fragment) = self.document.fragments.get(&spread.node.fragment_name.node) {
                        self.root(&fragment.node.selection_set.node, cost, pages);
                    }
                }
            }
        }
    }

    fn pages(&self, set: &SelectionSet, models: &mut BTreeSet<&'static str>) -> Vec<Page> {
        let mut pages = Vec::new();
        for selection in &set.items {
            match &selection.node {
                Selection::Field(field) => self.field(&field.node, models, &mut pages),
                Selection::InlineFragment(inline) => {
                    pages.extend(self.pages(&inline.node.selection_set.node, models));
                }
                Selection::FragmentSpread(spread) => {
                    if let Some(fragment) = self.document.fragments.get(&spread.node.fragment_name.node) {
                        pages.extend(self.pages(&fragment.node.selection_set.node, models));
                    }
                }
            }
        }
        pages
    }

    fn field(&self, field: &Field, models: &mut BTreeSet<&'static str>, pages: &mut Vec<Page>) {
        let inner = self.pages(&field.selection_set.node, models);
        match self.fields.fields.get(field.name.node.as_str()) {
            Some(reading) => {
                models.extend(&reading.models);
                let size = if reading.is_page {
                    self.size(field, &["first", "last"], PAGE_SIZE_DEFAULT as usize)
                } else {
                    Size::Rows(1)
                };
                pages.push(Page { size, inner });
            }
            None => pages.extend(inner),
        }
    }

    fn size(&self, field: &Field, names: &[&str], if_absent: usize) -> Size {
        let given = field.arguments.iter().find(|(name, _)| names.contains(&name.node.as_str()));
        match given.map(|(_, value)| &value.node) {
            Some(Value::Variable(name)) => {
                let definition = self.variables.iter().find(|definition| definition.node.name.node == *name);
                let default = definition.and_then(|definition| definition.node.default_value());
                Size::Variable(name.clone(), default.map_or(if_absent, |default| rows(default, if_absent)))
            }
            // The items of a list may be variables.
            Some(Value::List(items)) => Size::Rows(items.len()),
            given => {
                let given = given.and_then(|value| value.clone().into_const());
                Size::Rows(given.map_or(if_absent, |given| rows(&given, if_absent)))
            }
        }
    }
}

/// The rows of a page of this size, or of a list of ids. Sizes that are refused later count as those at the bounds.
fn rows(size: &ConstValue, if_null: usize) -> usize {
    match size {
        ConstValue::Number(number) => {
            number.as_i64().unwrap_or(PAGE_SIZE_MAX).clamp(1, PAGE_SIZE_MAX) as usize
        }
        ConstValue::List(items) => items.len(),
        _ => if_null,
    }
}

impl Cost {
    /// Refuses an operation that reads too many rows, or looks up too many ids, with these variables.
    ///
    /// # Errors
    /// [`Refusal::Limit`] above [`OPERATION_ROWS_MAX`], and above [`PAGE_SIZE_MAX`] ids.
    pub fn check(&self, variables: &Variables) -> Result<(), Refusal> {
        let limit = PAGE_SIZE_MAX as usize;
        if let Some(actual) = self.ids.iter().map(|size| size.of(variables)).find(|ids| *ids > limit) {
            return Err(Refusal::Limit { what: "ids in one field", limit, actual });
        }
        match total(&self.pages, variables) {
            actual if actual > OPERATION_ROWS_MAX => {
                Err(Refusal::Limit { what: "rows to read", limit: OPERATION_ROWS_MAX, actual })
            }
            _ => Ok(()),
        }
    }
}

impl Size {
    fn of(&self, variables: &Variables) -> usize {
        match self {
            Self::Rows(rows) => *rows,
            Self::Variable(name, if_null) => {
                variables.get(name).map_or(*if_null, |given| rows(given, *if_null))
            }
        }
    }
}

fn total(pages: &[Page], variables: &Variables) -> usize {
    pages.iter().fold(0, |sum: usize, page| {
        let each = total(&page.inner, variables).saturating_add(1);
        sum.saturating_add(page.size.of(variables).saturating_mul(each))
    })
}

#[cfg(test)]
mod tests {
    use async_graphql::parser::parse_query;
    use serde_json::json;

    use super::*;

    fn read(text: &str, variables: serde_json::Value) -> (Vec<&'static str>, usize) {
        let document = parse_query(text).expect("a document");
        let operation = document.operations.iter().next().expect("an operation").1;
        let cost = ReadingFields::default().cost(&document, &operation.node);
        let rows = total(&cost.pages, &Variables::from_json(variables));
        (cost.read_models.into_iter().collect(), rows)
    }

    #[test]
    fn rows_of_relations_are_counted_for_each_parent() {
        let both = vec!["customers.v2", "users.v2"];
        let one = read("{ customers(first: 50) { nodes { user { name } } } }", json!({}));
        assert_eq!(one, (both.clone(), 100));
        let nested = "query ($n: Int = 7) { users(first: $n) { edges { node { ...F } } } } \
                      fragment F on User { customer { user { id } } }";
        assert_eq!(read(nested, json!({})), (both.clone(), 21));
        assert_eq!(read(nested, json!({"n": 100})), (both.clone(), 300));
        assert_eq!(read(nested, json!({"n": null})), (both, 21));
    }

    #[test]
    fn sizes_that_are_refused_later_count_as_those_at_the_bounds() {
        for (size, rows) in [("1000000000", 100), ("-1", 1), ("0", 1), ("\"x\"", 20), ("null", 20)] {
            assert_eq!(read(&format!("{{ users(last: {size}) {{ nodes {{ id }} }} }}"), json!({})).1, rows);
        }
    }

    #[test]
    fn every_query_but_introspection_names_its_read_models() {
        for field in ["me", "user", "users", "userHistory", "customer", "customers", "customerHistory"] {
            assert!(!read(&format!("{{ {field} {{ id }} }}"), json!({})).0.is_empty(), "{field}");
        }
        assert_eq!(read("{ __schema { types { name } } }", json!({})), (vec![], 0));
    }

    #[test]
    fn rows_of_any_read_model_are_as_many_as_the_ids() {
        let both = vec!["customers.v2", "users.v2"];
        let one = "query ($id: ID!) { node(id: $id) { id ... on User { customer { id } } } }";
        assert_eq!(read(one, json!({"id": "x"})), (both.clone(), 2));
        let several = "query ($ids: [ID!]!) { ... { nodes(ids: $ids) { id } } }";
        assert_eq!(read(several, json!({"ids": ["a", "b", "c"]})), (both.clone(), 3));
        assert_eq!(
            read("query ($id: ID!) { nodes(ids: [$id, \"b\"]) { id } }", json!({"id": "a"})),
            (both, 2)
        );
        let list = "{ customers(first: 3) { nodes { id } edges { node { id } } } }";
        assert_eq!(read(list, json!({})), (vec!["customers.v2"], 3));
        let ids =
            |count| Cost { ids: vec![Size::Rows(count)], ..Cost::default() }.check(&Variables::default());
        assert!(ids(100).is_ok() && ids(101).is_err());
    }

    #[test]
    fn an_operation_that_reads_too_many_rows_is_refused() {
        let page = |rows| Page { size: Size::Rows(rows), inner: Vec::new() };
        let outer = |rows| Page { size: Size::Rows(100), inner: vec![page(rows)] };
        let cost = |rows| Cost { pages: vec![outer(rows)], ..Cost::default() }.check(&Variables::default());
        assert_eq!(cost(99), Ok(()));
        assert_eq!(cost(100), Err(Refusal::Limit { what: "rows to read", limit: 10_000, actual: 10_100 }));
    }
}
