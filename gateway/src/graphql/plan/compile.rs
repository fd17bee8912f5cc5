//! From a document to a plan. Whatever it does not know makes it return `None`.

use std::sync::Arc;

use async_graphql::indexmap::IndexMap;
use async_graphql::parser::types::{
    ExecutableDocument, OperationDefinition, OperationType, Selection, SelectionSet,
};
use queries::{ReadModel, relationships};
use schemas::engine::{Kind, Model};

use super::{
    Arguments, Columns, ConnectionField, EdgeField, Key, List, Object, ObjectField, OneRow, PageInfoField,
    Plan, Related, Relation, Root, Selected,
};
use crate::graphql::engine::cost::Cost;

/// The plan of an operation.
pub(super) fn plan(
    read_models: &'static [ReadModel],
    document: &ExecutableDocument,
    operation: &OperationDefinition,
    (root_fields, cost): (&[String], &Arc<Cost>),
) -> Option<Plan> {
    if operation.ty != OperationType::Query || !operation.directives.is_empty() {
        return None;
    }
    let roots = collect(document, &[&operation.selection_set.node], "Query")?;
    let compiler = Compiler { document, read_models };
    let roots = roots.into_iter().map(|(key, selected)| Some((json_key(key), compiler.root(&selected)?)));
    Some(Plan {
        root_fields: root_fields.to_vec(),
        cost: Arc::clone(cost),
        variables: operation.variable_definitions.clone(),
        roots: roots.collect::<Option<_>>()?,
    })
}

/// The fields of selection sets by their keys (GraphQL specification, section 6.3.2, CollectFields).
fn collect<'a>(
    document: &'a ExecutableDocument,
    sets: &[&'a SelectionSet],
    type_name: &str,
) -> Option<IndexMap<&'a str, Selected<'a>>> {
    let mut fields = IndexMap::new();
    let mut visited = Vec::new();
    for set in sets {
        collect_into(document, set, type_name, &mut fields, &mut visited)?;
    }
    Some(fields)
}

fn collect_into<'a>(
    document: &'a ExecutableDocument,
    set: &'a SelectionSet,
    type_name: &str,
    fields: &mut IndexMap<&'a str, Selected<'a>>,
    visited: &mut Vec<&'a str>,
) -> Option<()> {
    for selection in &set.items {
        match &selection.node {
            Selection::Field(field) => {
                let field = &field.node;
                if !field.directives.is_empty() {
                    return None;
                }
                let selected = fields.entry(field.response_key().node.as_str()).or_insert_with(|| Selected {
                    name: field.name.node.as_str(),
                    arguments: &field.arguments,
                    sets: Vec::new(),
                });
                selected.sets.push(&field.selection_set.node);
            }
            Selection::InlineFragment(inline) => {
                let condition = inline.node.type_condition.as_ref();
                let fits = condition.is_none_or(|condition| condition.node.on.node.as_str() == type_name);
                if !inline.node.directives.is_empty() || !fits {
                    return None;
                }
                collect_into(document, &inline.node.selection_set.node, type_name, fields, visited)?;
            }
            Selection::FragmentSpread(spread) => {
                let name = spread.node.fragment_name.node.as_str();
                let fragment = &document.fragments.get(name)?.node;
                let fits = fragment.type_condition.node.on.node.as_str() == type_name;
                if !spread.node.directives.is_empty() || !fragment.directives.is_empty() || !fits {
                    return None;
                }
                if !visited.contains(&name) {
                    visited.push(name);
                    collect_into(document, &fragment.selection_set.node, type_name, fields, visited)?;
                }
            }
        }
    }
    Some(())
}

fn json_key(key: &str) -> Key {
    // Names of GraphQL need no escape.
    format!("\"{key}\":").into_bytes().into_boxed_slice()
}

fn arguments(selected: &Selected<'_>) -> Arguments {
    let given = selected.arguments.iter();
    given.map(|(name, value)| (name.node.clone(), value.node.clone())).collect()
}

struct Compiler<'a> {
    document: &'a ExecutableDocument,
    read_models: &'static [ReadModel],
}

