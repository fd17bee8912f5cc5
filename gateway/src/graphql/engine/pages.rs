//! Relay connections over pages.

use std::sync::Arc;

use access::ErrorCode;
use async_graphql::dynamic::{
    Field, FieldFuture, FieldValue, InputValue, Object, ObjectAccessor, ResolverContext, TypeRef,
};
use async_graphql::{Error, Value};
use queries::{PageRequest, QueryError};
use schemas::engine::Model;

use super::errors::{GraphqlError, failure, internal};
use super::kinds::Types;

/// Rows of a page if the client does not say.
pub const PAGE_SIZE_DEFAULT: i64 = 20;
/// Maximum rows of a page.
pub const PAGE_SIZE_MAX: i64 = 100;

/// A connection: nodes with their cursors, and the place of the page in its list.
#[derive(Clone)]
pub struct Connection(Arc<Parts>);

struct Parts {
    nodes: Vec<Node>,
    has_next: bool,
    has_previous: bool,
    total: Option<u64>,
}

/// Makes the value of a node.
type NodeValue = Box<dyn Fn() -> FieldValue<'static> + Send + Sync>;

/// A node with its cursor.
pub struct Node {
    /// Its cursor.
    pub cursor: String,
    /// Its value.
    pub value: NodeValue,
}

struct Edge(Connection, usize);

impl Connection {
    /// A connection of these nodes.
    pub fn new(nodes: Vec<Node>, has_next: bool, has_previous: bool, total: Option<u64>) -> Self {
        Self(Arc::new(Parts { nodes, has_next, has_previous, total }))
    }

    /// The connection as a value of a field.
    pub fn into_value(self) -> FieldValue<'static> {
        FieldValue::owned_any(self)
    }
}

/// The size of a page that a client gives.
///
/// # Errors
/// `BAD_REQUEST` below 1, `LIMIT_EXCEEDED` above the maximum.
pub fn page_size(given: Option<i64>) -> Result<usize, Error> {
    match given.unwrap_or(PAGE_SIZE_DEFAULT) {
        ..1 => Err(ErrorCode::BadRequest.error("a page has at least one row")),
        size if size > PAGE_SIZE_MAX => {
            Err(ErrorCode::LimitExceeded.error(format!("a page has at most {PAGE_SIZE_MAX} rows")))
        }
        size => Ok(size as usize),
    }
}

/// A page of `first` rows after `after`, or of `last` rows before `before`; not a mixture.
///
/// # Errors
/// `BAD_REQUEST` for a mixture; the errors of [`page_size`].
pub fn page_request(
    first: Option<i64>,
    after: Option<String>,
    last: Option<i64>,
    before: Option<String>,
) -> Result<PageRequest, Error> {
    match (first.is_some() || after.is_some(), last.is_some() || before.is_some()) {
        (true, true) => {
            Err(ErrorCode::BadRequest.error("page either forward (first, after) or backward (last, before)"))
        }
        (_, false) => Ok(PageRequest::Forward { first: page_size(first)?, after }),
        (false, true) => Ok(PageRequest::Backward { last: page_size(last)?, before }),
    }
}

/// An argument of 32 bits, unless it is absent or null.
///
/// # Errors
/// The argument is no number.
pub fn number_argument(arguments: &ObjectAccessor<'_>, name: &str) -> Result<Option<i64>, Error> {
    arguments.get(name).filter(|value| !value.is_null()).map(|value| value.i64()).transpose()
}

/// A text argument, unless it is absent or null.
///
/// # Errors
/// The argument is no text.
pub fn text_argument(arguments: &ObjectAccessor<'_>, name: &str) -> Result<Option<String>, Error> {
    let given = arguments.get(name).filter(|value| !value.is_null());
    given.map(|value| value.string().map(str::to_owned)).transpose()
}

/// The page that the arguments request.
///
/// # Errors
/// The errors of [`page_request`].
pub fn requested_page(arguments: &ObjectAccessor<'_>) -> Result<PageRequest, Error> {
    page_request(
        number_argument(arguments, "first")?,
        text_argument(arguments, "after")?,
        number_argument(arguments, "last")?,
        text_argument(arguments, "before")?,
    )
}

/// Whether the client selects the number of all rows.
pub fn selects_total(ctx: &ResolverContext<'_>) -> bool {
    ctx.ctx.look_ahead().field("totalCount").exists()
}

/// An argument of a field.
pub fn argument(name: &str, ty: &str, description: &str) -> InputValue {
    InputValue::new(name, TypeRef::named(ty)).description(description)
}

/// Adds the arguments of a page to a field.
pub fn with_arguments(field: Field) -> Field {
    field
        .argument(argument("first", "Int", "The number of rows, from the start or after `after`."))
        .argument(argument("after", "String", "The cursor before the first row."))
        .argument(argument("last", "Int", "The number of rows, from the end or before `before`."))
        .argument(argument("before", "String", "The cursor after the last row."))
}

/// Adds the arguments for filter and order to a field.
pub fn with_list_arguments(field: Field, model: &Model) -> Field {
    let typed = |name: &str, suffix: &str, description: &str| {
        argument(name, &format!("{}{suffix}", model.object), description)
    };
    let order = model.column(model.order).map_or("id", |column| column.graphql_name);
    field.argument(typed("filter", "Filter", "Which rows; all of them if it is absent.")).argument(typed(
        "orderBy",
        "Order",
        &format!("The order; by `{order}` if it is absent."),
    ))
}

