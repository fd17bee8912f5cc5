//! The extractor for query strings. Every parameter must be known, occur once and be well formed.

use access::ErrorCode;
use axum::extract::FromRequestParts;
use axum::http::Uri;
use axum::http::request::Parts;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};

use super::problem::Problem;

/// The parameters of a request. Unknown parameters are refused when `T` denies unknown fields.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Self::read(&parts.uri)
    }
}

impl<T: DeserializeOwned> Query<T> {
    /// Parses the query of a URI.
    ///
    /// # Errors
    /// 400 where a parameter is missing, unknown, repeated or malformed.
    pub fn read(uri: &Uri) -> Result<Self, Problem> {
        let malformed = || {
            Problem::new(ErrorCode::BadRequest)
                .detail("a parameter is missing, unknown, repeated or malformed")
        };
        let pairs = pairs(uri)?;
        // Bytes that are not UTF-8 decode to the replacement character.
        let unreadable = |c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER;
        if pairs.iter().any(|(_, value)| value.chars().any(unreadable)) {
            return Err(malformed());
        }
        axum::extract::Query::<T>::try_from_uri(uri).map(|query| Self(query.0)).map_err(|_| malformed())
    }
}

/// The parameters of a URI as name and value, in order.
///
/// # Errors
/// `bad_request` when the query does not decode.
pub fn pairs(uri: &Uri) -> Result<Vec<(String, String)>, Problem> {
    axum::extract::Query::try_from_uri(uri)
        .map(|pairs| pairs.0)
        .map_err(|_| Problem::bad_request("the query string does not decode"))
}

/// An integer in decimal digits. A sign, which Rust's parser accepts, is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digits(pub u64);

impl Digits {
    /// Parses digits. `None` when the text is not a number or PostgreSQL's `bigint` cannot hold it.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = digits.then(|| text.parse().ok()).flatten();
        number.filter(|&number: &u64| i64::try_from(number).is_ok()).map(Self)
    }

    /// The number, which must be 1 to `max`. Returns `default` when there is none.
    ///
    /// # Errors
    /// 400 for a number out of bounds.
    pub fn limit(given: Option<Self>, default: usize, max: usize) -> Result<usize, Problem> {
        let limit = given.map_or(default as u64, |limit| limit.0);
        if (1..=max as u64).contains(&limit) {
            Ok(limit as usize)
        } else {
            Err(Problem::bad_request(format!("limit must be 1 to {max}")))
        }
    }
}

impl<'de> Deserialize<'de> for Digits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("not a whole number"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Page {
        limit: Option<Digits>,
        name: Option<String>,
    }

    fn read(query: &str) -> Result<Page, ErrorCode> {
        let uri: Uri = format!("/list?{query}").parse().expect("a URI");
        Query::<Page>::read(&uri).map(|query| query.0).map_err(|problem| problem.code())
    }

    #[test]
    fn parameters_are_known_given_once_and_of_their_form() {
        let page = read("limit=7&name=a%20b").expect("fine");
        assert_eq!((page.limit, page.name.as_deref()), (Some(Digits(7)), Some("a b")));
        for wrong in [
            "limit=%2B1",
            "limit=-1",
            "limit=",
            "limit=1e3",
            "limit=99999999999999999999",
            "limit=1&limit=2",
            "colour=red",
            "name=a%00",
            "name=%ff",
        ] {
            assert_eq!(read(wrong).err(), Some(ErrorCode::BadRequest), "{wrong}");
        }
    }

    #[test]
    fn a_limit_has_a_default_and_a_maximum() {
        assert_eq!(Digits::limit(None, 20, 100).ok(), Some(20));
        assert_eq!(Digits::limit(Some(Digits(100)), 20, 100).ok(), Some(100));
        assert!(Digits::limit(Some(Digits(0)), 20, 100).is_err());
        assert!(Digits::limit(Some(Digits(101)), 20, 100).is_err());
    }
}