impl Compiler<'_> {
    fn root(&self, selected: &Selected<'_>) -> Option<Root> {
        if selected.name == "__typename" {
            return Some(Root::TypeName);
        }
        let models = || self.read_models.iter().map(|read_model| read_model.model);
        if let Some(model) = models().find(|model| model.one == selected.name) {
            let mut columns = Columns::default();
            // The row is shown if its owner is the caller.
            if let Some(owner) = model.owner {
                columns.index(model.column(owner)?);
            }
            let object = self.object(model, &selected.sets, columns)?;
            return Some(Root::One(OneRow { model, arguments: arguments(selected), object }));
        }
        let model = models().find(|model| model.many == selected.name)?;
        self.list(model, selected).map(Root::Many)
    }

    fn object(&self, model: &'static Model, sets: &[&SelectionSet], mut columns: Columns) -> Option<Object> {
        let (mut fields, mut relations) = (Vec::new(), Vec::new());
        for (key, selected) in collect(self.document, sets, model.object)? {
            let named = |column: &&'static schemas::engine::Column| column.graphql_name == selected.name;
            let column = model.all_columns().filter(|column| column.visible).find(named);
            let field = match column {
                _ if selected.name == "__typename" => ObjectField::TypeName,
                // The fields of a value object have selections of their own.
                Some(column)
                    if matches!(
                        column.kind,
                        Kind::ValueObject(_) | Kind::List(Kind::ValueObject(_) | Kind::List(_))
                    ) =>
                {
                    return None;
                }
                Some(column) => ObjectField::Column(columns.index(column), column),
                None => {
                    relations.push(self.relation(model, &selected, &mut columns)?);
                    ObjectField::Relation(relations.len() - 1)
                }
            };
            fields.push((json_key(key), field));
        }
        Some(Object { type_name: model.object, fields, columns, relations })
    }

    fn relation(
        &self,
        model: &'static Model,
        selected: &Selected<'_>,
        columns: &mut Columns,
    ) -> Option<Relation> {
        let mut all = relationships(self.read_models, model).into_iter();
        let relationship = all.find(|relationship| relationship.field == selected.name)?;
        let shown = if relationship.many {
            Related::Many(self.list(relationship.model, selected)?)
        } else {
            Related::One(self.object(relationship.model, &selected.sets, Columns::default())?)
        };
        Some(Relation { from: columns.index(relationship.from), relationship, shown })
    }

    fn list(&self, model: &'static Model, selected: &Selected<'_>) -> Option<List> {
        let document = self.document;
        let (mut fields, mut nodes, mut counts) = (Vec::new(), Vec::<Object>::new(), false);
        let mut node = |sets: &[&SelectionSet]| {
            let columns = nodes.last().map(|node| node.columns.clone()).unwrap_or_default();
            nodes.push(self.object(model, sets, columns)?);
            Some(nodes.len() - 1)
        };
        for (key, selected) in collect(document, &selected.sets, &format!("{}Connection", model.object))? {
            let field = match selected.name {
                "edges" => {
                    let edges = collect(document, &selected.sets, &format!("{}Edge", model.object))?;
                    let edge = |(key, selected): (&str, Selected<'_>)| {
                        let field = match selected.name {
                            "cursor" => EdgeField::Cursor,
                            "node" => EdgeField::Node(node(&selected.sets)?),
                            "__typename" => EdgeField::TypeName,
                            _ => return None,
                        };
                        Some((json_key(key), field))
                    };
                    ConnectionField::Edges(edges.into_iter().map(edge).collect::<Option<_>>()?)
                }
                "nodes" => ConnectionField::Nodes(node(&selected.sets)?),
                "pageInfo" => {
                    let infos = collect(document, &selected.sets, "PageInfo")?;
                    let infos =
                        infos.into_iter().map(|(key, selected)| Some((json_key(key), page_info(&selected)?)));
                    ConnectionField::PageInfo(infos.collect::<Option<_>>()?)
                }
                "totalCount" => {
                    counts = true;
                    ConnectionField::Total
                }
                "__typename" => ConnectionField::TypeName,
                _ => return None,
            };
            fields.push((json_key(key), field));
        }
        // Each node adds its columns to those of the nodes before it.
        let columns = nodes.last().map(|node| node.columns.clone()).unwrap_or_default();
        Some(List { model, arguments: arguments(selected), fields, nodes, columns, counts })
    }
}

fn page_info(selected: &Selected<'_>) -> Option<PageInfoField> {
    Some(match selected.name {
        "hasNextPage" => PageInfoField::HasNextPage,
        "hasPreviousPage" => PageInfoField::HasPreviousPage,
        "startCursor" => PageInfoField::StartCursor,
        "endCursor" => PageInfoField::EndCursor,
        "__typename" => PageInfoField::TypeName,
        _ => return None,
    })
}
