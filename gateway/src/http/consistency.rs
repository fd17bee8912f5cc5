//! Read your writes over HTTP. A request names positions by consistency tokens. It waits until the read models have
//! processed them.

use access::ErrorCode;
use axum::http::{HeaderMap, HeaderName};
use queries::WaitError;
use store::{Causes, TenantStore};

use super::problem::Problem;

/// The header that carries a consistency token. It may be given several times.
pub const CONSISTENCY_HEADER: HeaderName = HeaderName::from_static("x-consistency-token");

/// All consistency tokens in the headers.
pub fn tokens(headers: &HeaderMap) -> impl Iterator<Item = String> {
    let values = headers.get_all(CONSISTENCY_HEADER).iter();
    values.map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned())
}

/// Waits until the read models have processed the positions of the tokens. Without a token it waits for the present
/// head of the log.
///
/// # Errors
/// `bad_request` for a token that is not valid for this tenant; `consistency_timeout` when the read models lag for
/// longer than the wait.
pub async fn wait_for_read_models(
    tenant: &TenantStore,
    headers: &HeaderMap,
    read_models: &[&str],
) -> Result<(), Problem> {
    let problem = |(code, detail): (ErrorCode, &'static str)| Problem::new(code).detail(detail);
    if !headers.contains_key(CONSISTENCY_HEADER) {
        return map_wait_error(queries::wait_for_head(tenant, read_models).await).map_err(problem);
    }
    for token in tokens(headers) {
        map_wait_error(queries::wait_for(tenant, &token, read_models).await).map_err(problem)?;
    }
    Ok(())
}

/// Maps the result of a wait to an error code and a message for clients.
///
/// # Errors
/// `bad_request` for a token that is not valid for this tenant; `consistency_timeout` when the read models lag for
/// longer than the wait; `unavailable` when the store does not answer.
pub fn map_wait_error(waited: Result<(), WaitError>) -> Result<(), (ErrorCode, &'static str)> {
    waited.map_err(|error| match error {
        WaitError::Invalid => (ErrorCode::BadRequest, "the consistency token is not valid here"),
        WaitError::Timeout => {
            (ErrorCode::ConsistencyTimeout, "the read model has not reached that position yet")
        }
        WaitError::Unavailable(error) => {
            tracing::warn!(error = %Causes(&error), "a read could not wait for its position");
            (ErrorCode::Unavailable, "unavailable for the moment")
        }
    })
}
