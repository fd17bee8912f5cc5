//! Pages of lists: `?limit=&after=`. `after` is the `next_after` of the previous page.

use axum::http::Uri;
use commands::Decider;
use schemas::engine::{InvalidValue, StreamName};
use serde::Deserialize;
use store::TenantStore;
use uuid::Uuid;

use super::events::position;
use crate::http::{Digits, FieldError, Problem, query};

const PAGE_SIZE_DEFAULT: u64 = 20;
const PAGE_SIZE_MAX: u64 = 100;

/// The parameters of a page of rows that are loaded from streams. Malformed and unknown ones get 422.
#[derive(Debug, PartialEq, Eq)]
pub struct PageQuery {
    limit: usize,
    after: Option<Uuid>,
}

impl PageQuery {
    /// Parses the parameters of a list.
    ///
    /// # Errors
    /// `bad_request` when the query does not decode or a parameter occurs twice; `invalid` for unknown and malformed
    /// parameters.
    pub fn read(uri: &Uri) -> Result<Self, Problem> {
        let unique_pairs = unique_pairs(uri)?;
        let mut query = Self { limit: PAGE_SIZE_DEFAULT as usize, after: None };
        let mut wrong = Vec::new();
        for (name, value) in &unique_pairs {
            let taken = match name.as_str() {
                "limit" => limit(value, PAGE_SIZE_MAX).map(|limit| query.limit = limit),
                "after" => value
                    .parse()
                    .map(|after| query.after = Some(after))
                    .map_err(|_| InvalidValue::new("cursor_invalid", "must be the next_after of a page")),
                unknown => {
                    wrong.push(unknown_parameter(unknown));
                    continue;
                }
            };
            if let Err(problem) = taken {
                wrong.push(FieldError::new(name.as_str(), problem));
            }
        }
        if wrong.is_empty() { Ok(query) } else { Err(Problem::invalid(wrong)) }
    }

    /// Maximum rows of the page.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The id after which the page starts.
    pub fn after(&self) -> Option<Uuid> {
        self.after
    }

    /// The ids of the page's aggregates, and the cursor of the next page.
    ///
    /// # Errors
    /// `unavailable` when the database does not answer.
    pub async fn ids<A: Decider>(&self, store: &TenantStore) -> Result<(Vec<Uuid>, Option<Uuid>), Problem> {
        let after = self.after.map(|id| StreamName::new(A::CATEGORY, id));
        let prefix = format!("{}/", A::CATEGORY);
        let streams = store.streams(&prefix, after.as_ref(), self.limit as u32 + 1).await?;
        let ids = streams.iter().filter_map(StreamName::uuid).collect();
        Ok(split_page(ids, self.limit, |id| *id))
    }
}

/// The parameters of a page whose cursor is a `C`. Malformed and unknown ones get 400.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CursorQuery<C> {
    /// The cursor after which the page starts.
    pub after: Option<C>,
    limit: Option<Digits>,
}

impl<C> CursorQuery<C> {
    /// Maximum rows of the page.
    ///
    /// # Errors
    /// 422 for a limit out of bounds.
    pub fn limit(&self) -> Result<usize, Problem> {
        let limit = in_bounds(self.limit.map_or(PAGE_SIZE_DEFAULT, |limit| limit.0), PAGE_SIZE_MAX);
        limit.map_err(|error| Problem::invalid_field("limit", error))
    }
}

/// Splits rows into a page and the cursor of the next page. Callers query `limit + 1` rows, so a list that ends with
/// the page has no cursor.
pub fn split_page<T, C>(mut rows: Vec<T>, limit: usize, cursor: impl Fn(&T) -> C) -> (Vec<T>, Option<C>) {
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(cursor);
    (rows, next)
}

/// The parameters of a query string.
///
/// # Errors
/// A problem when a parameter occurs twice.
pub fn unique_pairs(uri: &Uri) -> Result<Vec<(String, String)>, Problem> {
    let unique_pairs = query::pairs(uri)?;
    for (index, (name, _)) in unique_pairs.iter().enumerate() {
        if unique_pairs[..index].iter().any(|(before, _)| before == name) {
            return Err(Problem::bad_request("a parameter is given twice"));
        }
    }
    Ok(unique_pairs)
}

/// Parses a limit from 1 to `max`.
///
/// # Errors
/// `limit_invalid` when the text is not a number from 1 to `max`.
pub fn limit(text: &str, max: u64) -> Result<usize, InvalidValue> {
    // Zero is never in bounds, so it stands for a text that is no number.
    in_bounds(position(text).unwrap_or(0), max)
}

fn in_bounds(limit: u64, max: u64) -> Result<usize, InvalidValue> {
    if (1..=max).contains(&limit) {
        Ok(limit as usize)
    } else {
        Err(InvalidValue::new("limit_invalid", format!("must be 1 to {max}")))
    }
}

/// The error for an unknown parameter.
pub fn unknown_parameter(name: &str) -> FieldError {
    let shown: String = name.chars().take(64).collect();
    FieldError::new(shown, InvalidValue::new("unknown_field", "is not a parameter of this request"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_limit_and_goes_on_behind_the_last() {
        let read = |query: &str| {
            let uri: Uri = format!("/v1/event-types?{query}").parse().expect("a URI");
            PageQuery::read(&uri).map_err(|problem| problem.code().as_str())
        };
        let query = read("limit=2&after=0198c0de-0000-7000-8000-000000000001").expect("fine");
        assert_eq!(query.limit, 2);
        assert_eq!(read("").map(|query| query.limit), Ok(20));
        for invalid in ["limit=0", "limit=101", "limit=x", "after=1", "colour=red"] {
            assert_eq!(read(invalid), Err("invalid"), "{invalid}");
        }
        assert_eq!(read("limit=1&limit=2"), Err("bad_request"));
    }

    #[test]
    fn the_last_page_has_no_next_one_even_where_it_is_full() {
        assert_eq!(split_page(vec![1, 2], 2, |row| *row), (vec![1, 2], None));
        assert_eq!(split_page(vec![1, 2, 3], 2, |row| *row), (vec![1, 2], Some(2)));
        assert_eq!(split_page(Vec::<u8>::new(), 2, |row| *row), (vec![], None));
    }
}
