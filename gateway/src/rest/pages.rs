//! Pages of lists that are folded from the log: `?limit=&after=`, where `after` is the `next_after` of the page before.

use axum::extract::Query;
use axum::http::Uri;
use commands::Rules;
use schemas::engine::{InvalidValue, StreamName};
use store::TenantStore;
use uuid::Uuid;

use super::events::position;
use crate::http::{FieldError, Problem};

const DEFAULT: u64 = 20;
const MOST: u64 = 100;

/// Which page is asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct PageQuery {
    limit: usize,
    after: Option<Uuid>,
}

impl PageQuery {
    /// The parameters of a list.
    pub fn read(uri: &Uri) -> Result<Self, Problem> {
        let pairs = pairs(uri)?;
        let mut query = Self { limit: DEFAULT as usize, after: None };
        let mut wrong = Vec::new();
        for (name, value) in &pairs {
            let taken = match name.as_str() {
                "limit" => limit(value, MOST).map(|limit| query.limit = limit),
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

    /// The ids of the page's aggregates.
    pub async fn ids<A: Rules>(&self, store: &TenantStore) -> Result<Vec<Uuid>, Problem> {
        let after = self.after.map(|id| StreamName::new(A::CATEGORY, id));
        let streams = store.streams(&format!("{}/", A::CATEGORY), after.as_ref(), self.limit as u32).await?;
        Ok(streams.iter().filter_map(StreamName::uuid).collect())
    }

    /// Where the next page starts, unless this one was the last.
    pub fn next(&self, ids: &[Uuid]) -> Option<Uuid> {
        ids.last().copied().filter(|_| ids.len() == self.limit)
    }
}

/// The parameters of a query string; each may be given once.
pub fn pairs(uri: &Uri) -> Result<Vec<(String, String)>, Problem> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|_| Problem::bad_request("the query string does not decode"))?;
    for (index, (name, _)) in pairs.iter().enumerate() {
        if pairs[..index].iter().any(|(before, _)| before == name) {
            return Err(Problem::bad_request("a parameter is given twice"));
        }
    }
    Ok(pairs)
}

/// A limit from 1 to `most`.
pub fn limit(text: &str, most: u64) -> Result<usize, InvalidValue> {
    match position(text) {
        Some(limit) if (1..=most).contains(&limit) => Ok(limit as usize),
        _ => Err(InvalidValue::new("limit_invalid", format!("must be 1 to {most}"))),
    }
}

/// A parameter that the request does not take.
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
        assert_eq!(query.next(&[Uuid::nil()]), None);
        assert_eq!(query.next(&[Uuid::nil(), Uuid::max()]), Some(Uuid::max()));
        assert_eq!(read("").map(|query| query.limit), Ok(20));
        for invalid in ["limit=0", "limit=101", "limit=x", "after=1", "colour=red"] {
            assert_eq!(read(invalid), Err("invalid"), "{invalid}");
        }
        assert_eq!(read("limit=1&limit=2"), Err("bad_request"));
    }
}
