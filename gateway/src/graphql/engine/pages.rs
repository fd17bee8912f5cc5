//! Relay connections over keyset pages.

use access::ErrorCode;
use async_graphql::connection::PageInfo;
use async_graphql::{Context, Error, OutputType, SimpleObject};
use queries::{Page, PageRequest, QueryError};

use super::errors::{GraphqlError, failure, internal};
use super::past::Fact;
use crate::graphql::crm::customer::Customer;
use crate::graphql::identity::user::User;

/// Rows on a page when the client does not say.
const DEFAULT_PAGE: u32 = 20;
/// The most rows on a page.
pub const LARGEST_PAGE: u32 = 100;

/// A page of a list (GraphQL Cursor Connections).
#[derive(SimpleObject)]
#[graphql(concrete(name = "CustomerConnection", params("Edge<Customer>", Customer)))]
#[graphql(concrete(name = "UserConnection", params("Edge<User>", User)))]
#[graphql(concrete(name = "CustomerHistory", params("Edge<Fact<Customer>>", "Fact<Customer>")))]
#[graphql(concrete(name = "UserHistory", params("Edge<Fact<User>>", "Fact<User>")))]
pub struct EdgesAndNodes<E: OutputType, T: OutputType> {
    /// The rows with their cursors.
    edges: Vec<E>,
    /// The rows without their cursors.
    nodes: Vec<T>,
    /// Where the page stands in the list.
    page_info: PageInfo,
    /// How many rows the filter finds in all. Counted only when it is asked for.
    total_count: i32,
}

/// A connection of rows of one type.
pub type Connection<T> = EdgesAndNodes<Edge<T>, T>;

/// A row and its place in the list.
#[derive(SimpleObject)]
#[graphql(concrete(name = "CustomerEdge", params(Customer)))]
#[graphql(concrete(name = "UserEdge", params(User)))]
#[graphql(concrete(name = "CustomerFactEdge", params("Fact<Customer>")))]
#[graphql(concrete(name = "UserFactEdge", params("Fact<User>")))]
pub struct Edge<T: OutputType> {
    /// Its place: give it as `after` or `before`, with the same filter and order.
    cursor: String,
    /// The row.
    node: T,
}

/// How many rows a page has.
pub struct PageSize(pub u32);

impl PageSize {
    /// The size that a client gives, or the usual one.
    pub fn read(given: Option<i32>) -> Result<Self, Error> {
        match given.map(u32::try_from) {
            None => Ok(Self(DEFAULT_PAGE)),
            Some(Err(_) | Ok(0)) => Err(ErrorCode::BadRequest.error("a page has at least one row")),
            Some(Ok(size)) if size > LARGEST_PAGE => {
                Err(ErrorCode::LimitExceeded.error(format!("a page has at most {LARGEST_PAGE} rows")))
            }
            Some(Ok(size)) => Ok(Self(size)),
        }
    }
}

/// A page of `first` rows behind `after`, or of `last` rows before `before`; not a mixture.
pub fn page_request(
    first: Option<i32>,
    after: Option<String>,
    last: Option<i32>,
    before: Option<String>,
) -> Result<PageRequest, Error> {
    let size = |given| PageSize::read(given).map(|size| size.0);
    match (first.is_some() || after.is_some(), last.is_some() || before.is_some()) {
        (true, true) => {
            Err(ErrorCode::BadRequest.error("page either forward (first, after) or backward (last, before)"))
        }
        (_, false) => Ok(PageRequest::Forward { first: size(first)?, after }),
        (false, true) => Ok(PageRequest::Backward { last: size(last)?, before }),
    }
}

/// Whether the client asks how many rows there are in all.
pub fn counts(ctx: &Context<'_>) -> bool {
    ctx.look_ahead().field("totalCount").exists()
}

/// A page as a connection.
pub fn connection<R, T>(page: Page<R>, total: Option<u64>) -> Connection<T>
where
    T: OutputType + Clone + From<R>,
    Edge<T>: OutputType,
{
    let (has_previous_page, has_next_page) = (page.has_previous, page.has_next);
    let edges: Vec<(String, T)> = page.into_edges().map(|(cursor, row)| (cursor, T::from(row))).collect();
    let cursor = |edge: Option<&(String, T)>| edge.map(|(cursor, _)| cursor.clone());
    let page_info = PageInfo {
        has_previous_page,
        has_next_page,
        start_cursor: cursor(edges.first()),
        end_cursor: cursor(edges.last()),
    };
    Connection::new(edges, page_info, total)
}

impl<T: OutputType + Clone> EdgesAndNodes<Edge<T>, T>
where
    Edge<T>: OutputType,
{
    /// A connection of these rows with their cursors.
    pub fn new(edges: Vec<(String, T)>, page_info: PageInfo, total: Option<u64>) -> Self {
        Self {
            nodes: edges.iter().map(|(_, node)| node.clone()).collect(),
            edges: edges.into_iter().map(|(cursor, node)| Edge { cursor, node }).collect(),
            page_info,
            total_count: total.map_or(0, |total| i32::try_from(total).unwrap_or(i32::MAX)),
        }
    }
}

/// A read that failed, as clients may see it.
pub fn unread(error: QueryError) -> Error {
    match error {
        QueryError::CursorInvalid => ErrorCode::CursorInvalid
            .error("the cursor does not belong to this list with this filter and order"),
        QueryError::Store(error) => failure(&error),
        error @ QueryError::Fold(_) => internal(&error),
    }
}

#[cfg(test)]
mod tests {
    use async_graphql::Value;

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
        assert_eq!(code(page_request(None, None, Some(i32::MAX), None)), limit);
        let bad = Some(Value::from("BAD_REQUEST"));
        assert_eq!(code(page_request(Some(0), None, None, None)), bad);
        assert_eq!(code(page_request(Some(-1), None, None, None)), bad);
        assert_eq!(code(page_request(Some(1), None, Some(1), None)), bad);
        assert_eq!(code(page_request(None, cursor(), None, cursor())), bad);
        assert_eq!(code(page_request(Some(1), None, None, cursor())), bad);
    }
}
