//! The layer that always answers: a panic and a handler that takes too long become problems. It stands inside the layers
//! that add headers, so that these answers carry them as well.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;

use super::deadline::Deadline;
use super::problem::{Code, Problem};

/// The layer itself, for `axum::middleware::from_fn`.
pub async fn rescue(request: Request, next: Next) -> Response {
    let graphql =
        request.extensions().get::<MatchedPath>().is_some_and(|matched| matched.as_str() == "/graphql");
    // A stream's handler is done when the stream begins, so the deadline does not end streams.
    let (deadline, request) = Deadline::of(request);
    let answering = AssertUnwindSafe(next.run(request)).catch_unwind();
    tokio::select! {
        answered = answering => answered.unwrap_or_else(|panic| {
            tracing::error!(panic = panic_text(&*panic), "handler panicked");
            Problem::new(Code::Internal).into_response()
        }),
        () = deadline.passed() => {
            let late = Problem::new(Code::Unavailable).detail("the request took too long");
            let late = if graphql { late.for_graphql() } else { late };
            late.into_response()
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("not text")
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::middleware::from_fn;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;
    use crate::edge::observe::observe;

    #[tokio::test]
    async fn a_panic_is_an_internal_problem() {
        async fn panicking() -> &'static str {
            panic!("a bug")
        }
        let router =
            Router::new().route("/panic", get(panicking)).layer(from_fn(rescue)).layer(from_fn(observe));
        let request = axum::http::Request::get("/panic").header("x-request-id", "p-1").body(Body::empty());
        let response = router.oneshot(request.expect("valid")).await.expect("infallible");
        assert_eq!(response.status().as_u16(), 500);
        let body = to_bytes(response.into_body(), 10_000).await.expect("a small body");
        let body = String::from_utf8(body.to_vec()).expect("text");
        assert!(body.contains("\"code\":\"internal\"") && body.contains("p-1") && !body.contains("a bug"));
    }
}
