//! Runs a plan: a round trip for each root field, all at once.

use access::policy::read_permission;
use async_graphql::Variables;
use futures::future::try_join_all;
use queries::{CursorScope, PagePlan, PageRows, Parameter, Place, Rows, Select};
use schemas::engine::model::ID;
use uuid::Uuid;

use super::arguments::Values;
use super::write::{self, Out};
use super::{
    Columns, ConnectionField, EdgeField, GivenUp, List, Object, ObjectField, OneRow, PageInfoField, Plan,
    Root,
};
use crate::auth::Caller;
use crate::graphql::engine::rows::visible;

/// Bytes that an answer has at first.
const ANSWER_BYTES_INITIAL: usize = 1024;

/// The body of the answer; `None` if the plan gives up.
pub(super) async fn run(plan: &Plan, caller: &Caller, variables: &Variables) -> Option<Vec<u8>> {
    let values = Values::new(&plan.variables, variables)?;
    let answers =
        plan.roots.iter().map(|(_, root)| async { answer(root, caller, &values).await.ok_or(GivenUp) });
    let answers = try_join_all(answers).await.ok()?;
    let mut out = Vec::with_capacity(ANSWER_BYTES_INITIAL + answers.iter().map(Vec::len).sum::<usize>());
    out.extend_from_slice(b"{\"data\":{");
    for (index, ((key, _), answer)) in plan.roots.iter().zip(&answers).enumerate() {
        write::separator(&mut out, index);
        out.extend_from_slice(key);
        out.extend_from_slice(answer);
    }
    out.extend_from_slice(b"}}");
    Some(out)
}

async fn answer(root: &Root, caller: &Caller, values: &Values<'_>) -> Option<Vec<u8>> {
    match root {
        Root::One(one) => one_row(one, caller, values).await,
        Root::Many(list) => rows(list, caller, values).await,
        Root::TypeName => Some(b"\"Query\"".to_vec()),
    }
}

async fn one_row(one: &OneRow, caller: &Caller, values: &Values<'_>) -> Option<Vec<u8>> {
    // The past is for the executor.
    if values.argument(&one.arguments, "asOf")? != async_graphql::Value::Null {
        return None;
    }
    let Some(id) = values.id(&one.arguments).ok()? else { return Some(b"null".to_vec()) };
    let select = Select::of(one.model).and(&ID, Parameter::Uuid(id));
    let rows = select.one_row(&caller.store, &one.object.columns.sql()).await.ok()?;
    // The owner is the first column, if the model has one.
    let owner =
        one.model.owner.and_then(|_| rows.field_of(0, 0)).and_then(|bytes| Uuid::from_slice(bytes).ok());
    let may_see = || caller.has_permission_for(&read_permission(one.model), owner.unwrap_or_default());
    let mut out = Vec::with_capacity(ANSWER_BYTES_INITIAL);
    if rows.is_empty() || !may_see() {
        out.extend_from_slice(b"null");
    } else {
        object(&one.object, &rows, 0, &mut out)?;
    }
    Some(out)
}

/// A page with what its cursors need.
struct Shown<'a> {
    list: &'a List,
    select: Select,
    scope: CursorScope,
    page: PageRows,
    /// The indexes of the id and of the order's column among the selected columns.
    place: (usize, usize),
}

async fn rows(list: &List, caller: &Caller, values: &Values<'_>) -> Option<Vec<u8>> {
    let visible = visible(Select::of(list.model), caller).ok()?;
    let request = values.page(&list.arguments)?;
    let requested = values.select(&list.arguments, list.model)?;
    let select = Select { conditions: [requested.conditions, visible.conditions].concat(), ..requested };
    let mut columns: Columns = list.columns.clone();
    let place = (columns.index(&ID), columns.index(select.order));
    let of = (caller.store.id(), caller.store.store().key());
    let plan = PagePlan::new(&select, of, &request, &columns.sql(), list.counts).ok()?;
    let page = plan.read(&caller.store, list.model).await.ok()?;
    let scope = plan.scope().clone();
    let shown = Shown { list, select, scope, page, place };
    let mut out = Vec::with_capacity(ANSWER_BYTES_INITIAL * (1 + shown.page.order.len() / 4));
    connection(&shown, &mut out)?;
    Some(out)
}