/// Adds the connection and the edge of an object.
pub fn add_connection(types: &mut Types, object: &str) {
    let edge = format!("{object}Edge");
    let edges = Field::new("edges", TypeRef::named_nn_list_nn(&edge), |ctx| {
        FieldFuture::new(async move {
            let connection = ctx.parent_value.try_downcast_ref::<Connection>()?;
            let edges = (0..connection.0.nodes.len())
                .map(|index| FieldValue::owned_any(Edge(connection.clone(), index)));
            Ok(Some(FieldValue::list(edges)))
        })
    });
    let nodes = Field::new("nodes", TypeRef::named_nn_list_nn(object), |ctx| {
        FieldFuture::new(async move {
            let connection = ctx.parent_value.try_downcast_ref::<Connection>()?;
            Ok(Some(FieldValue::list(connection.0.nodes.iter().map(|node| (node.value)()))))
        })
    });
    let page_info = Field::new("pageInfo", TypeRef::named_nn("PageInfo"), |ctx| {
        // The fields of the page read the connection itself.
        let connection = ctx.parent_value.downcast_ref::<Connection>();
        FieldFuture::Value(connection.cloned().map(FieldValue::owned_any))
    });
    let total = Field::new("totalCount", TypeRef::named_nn("Int"), |ctx| {
        let total = ctx.parent_value.downcast_ref::<Connection>().and_then(|connection| connection.0.total);
        let total = total.map_or(0, |total| i32::try_from(total).unwrap_or(i32::MAX));
        FieldFuture::from_value(Some(Value::from(total)))
    });
    types.add(
        Object::new(format!("{object}Connection"))
            .description("A page of a list (GraphQL Cursor Connections Specification).")
            .field(edges.description("The rows with their cursors."))
            .field(nodes.description("The rows without their cursors."))
            .field(page_info.description("The place of the page in the list."))
            .field(total.description("The number of all rows. It is counted only if it is selected.")),
    );
    let cursor = Field::new("cursor", TypeRef::named_nn("String"), |ctx| {
        let edge = ctx.parent_value.downcast_ref::<Edge>();
        FieldFuture::from_value(
            edge.map(|Edge(connection, index)| connection.0.nodes[*index].cursor.clone().into()),
        )
    });
    let node = Field::new("node", TypeRef::named_nn(object), |ctx| {
        let edge = ctx.parent_value.downcast_ref::<Edge>();
        FieldFuture::Value(edge.map(|Edge(connection, index)| (connection.0.nodes[*index].value)()))
    });
    types.add(
        Object::new(edge)
            .description("A row with its place in the list.")
            .field(cursor.description("Its place, for `after` or `before` with the same filter and order."))
            .field(node.description("The row.")),
    );
}

/// Adds the type of a page's place in its list.
pub fn add_page_info(types: &mut Types) {
    let flag = |name: &str, description: &str, read: fn(&Parts) -> bool| {
        let field = Field::new(name, TypeRef::named_nn("Boolean"), move |ctx| {
            let connection = ctx.parent_value.downcast_ref::<Connection>();
            FieldFuture::from_value(connection.map(|connection| read(&connection.0).into()))
        });
        field.description(description)
    };
    let end = |name: &str, description: &str, read: fn(&[Node]) -> Option<&Node>| {
        let field = Field::new(name, TypeRef::named("String"), move |ctx| {
            let connection = ctx.parent_value.downcast_ref::<Connection>();
            let node = connection.and_then(|connection| read(&connection.0.nodes));
            FieldFuture::from_value(node.map(|node| node.cursor.clone().into()))
        });
        field.description(description)
    };
    types.add(
        Object::new("PageInfo")
            .description("The place of a page in its list.")
            .field(flag("hasPreviousPage", "Whether there are rows before the first one.", |parts| {
                parts.has_previous
            }))
            .field(flag("hasNextPage", "Whether there are rows after the last one.", |parts| parts.has_next))
            .field(end("startCursor", "The cursor of the first row.", <[_]>::first))
            .field(end("endCursor", "The cursor of the last row.", <[_]>::last)),
    );
}

/// A failed read, as clients may see it.
pub fn read_error(error: QueryError) -> Error {
    match error {
        QueryError::CursorInvalid => ErrorCode::CursorInvalid
            .error("the cursor does not belong to this list with this filter and order"),
        error @ (QueryError::VersionBeyond { .. } | QueryError::Filter(_)) => {
            ErrorCode::BadRequest.error(error.to_string())
        }
        QueryError::Store(error) => failure(&error),
        error @ QueryError::Fold(_) => internal(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(refused: Result<PageRequest, Error>) -> Option<Value> {
        refused.err().and_then(|error| error.extensions?.get("code").cloned())
    }

    #[test]
    fn a_page_has_twenty_rows_unless_the_client_says_otherwise() {
        assert_eq!(page_request(None, None, None, None).ok(), Some(PageRequest::first(20)));
        assert_eq!(page_request(Some(100), None, None, None).ok(), Some(PageRequest::first(100)));
        let cursor = Some("c".to_owned());
        let backward = PageRequest::Backward { last: 20, before: cursor.clone() };
        assert_eq!(page_request(None, None, None, cursor).ok(), Some(backward));
    }

    #[test]
    fn a_page_is_bounded_and_goes_one_way() {
        let cursor = || Some("c".to_owned());
        let limit = Some(Value::from("LIMIT_EXCEEDED"));
        assert_eq!(code(page_request(Some(101), None, None, None)), limit);
        assert_eq!(code(page_request(None, None, Some(i64::MAX), None)), limit);
        let bad = Some(Value::from("BAD_REQUEST"));
        assert_eq!(code(page_request(Some(0), None, None, None)), bad);
        assert_eq!(code(page_request(Some(-1), None, None, None)), bad);
        assert_eq!(code(page_request(Some(1), None, Some(1), None)), bad);
        assert_eq!(code(page_request(Some(1), None, None, cursor())), bad);
        assert_eq!(code(page_request(None, cursor(), None, cursor())), bad);
    }
}
