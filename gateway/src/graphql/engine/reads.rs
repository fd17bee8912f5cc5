//! The root fields of a read model: one row, a list, a history.

use async_graphql::Error;
use async_graphql::dynamic::{Field, InputValue, Object, ObjectAccessor, TypeRef};
use queries::{Page, ReadModel, Select};
use schemas::engine::{Input, Model};
use serde_json::Value as Json;
use uuid::Uuid;

use super::errors::nullable;
use super::kinds::Types;
use super::pages::{self, Connection, Node, argument, read_error};
use super::past;
use super::rows::{Shown, may_see, visible};
use crate::auth::Caller;

/// Adds them.
pub fn add(query: Object, types: &mut Types, read_model: &'static ReadModel) -> Object {
    past::add_entry(types, read_model.model);
    query.field(one(read_model)).field(list(read_model.model)).field(past::field(read_model))
}

/// The id that a client gives; `None` if it is no UUID, so that there is nothing with it.
pub fn id_argument(arguments: &ObjectAccessor<'_>) -> Option<Uuid> {
    Uuid::parse_str(arguments.get("id")?.string().ok()?).ok()
}

/// An argument as JSON.
///
/// # Errors
/// The value has no form in JSON.
pub fn json(value: &async_graphql::Value) -> Result<Json, Error> {
    value.clone().into_json().map_err(|error| Error::new(error.to_string()))
}

/// The rows that filter and order request.
///
/// # Errors
/// `BAD_REQUEST` for an invalid value of the filter.
pub fn requested(model: &'static Model, arguments: &ObjectAccessor<'_>) -> Result<Select, Error> {
    let filter = match arguments.get("filter").map(|filter| json(filter.as_value())).transpose()? {
        Some(Json::Object(filter)) => filter,
        _ => Input::new(),
    };
    let order = arguments.get("orderBy").filter(|order| !order.is_null());
    let order = order.map(|order| order.enum_name().map(str::to_owned)).transpose()?;
    let select = Select::of(model).filtered(&filter).map_err(read_error)?;
    Ok(match order {
        Some(order) => select.ordered(&order),
        None => select,
    })
}

/// A page as a connection.
fn connection(page: Page) -> Connection {
    let cursors: Vec<String> = page.rows.iter().map(|row| page.cursor(row)).collect();
    let (has_next, has_previous, total) = (page.has_next, page.has_previous, page.total);
    let node =
        |(cursor, row): (String, Shown)| Node { cursor, value: Box::new(move || row.clone().into_value()) };
    let nodes = cursors.into_iter().zip(Shown::all(page.rows)).map(node).collect();
    Connection::new(nodes, has_next, has_previous, total)
}

fn one(read_model: &'static ReadModel) -> Field {
    let model = read_model.model;
    let field = Field::new(model.one, TypeRef::named(model.object), move |ctx| {
        nullable(ctx, move |ctx| async move {
            let caller = ctx.data::<Caller>()?;
            let Some(id) = id_argument(&ctx.args) else { return Ok(None) };
            let as_of = ctx.args.get("asOf").filter(|as_of| !as_of.is_null());
            let show = if as_of.is_some() { Shown::past } else { Shown::value };
            let row = match as_of {
                Some(as_of) => {
                    let as_of = past::moment(&as_of.object()?, &caller.store).await?;
                    past::row_as_of(read_model, caller, id, as_of).await?
                }
                None => {
                    queries::get(&caller.store, model, id).await.map_err(|error| read_error(error.into()))?
                }
            };
            Ok(row.filter(|row| may_see(model, caller, row)).map(show))
        })
    });
    field
        .argument(InputValue::new("id", TypeRef::named_nn("ID")).description("The id."))
        .argument(argument("asOf", "AsOf", "A moment of the past; now if it is absent."))
        .description(format!("One {}; null if there is none, or none that the caller may see.", model.one))
}

fn list(model: &'static Model) -> Field {
    let ty = TypeRef::named(format!("{}Connection", model.object));
    let field = Field::new(model.many, ty, move |ctx| {
        nullable(ctx, move |ctx| async move {
            let caller = ctx.data::<Caller>()?;
            let select = visible(Select::of(model), caller)?;
            let request = pages::requested_page(&ctx.args)?;
            let requested = requested(model, &ctx.args)?;
            let select =
                Select { conditions: [requested.conditions, select.conditions].concat(), ..requested };
            let counts = pages::selects_total(&ctx);
            let page = select.page(&caller.store, &request, counts).await.map_err(read_error)?;
            Ok(Some(connection(page).into_value()))
        })
    });
    let scope = &model.visible_to;
    let visible_to = match model.owner {
        Some(_) => format!("`tenant_admin` and the scope `{scope}` see all of them, other users their own."),
        None => format!("Needs `tenant_admin` or the scope `{scope}`."),
    };
    pages::with_list_arguments(pages::with_arguments(field), model).description(format!(
        "A list of {} by pages of at most 100 rows; 20 if the client does not say. {visible_to}",
        model.many
    ))
}
