//! Relations of a row: a field for one row, or a list. What the rows of a page are related to is read with one statement.

use std::fmt::Write;
use std::sync::Arc;

use async_graphql::Error;
use async_graphql::dynamic::{Field, FieldValue, Object, ResolverContext, TypeRef};
use queries::{ReadModel, Relationship, Select, relationships};
use schemas::engine::Model;

use super::errors::{failure, nullable};
use super::pages::{self, Connection, Node, argument, number_argument, page_size};
use super::reads::requested;
use super::rows::{Related, Shown, visible};
use crate::auth::Caller;

/// Adds the fields of a read model's relations to its object.
pub fn add(object: Object, read_models: &'static [ReadModel], model: &Model) -> Object {
    let all = relationships(read_models, model).into_iter().map(Arc::new);
    all.fold(object, |object, relationship| object.field(field(relationship)))
}

fn field(relationship: Arc<Relationship>) -> Field {
    if relationship.many { list(relationship) } else { one(relationship) }
}

fn one(relationship: Arc<Relationship>) -> Field {
    let Relationship { field, model, from, to, .. } = *relationship;
    let description = if to.name == "id" {
        format!("The {} with the id in `{}`", model.one, from.graphql_name)
    } else {
        format!("The {} with this id as its `{}`", model.one, to.graphql_name)
    };
    let resolver = Field::new(field, TypeRef::named(model.object), move |ctx| {
        let relationship = Arc::clone(&relationship);
        nullable(ctx, move |ctx| async move { row(&relationship, &ctx).await })
    });
    resolver.description(format!(
        "{description}. Null if there is none, or none that the caller may see. Null in an object of the past \
         (`asOf`, `state`), because relations are those of now."
    ))
}

async fn row(
    relationship: &Relationship,
    ctx: &ResolverContext<'_>,
) -> Result<Option<FieldValue<'static>>, Error> {
    let (shown, caller) = (ctx.parent_value.try_downcast_ref::<Shown>()?, ctx.data::<Caller>()?);
    let Some(key) = shown.id(relationship.from).filter(|_| !shown.is_past()) else { return Ok(None) };
    let Ok(visible) = visible(Select::of(relationship.model), caller) else { return Ok(None) };
    let read = read(relationship, caller, shown, &visible, (1, false));
    let related = shown.related(relationship.field.to_owned(), read).await?;
    let page = related.rows().of(key).page;
    Ok((!page.is_empty()).then(|| related.row(page.start).0.into_value()))
}

fn list(relationship: Arc<Relationship>) -> Field {
    let Relationship { field, model, to, .. } = *relationship;
    let ty = TypeRef::named(format!("{}Connection", model.object));
    let resolver = Field::new(field, ty, move |ctx| {
        let relationship = Arc::clone(&relationship);
        nullable(ctx, move |ctx| async move { page(&relationship, &ctx).await })
    });
    pages::with_list_arguments(
        resolver.argument(argument("first", "Int", "The number of rows, from the start.")),
        model,
    )
    .description(format!(
        "The first {} with this id as their `{to}`, at most 100; 20 if the client does not say. The next ones are in \
         `{}` with the filter `{to}` and the same order, after `endCursor`. Null in an object of the past (`asOf`, \
         `state`), because relations are those of now.",
        model.many,
        model.many,
        to = to.filter_name,
    ))
}

async fn page(
    relationship: &Relationship,
    ctx: &ResolverContext<'_>,
) -> Result<Option<FieldValue<'static>>, Error> {
    let (shown, caller) = (ctx.parent_value.try_downcast_ref::<Shown>()?, ctx.data::<Caller>()?);
    let Some(key) = shown.id(relationship.from).filter(|_| !shown.is_past()) else { return Ok(None) };
    let visible = visible(Select::of(relationship.model), caller)?;
    let first = page_size(number_argument(&ctx.args, "first")?)?;
    let requested = requested(relationship.model, &ctx.args)?;
    let counts = pages::selects_total(ctx);
    let mut name = format!("{} {first} {counts}", relationship.field);
    for argument in ["filter", "orderBy"] {
        let given = ctx.args.get(argument);
        write!(name, " {:?}", given.map(|given| given.as_value())).expect("writing to memory");
    }
    let select =
        Select { conditions: [&requested.conditions[..], &visible.conditions].concat(), ..requested.clone() };
    let read = read(relationship, caller, shown, &select, (first, counts));
    let related = shown.related(name, read).await?;
    let of = related.rows().of(key);
    let list = relationship.list_of(&requested, &visible, key);
    let cursors = list.cursors(&caller.store);
    let node = |index: usize| {
        let (row, record) = related.row(index);
        let cursor = list.place(record).map_or_else(String::new, |place| cursors.encode(&place));
        Node { cursor, value: Box::new(move || row.clone().into_value()) }
    };
    let nodes = of.page.map(node).collect();
    Ok(Some(Connection::new(nodes, of.has_next, false, Some(of.total)).into_value()))
}

/// What is behind the relation of all rows that were read together with this one.
async fn read(
    relationship: &Relationship,
    caller: &Caller,
    shown: &Shown,
    select: &Select,
    page: (usize, bool),
) -> Result<Related, Error> {
    let model = relationship.model;
    let columns: Vec<_> = model.all_columns().collect();
    let keys = shown.ids_of_all(relationship.from).into_iter();
    let read = relationship.read(&caller.store, select, &columns, keys, page).await;
    let rows = read.map_err(|error| failure(&error))?;
    let records = rows.rows.records(model).map_err(|error| failure(&error))?;
    Ok(Related::new(rows, records))
}
