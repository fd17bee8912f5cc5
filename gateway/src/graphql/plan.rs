//! Compiled reads: a document that the library has validated becomes a plan once. A plan runs the statements of its root
//! fields and of their relations, level by level, and writes their rows as JSON, without the library's executor.
//!
//! - A plan is made only of a document that the executor has answered without an error.
//! - A plan gives up on whatever it does not know. The executor then answers, also with the errors.
//! - Permissions, filters, page rules and cursors are the functions that the executor's fields use.
//!
//! Both answer with the same bytes: `tests/gateway/plans.rs` compares them.

mod arguments;
mod compile;
mod related;
mod run;
mod write;

use std::sync::Arc;

use async_graphql::parser::types::{
    ExecutableDocument, OperationDefinition, SelectionSet, VariableDefinition,
};
use async_graphql::{Name, Positioned, Variables};
use async_graphql_value::Value;
use moka::sync::Cache;
use queries::{ReadModel, Relationship};
use schemas::engine::{Column, Model};

use super::engine::cost::Cost;
use store::StoreError;

use crate::auth::Caller;

/// Maximum bytes of the cache of plans.
const PLANS_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Approximate bytes of a plan for each byte of its document.
const PLAN_BYTES_PER_DOCUMENT_BYTE: usize = 12;

/// The plan of a document.
pub struct Plan {
    /// The names of the root fields.
    pub root_fields: Vec<String>,
    /// What it reads.
    pub cost: Arc<Cost>,
    variables: Vec<Positioned<VariableDefinition>>,
    roots: Vec<(Key, Root)>,
}

/// A key of the answer, as JSON with a colon: `"name":`.
type Key = Box<[u8]>;

/// A root field.
enum Root {
    One(OneRow),
    Many(List),
    TypeName,
}

/// The look-up of one row.
struct OneRow {
    model: &'static Model,
    arguments: Arguments,
    object: Object,
}

/// A list.
struct List {
    model: &'static Model,
    arguments: Arguments,
    fields: Vec<(Key, ConnectionField)>,
    /// The objects that it shows for each row.
    nodes: Vec<Object>,
    /// The columns that all nodes need.
    columns: Columns,
    counts: bool,
}

/// The arguments of a field, with their variables.
type Arguments = Vec<(Name, Value)>;

/// An object of a row.
struct Object {
    type_name: &'static str,
    fields: Vec<(Key, ObjectField)>,
    columns: Columns,
    relations: Vec<Relation>,
}

/// A relation of an object.
struct Relation {
    relationship: Relationship,
    /// The index of the key among the selected columns of the parent.
    from: usize,
    shown: Related,
}

enum Related {
    One(Object),
    Many(List),
}

enum ObjectField {
    /// The column at this index of the selected columns.
    Column(usize, &'static Column),
    /// The relation with this index.
    Relation(usize),
    TypeName,
}

enum ConnectionField {
    Edges(Vec<(Key, EdgeField)>),
    /// The node with this index.
    Nodes(usize),
    PageInfo(Vec<(Key, PageInfoField)>),
    Total,
    TypeName,
}

enum EdgeField {
    Cursor,
    /// The node with this index.
    Node(usize),
    TypeName,
}

#[derive(Clone, Copy)]
enum PageInfoField {
    HasNextPage,
    HasPreviousPage,
    StartCursor,
    EndCursor,
    TypeName,
}

/// The columns that a statement selects, each once.
#[derive(Clone, Default)]
struct Columns(Vec<&'static Column>);

impl Columns {
    /// The index of a column, which is added if it is new.
    fn index(&mut self, column: &'static Column) -> usize {
        if let Some(index) = self.0.iter().position(|known| known.name == column.name) {
            return index;
        }
        self.0.push(column);
        self.0.len() - 1
    }

    fn sql(&self) -> String {
        self.0.iter().map(|column| column.name).collect::<Vec<_>>().join(", ")
    }
}

/// Why a plan has no answer.
pub enum PlanFailure {
    /// It gives up: the executor must answer.
    GivenUp,
    /// The store cannot answer now. The executor would ask it again.
    Unavailable(StoreError),
}

impl From<StoreError> for PlanFailure {
    fn from(error: StoreError) -> Self {
        if error.is_unavailable() { Self::Unavailable(error) } else { Self::GivenUp }
    }
}

impl From<GivenUp> for PlanFailure {
    fn from(GivenUp: GivenUp) -> Self {
        Self::GivenUp
    }
}

/// The plan gives up: the executor must answer.
struct GivenUp;

/// The text of a document, and the name of its operation.
type DocumentKey = (String, Option<String>);

/// The plans of documents, by text and operation. `None` in it: the document has no plan.
#[derive(Clone)]
pub struct Plans {
    read_models: &'static [ReadModel],
    /// `None` if there never is a plan.
    cache: Option<Cache<DocumentKey, Option<Arc<Plan>>>>,
}

impl Plans {
    /// An empty cache. If it is not enabled, there never is a plan.
    pub fn new(read_models: &'static [ReadModel], enabled: bool) -> Self {
        let weigh = |(text, _): &DocumentKey, _: &Option<Arc<Plan>>| {
            u32::try_from(text.len() * PLAN_BYTES_PER_DOCUMENT_BYTE + 256).unwrap_or(u32::MAX)
        };
        let build = || Cache::builder().max_capacity(PLANS_BYTES_MAX).weigher(weigh).build();
        Self { read_models, cache: enabled.then(build) }
    }

    /// The plan of a document; `None` if it has none, or was not answered before.
    pub fn get(&self, text: &str, operation: Option<&str>) -> Option<Arc<Plan>> {
        let key = (text.to_owned(), operation.map(str::to_owned));
        let known = self.cache.as_ref()?.get(&key);
        let outcome = match &known {
            Some(Some(_)) => "planned",
            Some(None) => "unplannable",
            None => "new",
        };
        metrics::counter!("annals_graphql_plans_total", "outcome" => outcome).increment(1);
        known.flatten()
    }

    /// Keeps the plan of a document that the executor has answered without an error.
    pub fn learn(
        &self,
        text: &str,
        operation_name: Option<&str>,
        document: &ExecutableDocument,
        operation: &OperationDefinition,
        (root_fields, cost): (&[String], &Arc<Cost>),
    ) {
        let Some(cache) = &self.cache else { return };
        let key = (text.to_owned(), operation_name.map(str::to_owned));
        if !cache.contains_key(&key) {
            let plan = compile::plan(self.read_models, document, operation, (root_fields, cost));
            cache.insert(key, plan.map(Arc::new));
        }
    }
}

impl Plan {
    /// The body of the answer.
    ///
    /// # Errors
    /// [`PlanFailure`].
    pub async fn run(&self, caller: &Caller, variables: &Variables) -> Result<Vec<u8>, PlanFailure> {
        let done = run::run(self, caller, variables).await;
        if matches!(done, Err(PlanFailure::GivenUp)) {
            metrics::counter!("annals_graphql_plans_total", "outcome" => "given_up").increment(1);
        }
        done
    }
}

/// What a selection set selects under one key of the answer.
struct Selected<'a> {
    name: &'a str,
    arguments: &'a [(Positioned<Name>, Positioned<Value>)],
    /// The selection sets of all fields with this key.
    sets: Vec<&'a SelectionSet>,
}