fn connection(shown: &Shown<'_>, out: &mut Out) -> Option<()> {
    out.push(b'{');
    for (index, (key, field)) in shown.list.fields.iter().enumerate() {
        write::separator(out, index);
        out.extend_from_slice(key);
        match field {
            ConnectionField::Edges(fields) => items(shown, out, |row, out| edge(fields, shown, row, out))?,
            ConnectionField::Nodes(node) => {
                items(shown, out, |row, out| object(node, &shown.page.rows, row, out))?;
            }
            ConnectionField::PageInfo(fields) => {
                out.push(b'{');
                for (index, (key, field)) in fields.iter().enumerate() {
                    write::separator(out, index);
                    out.extend_from_slice(key);
                    page_info(*field, shown, out)?;
                }
                out.push(b'}');
            }
            ConnectionField::Total => {
                let total = shown.page.total.unwrap_or(0);
                write::number(i64::from(i32::try_from(total).unwrap_or(i32::MAX)), out);
            }
            ConnectionField::TypeName => type_name(&[shown.list.model.object, "Connection"], out),
        }
    }
    out.push(b'}');
    Some(())
}

/// The rows of the page as a list.
fn items(
    shown: &Shown<'_>,
    out: &mut Out,
    mut item: impl FnMut(usize, &mut Out) -> Option<()>,
) -> Option<()> {
    out.push(b'[');
    for (index, row) in shown.page.order.iter().enumerate() {
        write::separator(out, index);
        item(*row, out)?;
    }
    out.push(b']');
    Some(())
}

fn edge(fields: &[(super::Key, EdgeField)], shown: &Shown<'_>, row: usize, out: &mut Out) -> Option<()> {
    out.push(b'{');
    for (index, (key, field)) in fields.iter().enumerate() {
        write::separator(out, index);
        out.extend_from_slice(key);
        match field {
            EdgeField::Cursor => cursor(shown, row, out)?,
            EdgeField::Node(node) => object(node, &shown.page.rows, row, out)?,
            EdgeField::TypeName => type_name(&[shown.list.model.object, "Edge"], out),
        }
    }
    out.push(b'}');
    Some(())
}

fn cursor(shown: &Shown<'_>, row: usize, out: &mut Out) -> Option<()> {
    let (id, order) = shown.place;
    let key = Parameter::of_field(&shown.select.order.kind, shown.page.rows.field_of(row, order))?;
    let id = Uuid::from_slice(shown.page.rows.field_of(row, id)?).ok()?;
    // Cursors are URL-safe base64.
    out.push(b'"');
    out.extend_from_slice(shown.scope.encode(&Place { key, id }).as_bytes());
    out.push(b'"');
    Some(())
}

fn page_info(field: PageInfoField, shown: &Shown<'_>, out: &mut Out) -> Option<()> {
    let end = |row: Option<&usize>, out: &mut Out| {
        if let Some(row) = row {
            return cursor(shown, *row, out);
        }
        out.extend_from_slice(b"null");
        Some(())
    };
    match field {
        PageInfoField::HasNextPage => write::boolean(shown.page.has_next, out),
        PageInfoField::HasPreviousPage => write::boolean(shown.page.has_previous, out),
        PageInfoField::StartCursor => end(shown.page.order.first(), out)?,
        PageInfoField::EndCursor => end(shown.page.order.last(), out)?,
        PageInfoField::TypeName => out.extend_from_slice(b"\"PageInfo\""),
    }
    Some(())
}

fn object(object: &Object, rows: &Rows, row: usize, out: &mut Out) -> Option<()> {
    out.push(b'{');
    for (index, (key, field)) in object.fields.iter().enumerate() {
        write::separator(out, index);
        out.extend_from_slice(key);
        match field {
            ObjectField::Column(at, column) => write::field(&column.kind, rows.field_of(row, *at), out)?,
            ObjectField::TypeName => type_name(&[object.type_name], out),
        }
    }
    out.push(b'}');
    Some(())
}

fn type_name(parts: &[&str], out: &mut Out) {
    out.push(b'"');
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
    out.push(b'"');
}
