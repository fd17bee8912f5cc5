//! Runs a plan: a round trip for each root field, all at once, then one for each relation of their rows, level by level.

use access::policy::read_permission;
use async_graphql::Variables;
use futures::future::try_join_all;
use queries::{CursorScope, PagePlan, Parameter, Place, Rows, Select};
use schemas::engine::model::ID;
use uuid::Uuid;

use super::arguments::Values;
use super::related::{Level, Loaded, load};
use super::write::{self, Out};
use super::{
    Columns, ConnectionField, EdgeField, GivenUp, List, Object, ObjectField, OneRow, PageInfoField, Plan,
    PlanFailure, Related, Root,
};
use crate::auth::Caller;
use crate::graphql::engine::rows::visible;

/// Bytes that an answer has at first.
const ANSWER_BYTES_INITIAL: usize = 1024;

/// The body of the answer.
pub(super) async fn run(plan: &Plan, caller: &Caller, variables: &Variables) -> Result<Vec<u8>, PlanFailure> {
    let values = Values::new(&plan.variables, variables).ok_or(GivenUp)?;
    let answers = plan.roots.iter().map(|(_, root)| answer(root, caller, &values));
    let answers = try_join_all(answers).await?;
    let mut out = Vec::with_capacity(ANSWER_BYTES_INITIAL + answers.iter().map(Vec::len).sum::<usize>());
    out.extend_from_slice(b"{\"data\":{");
    for (index, ((key, _), answer)) in plan.roots.iter().zip(&answers).enumerate() {
        write::separator(&mut out, index);
        out.extend_from_slice(key);
        out.extend_from_slice(answer);
    }
    out.extend_from_slice(b"}}");
    Ok(out)
}

async fn answer(root: &Root, caller: &Caller, values: &Values<'_>) -> Result<Vec<u8>, PlanFailure> {
    match root {
        Root::One(one) => one_row(one, caller, values).await,
        Root::Many(list) => rows(list, caller, values).await,
        Root::TypeName => Ok(b"\"Query\"".to_vec()),
    }
}

async fn one_row(one: &OneRow, caller: &Caller, values: &Values<'_>) -> Result<Vec<u8>, PlanFailure> {
    // The past is for the executor.
    if values.argument(&one.arguments, "asOf").ok_or(GivenUp)? != async_graphql::Value::Null {
        return Err(PlanFailure::GivenUp);
    }
    let Some(id) = values.id(&one.arguments)? else { return Ok(b"null".to_vec()) };
    let select = Select::of(one.model).and(&ID, Parameter::Uuid(id));
    let rows = select.one_row(&caller.store, &one.object.columns.sql()).await?;
    // The owner is the first column, if the model has one.
    let owner =
        one.model.owner.and_then(|_| rows.field_of(0, 0)).and_then(|bytes| Uuid::from_slice(bytes).ok());
    let may_see = || caller.has_permission_for(&read_permission(one.model), owner.unwrap_or_default());
    let mut out = Vec::with_capacity(ANSWER_BYTES_INITIAL);
    if rows.is_empty() || !may_see() {
        out.extend_from_slice(b"null");
    } else {
        let relations = load(&one.object, Level { rows: &rows, shown: &[0], caller, values }).await?;
        object(&one.object, &rows, 0, &relations, &mut out).ok_or(GivenUp)?;
    }
    Ok(out)
}

/// A page with what its cursors need.
struct Shown<'a> {
    list: &'a List,
    rows: &'a Rows,
    /// The indexes of the page's rows, in the order of the list.
    order: &'a [usize],
    has_next: bool,
    has_previous: bool,
    total: u64,
    cursors: Cursors,
    /// What the relations of each node lead to.
    relations: &'a [Vec<Loaded<'a>>],
}

/// The cursors of a list.
struct Cursors {
    select: Select,
    scope: CursorScope,
    /// The indexes of the id and of the order's column among the selected columns.
    place: (usize, usize),
}

/// The columns of a list, with those that its cursors need, and the indexes of these.
pub(super) fn columns_of(list: &List, select: &Select) -> (Columns, (usize, usize)) {
    let mut columns = list.columns.clone();
    let place = (columns.index(&ID), columns.index(select.order));
    (columns, place)
}

async fn rows(list: &List, caller: &Caller, values: &Values<'_>) -> Result<Vec<u8>, PlanFailure> {
    let visible = visible(Select::of(list.model), caller).map_err(|_| GivenUp)?;
    let request = values.page(&list.arguments).ok_or(GivenUp)?;
    let requested = values.select(&list.arguments, list.model).ok_or(GivenUp)?;
    let select = Select { conditions: [requested.conditions, visible.conditions].concat(), ..requested };
    let (columns, place) = columns_of(list, &select);
    let of = (caller.store.id(), caller.store.store().key());
    let plan = PagePlan::new(&select, of, &request, &columns.sql(), list.counts).map_err(|_| GivenUp)?;
    let page = plan.read(&caller.store, list.model).await?;
    let level = Level { rows: &page.rows, shown: &page.order, caller, values };
    let relations = try_join_all(list.nodes.iter().map(|node| load(node, level))).await?;
    let shown = Shown {
        list,
        rows: &page.rows,
        order: &page.order,
        has_next: page.has_next,
        has_previous: page.has_previous,
        total: page.total.unwrap_or(0),
        cursors: Cursors { select, scope: plan.scope().clone(), place },
        relations: &relations,
    };
    let mut out = Vec::with_capacity(ANSWER_BYTES_INITIAL * (1 + page.order.len() / 4));
    connection(&shown, &mut out).ok_or(GivenUp)?;
    Ok(out)
}

