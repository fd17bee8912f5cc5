//! Path parameters. A parameter that does not decode or holds control characters is answered with a problem.

use axum::extract::path::ErrorKind;
use axum::extract::rejection::{PathRejection, RawPathParamsRejection};
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use access::ErrorCode;

use super::problem::Problem;

/// Path parameters like axum's extractor of the same name, but rejections are problems.
#[derive(Debug, Clone, Copy)]
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    /// # Errors
    /// 400 when a parameter is not UTF-8 after decoding or holds a control character: PostgreSQL stores no NUL, and the
    /// others mislead readers of logs. 404 when it does not parse as the handler's type.
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let raw =
            RawPathParams::from_request_parts(parts, state).await.map_err(|rejection| match rejection {
                RawPathParamsRejection::InvalidUtf8InPathParam(_) => {
                    Problem::bad_request("the path is not UTF-8 when it is decoded")
                }
                other => Problem::internal(other),
            })?;
        if raw.iter().any(|(_, value)| value.contains(char::is_control)) {
            return Err(Problem::bad_request("the path holds a control character"));
        }
        let extracted = axum::extract::Path::from_request_parts(parts, state).await;
        extracted.map(|axum::extract::Path(parameters)| Self(parameters)).map_err(path_problem)
    }
}

/// Parses the id of a resource.
///
/// # Errors
/// 404 for a text that is no UUID: an id that does not parse cannot exist.
pub fn parse_id(text: &str) -> Result<Uuid, Problem> {
    text.parse().map_err(|_| Problem::new(ErrorCode::NotFound))
}

fn path_problem(rejection: PathRejection) -> Problem {
    match rejection {
        // The route and its handler disagree. This is a bug that no request can cause.
        PathRejection::FailedToDeserializePathParams(failed)
            if matches!(
                failed.kind(),
                ErrorKind::WrongNumberOfParameters { .. } | ErrorKind::UnsupportedType { .. }
            ) =>
        {
            Problem::internal(failed)
        }
        // An id that does not parse cannot exist.
        PathRejection::FailedToDeserializePathParams(_) => Problem::new(ErrorCode::NotFound),
        rejection => Problem::internal(rejection),
    }
}

#[cfg(test)]
mod tests {
    use super::super::route::RouteTable;
    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;
    use crate::http::request_log::log_request;

    async fn answer(path: &str) -> (u16, String, String) {
        let router = Router::new()
            .route("/texts/{name}", get(|Path(name): Path<String>| async move { name }))
            .route(
                "/pairs/{a}/{b}",
                get(|Path((a, b)): Path<(String, u64)>| async move { format!("{a} {b}") }),
            )
            .layer(from_fn_with_state(RouteTable::default(), log_request));
        let request = axum::http::Request::get(path).body(Body::empty()).expect("valid");
        let response = router.oneshot(request).await.expect("infallible");
        let status = response.status().as_u16();
        let kind = response.headers()["content-type"].to_str().expect("ASCII").to_owned();
        let body = to_bytes(response.into_body(), 10_000).await.expect("a small body");
        (status, kind, String::from_utf8(body.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn parameters_are_decoded() {
        assert_eq!(answer("/texts/a%20b%C3%A4%2Fc").await.2, "a bä/c");
        assert_eq!(answer("/pairs/x/7").await.2, "x 7");
    }

    #[tokio::test]
    async fn what_does_not_decode_is_a_problem() {
        for path in [
            "/texts/%ff",
            "/texts/a%C3",
            "/texts/%00",
            "/texts/a%0a",
            "/texts/%7f",
            "/texts/%c2%85",
            "/pairs/x/%ff",
            "/pairs/%00/1",
        ] {
            let (status, kind, body) = answer(path).await;
            assert_eq!((status, kind.as_str()), (400, "application/problem+json"), "{path}");
            let body: Value = serde_json::from_str(&body).expect("JSON");
            assert_eq!(body["code"], "bad_request", "{path}");
        }
        let (status, kind, _) = answer("/pairs/x/y").await;
        assert_eq!((status, kind.as_str()), (404, "application/problem+json"));
    }
}
