//! GraphQL's top-level errors: a stable code in `extensions.code`, and nothing of ours inside.

use access::ErrorCode;
use async_graphql::dynamic::{FieldFuture, FieldValue, ResolverContext};
use async_graphql::{Error, ErrorExtensions, Response, ServerError, Value};
use schemas::engine::RequestId;
use store::StoreError;

use super::guard::Refusal;
use crate::http::Problem;
use crate::http::failures::Cause;

/// At most so many errors are returned; a document can make a great many.
const MOST_ERRORS: usize = 10;

/// An error of the catalogue in the shape of GraphQL.
pub trait GraphqlError {
    /// An error of a field.
    fn error(self, message: impl Into<String>) -> Error;
    /// An error of the request as a whole.
    fn server_error(self, message: impl Into<String>) -> ServerError;
}

impl GraphqlError for ErrorCode {
    fn error(self, message: impl Into<String>) -> Error {
        Error::new(message).extend_with(|_, extensions| extensions.set("code", self.graphql_top_level()))
    }

    fn server_error(self, message: impl Into<String>) -> ServerError {
        let mut error = ServerError::new(message, None);
        error.extensions.get_or_insert_default().set("code", self.graphql_top_level());
        error
    }
}

/// A field that may be null. An error in it makes it null and leaves the other fields as they are (GraphQL
/// specification, section 6.4.4). The library would leave the field out of the answer, and the error without a path.
pub fn nullable<'a, W>(
    ctx: ResolverContext<'a>,
    work: impl FnOnce(ResolverContext<'a>) -> W,
) -> FieldFuture<'a>
where
    W: Future<Output = Result<Option<FieldValue<'a>>, Error>> + Send + 'a,
{
    let (place, work) = (ctx.ctx, work(ctx));
    FieldFuture::new(async move {
        work.await.or_else(|error| {
            place.add_error(place.set_error_path(error.into_server_error(place.item.pos)));
            Ok(None)
        })
    })
}

/// A failure of ours as clients may see it. The cause goes to the log, here, because behind this point it is gone.
pub fn failure(error: &StoreError) -> Error {
    if let StoreError::LogReplaced { current } = error {
        let detail = format!("the log was replaced meanwhile; the tenant's log is now {current}");
        ErrorCode::BadRequest.error(detail)
    } else if error.is_unavailable() {
        tracing::warn!(cause = %Cause::of(error), "a field is unavailable");
        ErrorCode::Unavailable.error("unavailable for the moment")
    } else if error.is_invalid_parameter() {
        ErrorCode::BadRequest.error("a value of the request cannot be stored or compared")
    } else {
        internal(error)
    }
}

/// A fault of ours.
pub fn internal(error: &(dyn std::error::Error + 'static)) -> Error {
    tracing::error!(cause = %Cause::of(error), "a field failed");
    ErrorCode::Internal.error("internal error")
}

/// The caller may not.
pub fn forbidden(problem: &Problem) -> Error {
    ErrorCode::Forbidden.error(problem.message())
}

impl From<Refusal> for ServerError {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::Limit { limit, actual, .. } => {
                let mut error = ErrorCode::LimitExceeded.server_error(message);
                let extensions = error.extensions.get_or_insert_default();
                extensions.set("limit", limit);
                extensions.set("actual", actual);
                error
            }
            Refusal::Malformed(_) => ErrorCode::BadRequest.server_error(message),
        }
    }
}

/// Gives every error what clients count on: a code (the library's own errors are about the document, so they are bad
/// requests) and the request's id.
pub fn complete(response: &mut Response, request_id: &RequestId) {
    response.errors.truncate(MOST_ERRORS);
    for error in &mut response.errors {
        let extensions = error.extensions.get_or_insert_default();
        if extensions.get("code").is_none() {
            extensions.set("code", ErrorCode::BadRequest.graphql_top_level());
        }
        extensions.set("requestId", Value::from(request_id.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_gets_a_code_and_the_request_id() {
        let known = ErrorCode::CursorInvalid.server_error("the cursor is not valid here");
        let unknown = ServerError::new("Unknown field", None);
        let mut response =
            Response::from_errors([vec![known, unknown], vec![ServerError::new("x", None); 20]].concat());
        complete(&mut response, &RequestId::parse("r-1").expect("well formed"));
        assert_eq!(response.errors.len(), 10);
        let codes: Vec<_> = response
            .errors
            .iter()
            .map(|error| error.extensions.as_ref().and_then(|e| e.get("code")).cloned().expect("a code"))
            .collect();
        assert_eq!(codes[0], Value::from("CURSOR_INVALID"));
        assert_eq!(codes[1], Value::from("BAD_REQUEST"));
    }

    #[test]
    fn a_fault_of_ours_tells_nothing() {
        let error = failure(&StoreError::Corrupt("secret column".to_owned()));
        assert_eq!(error.message, "internal error");
        assert_eq!(failure(&StoreError::Overloaded).message, "unavailable for the moment");
    }
}
