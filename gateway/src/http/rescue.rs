//! The layer that always answers: a panic and a handler that takes too long become problems. It stands inside the layers
//! that add headers, so that these answers carry them as well.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;

use super::deadline::Deadline;
use super::observe::RequestContext;
use super::route::ErrorFormat;
use access::ErrorCode;

use super::problem::Problem;

/// The layer itself, for `axum::middleware::from_fn`.
pub async fn rescue(request: Request, next: Next) -> Response {
    let context = request.extensions().get::<RequestContext>();
    let route = context.and_then(RequestContext::route);
    let graphql = route.is_some_and(|route| route.errors == ErrorFormat::Graphql);
    // A stream's handler is done when the stream begins, so the deadline does not end streams.
    let (deadline, request) = Deadline::of(request);
    let answering = AssertUnwindSafe(next.run(request)).catch_unwind();
    tokio::select! {
        answered = answering => answered.unwrap_or_else(|panic| {
            tracing::error!(panic = panic_text(&*panic), "handler panicked");
            Problem::new(ErrorCode::Internal).into_response()
        }),
        () = deadline.passed() => {
            let late = Problem::new(ErrorCode::Unavailable).detail("the request took too long");
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
    use axum::middleware::{from_fn, from_fn_with_state};
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;
    use crate::http::observe::observe;
    use crate::http::route::Routes;

    #[tokio::test]
    async fn a_panic_is_an_internal_problem() {
        async fn panicking() -> &'static str {
            panic!("a bug")
        }
        let observed = from_fn_with_state(Routes::default().finish().1, observe);
        let router = Router::new().route("/panic", get(panicking)).layer(from_fn(rescue)).layer(observed);
        let request = axum::http::Request::get("/panic").header("x-request-id", "p-1").body(Body::empty());
        let response = router.oneshot(request.expect("valid")).await.expect("infallible");
        assert_eq!(response.status().as_u16(), 500);
        let body = to_bytes(response.into_body(), 10_000).await.expect("a small body");
        let body = String::from_utf8(body.to_vec()).expect("text");
        assert!(body.contains("\"code\":\"internal\"") && body.contains("p-1") && !body.contains("a bug"));
    }
}
