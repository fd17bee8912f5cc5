//! Rows of any read model by their ids (GraphQL Global Object Identification Specification).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_graphql::dynamic::{
    Field, FieldValue, InputValue, Interface, InterfaceField, Object, ResolverContext, TypeRef,
};
use async_graphql::{Error, Name, PathSegment, Response, Value};
use queries::{ReadModel, Select};
use uuid::Uuid;

use super::errors::{failure, nullable};
use super::kinds::Types;
use super::reads::id_argument;
use super::rows::{Shown, visible};
use crate::auth::Caller;

/// The interface of all rows.
pub const NODE: &str = "Node";

/// Adds the interface and its root fields.
pub fn add(query: Object, types: &mut Types, read_models: &'static [ReadModel]) -> Object {
    let id = InterfaceField::new("id", TypeRef::named_nn("ID")).description("The id, unique in the tenant.");
    types.add(Interface::new(NODE).description("A row of any read model.").field(id));
    let node = Field::new("node", TypeRef::named(NODE), move |ctx| {
        nullable(ctx, move |ctx| async move {
            let Some(id) = id_argument(&ctx.args) else { return Ok(None) };
            Ok(found(read_models, ctx.data::<Caller>()?, &[id]).await?.remove(&id).map(Found::into_value))
        })
    });
    let nodes = Field::new("nodes", TypeRef::named_list_nn(NODE), move |ctx| {
        nullable(ctx, move |ctx| async move { Ok(Some(FieldValue::list(several(read_models, &ctx).await?))) })
    });
    let id = InputValue::new("id", TypeRef::named_nn("ID")).description("The id.");
    let ids = InputValue::new("ids", TypeRef::named_nn_list_nn("ID")).description("The ids, at most 100.");
    query
        .field(node.argument(id).description("A row of any read model; null if there is none, or none that the caller may see."))
        .field(nodes.argument(ids).description(
            "Rows of any read model, in the order of the ids; null where there is none, or none that the caller may see.",
        ))
}

/// A row with the name of its object.
#[derive(Clone)]
struct Found {
    object: &'static str,
    row: Shown,
}

impl Found {
    fn into_value(self) -> FieldValue<'static> {
        self.row.into_value().with_type(self.object)
    }
}

/// The rows that the caller may see.
async fn found(
    read_models: &'static [ReadModel],
    caller: &Caller,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Found>, Error> {
    let models = read_models.iter().map(|read_model| read_model.model);
    let selects: Vec<Select> = models.filter_map(|model| visible(Select::of(model), caller).ok()).collect();
    let rows = queries::by_ids(&caller.store, &selects, ids).await.map_err(|error| failure(&error))?;
    // What the rows of a read model are related to is read together.
    let mut of_models: Vec<(Vec<Uuid>, Vec<queries::Record>)> =
        selects.iter().map(|_| <_>::default()).collect();
    for (id, (index, row)) in rows {
        of_models[index].0.push(id);
        of_models[index].1.push(row);
    }
    let with_object = |(select, (ids, rows)): (&Select, (Vec<Uuid>, _))| {
        let object = select.model.object;
        ids.into_iter().zip(Shown::all(rows).map(move |row| Found { object, row }))
    };
    Ok(selects.iter().zip(of_models).flat_map(with_object).collect())
}

/// A value for each id. The list is never null, so an error makes its items null.
async fn several(
    read_models: &'static [ReadModel],
    ctx: &ResolverContext<'_>,
) -> Result<Vec<FieldValue<'static>>, Error> {
    let given = ctx.args.try_get("ids")?.list()?;
    // Nothing is under an id that is no UUID.
    let ids: Vec<Option<Uuid>> =
        given.iter().map(|id| id.string().ok().and_then(|id| Uuid::parse_str(id).ok())).collect();
    let mut distinct: Vec<Uuid> = ids.iter().flatten().copied().collect();
    distinct.sort_unstable();
    distinct.dedup();
    let found = match found(read_models, ctx.data::<Caller>()?, &distinct).await {
        Ok(found) => found,
        Err(error) => {
            for index in 0..ids.len() {
                let error = error.clone().into_server_error(ctx.ctx.item.pos);
                let mut error = ctx.ctx.set_error_path(error);
                error.path.push(PathSegment::Index(index));
                ctx.ctx.add_error(error);
            }
            HashMap::new()
        }
    };
    let (key, missing) = (&ctx.ctx.item.node.response_key().node, ctx.data::<MissingItems>()?);
    let value = |(index, id): (usize, Option<Uuid>)| {
        let row = id.and_then(|id| found.get(&id)).cloned();
        row.map_or_else(|| missing.add(key, index, read_models), Found::into_value)
    };
    Ok(ids.into_iter().enumerate().map(value).collect())
}

/// Items that must be null in a list of the root. The library has no null in a list of objects (version 7.2): it resolves
/// the fields of the item. So the items are made null in the answer.
#[derive(Clone, Default)]
pub struct MissingItems(Arc<Mutex<Vec<(Name, usize)>>>);

impl MissingItems {
    fn add(&self, key: &Name, index: usize, read_models: &'static [ReadModel]) -> FieldValue<'static> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((key.clone(), index));
        // The library wants a type, whichever.
        FieldValue::NULL.with_type(read_models.first().map_or(NODE, |read_model| read_model.model.object))
    }

    /// Makes the items null, and removes the errors of their fields.
    pub fn remove_from(&self, response: &mut Response) {
        let missing = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let Value::Object(data) = &mut response.data else { return };
        for (key, index) in missing {
            if let Some(Value::List(items)) = data.get_mut(&key)
                && let Some(item) = items.get_mut(index)
            {
                *item = Value::Null;
            }
            let of_item = [PathSegment::Field(key.to_string()), PathSegment::Index(index)];
            response
                .errors
                .retain(|error| error.path.len() == of_item.len() || !error.path.starts_with(&of_item));
        }
    }
}