fn connection(shown: &Shown<'_>, out: &mut Out) -> Option<()> {
    out.push(b'{');
    for (index, (key, field)) in shown.list.fields.iter().enumerate() {
        write::separator(out, index);
        out.extend_from_slice(key);
        match field {
            ConnectionField::Edges(fields) => items(shown, out, |row, out| edge(fields, shown, row, out))?,
            ConnectionField::Nodes(node) => {
                items(shown, out, |row, out| self::node(*node, shown, row, out))?;
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
                write::number(i64::from(i32::try_from(shown.total).unwrap_or(i32::MAX)), out);
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
    for (index, row) in shown.order.iter().enumerate() {
        write::separator(out, index);
        item(*row, out)?;
    }
    out.push(b']');
    Some(())
}

fn node(index: usize, shown: &Shown<'_>, row: usize, out: &mut Out) -> Option<()> {
    let relations = shown.relations.get(index).map_or(&[][..], Vec::as_slice);
    object(shown.list.nodes.get(index)?, shown.rows, row, relations, out)
}

fn edge(fields: &[(super::Key, EdgeField)], shown: &Shown<'_>, row: usize, out: &mut Out) -> Option<()> {
    out.push(b'{');
    for (index, (key, field)) in fields.iter().enumerate() {
        write::separator(out, index);
        out.extend_from_slice(key);
        match field {
            EdgeField::Cursor => cursor(shown, row, out)?,
            EdgeField::Node(node) => self::node(*node, shown, row, out)?,
            EdgeField::TypeName => type_name(&[shown.list.model.object, "Edge"], out),
        }
    }
    out.push(b'}');
    Some(())
}

fn cursor(shown: &Shown<'_>, row: usize, out: &mut Out) -> Option<()> {
    let Cursors { select, scope, place: (id, order) } = &shown.cursors;
    let key = Parameter::of_field(&select.order.kind, shown.rows.field_of(row, *order))?;
    let id = Uuid::from_slice(shown.rows.field_of(row, *id)?).ok()?;
    // Cursors are URL-safe base64.
    out.push(b'"');
    out.extend_from_slice(scope.encode(&Place { key, id }).as_bytes());
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
        PageInfoField::HasNextPage => write::boolean(shown.has_next, out),
        PageInfoField::HasPreviousPage => write::boolean(shown.has_previous, out),
        PageInfoField::StartCursor => end(shown.order.first(), out)?,
        PageInfoField::EndCursor => end(shown.order.last(), out)?,
        PageInfoField::TypeName => out.extend_from_slice(b"\"PageInfo\""),
    }
    Some(())
}

fn object(object: &Object, rows: &Rows, row: usize, relations: &[Loaded<'_>], out: &mut Out) -> Option<()> {
    out.push(b'{');
    for (index, (key, field)) in object.fields.iter().enumerate() {
        write::separator(out, index);
        out.extend_from_slice(key);
        match field {
            ObjectField::Column(at, column) => write::field(&column.kind, rows.field_of(row, *at), out)?,
            ObjectField::Relation(index) => related(relations.get(*index)?, rows, row, out)?,
            ObjectField::TypeName => type_name(&[object.type_name], out),
        }
    }
    out.push(b'}');
    Some(())
}

/// What a relation of a row leads to.
fn related(loaded: &Loaded<'_>, rows: &Rows, row: usize, out: &mut Out) -> Option<()> {
    let Some(key) = loaded.key_of(rows, row) else {
        out.extend_from_slice(b"null");
        return Some(());
    };
    let of = loaded.rows.of(key);
    match (&loaded.relation.shown, &loaded.list) {
        (Related::Many(list), Some(listed)) => {
            let select = loaded.relation.relationship.list_of(&listed.requested, &listed.visible, key);
            let scope = select.cursors(&listed.tenant);
            let order: Vec<usize> = of.page.collect();
            let shown = Shown {
                list,
                rows: &loaded.rows.rows,
                order: &order,
                has_next: of.has_next,
                has_previous: false,
                total: of.total,
                cursors: Cursors { select, scope, place: listed.place },
                relations: &loaded.relations,
            };
            connection(&shown, out)
        }
        (Related::One(one), _) if !of.page.is_empty() => {
            let relations = loaded.relations.first().map_or(&[][..], Vec::as_slice);
            object(one, &loaded.rows.rows, of.page.start, relations, out)
        }
        _ => {
            out.extend_from_slice(b"null");
            Some(())
        }
    }
}

fn type_name(parts: &[&str], out: &mut Out) {
    out.push(b'"');
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
    out.push(b'"');
}
