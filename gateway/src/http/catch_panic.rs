//! Layers that turn a panic and a timeout of a handler into problems. They are inside the layers that add headers, so
//! these responses get the headers too.

use std::any::Any;

use access::ErrorCode;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::{CatchPanicLayer, ResponseForPanic};

use super::deadline::Deadline;
use super::problem::Problem;
use super::request_log::RequestContext;
use super::route::ErrorFormat;

/// Turns a panic of a handler into the problem `internal`. The panic's text is logged and not sent to the client.
pub fn catch_panic() -> CatchPanicLayer<PanicProblem> {
    CatchPanicLayer::custom(PanicProblem)
}

/// Builds the response to a panic.
#[derive(Debug, Clone, Copy)]
pub struct PanicProblem;

impl ResponseForPanic for PanicProblem {
    type ResponseBody = axum::body::Body;

    fn response_for_panic(&mut self, panic: Box<dyn Any + Send + 'static>) -> Response {
        tracing::error!(panic = panic_text(&*panic), "handler panicked");
        Problem::new(ErrorCode::Internal).into_response()
    }
}

/// Stops a handler at its deadline, for `axum::middleware::from_fn`. `tower_http::timeout` is not used: it also
/// counts the time in which the client sends its body, so a slow client would get 503.
pub async fn request_timeout(request: Request, next: Next) -> Response {
    let context = request.extensions().get::<RequestContext>();
    let route = context.and_then(RequestContext::route);
    let graphql = route.is_some_and(|route| route.errors == ErrorFormat::Graphql);
    // A stream's handler returns when the stream begins, so the deadline does not end streams.
    let (deadline, request) = Deadline::start(request);
    tokio::select! {
        answered = next.run(request) => answered,
        () = deadline.expired() => {
            let problem = Problem::new(ErrorCode::Unavailable).detail("the request took too long");
            let problem = if graphql { problem.for_graphql() } else { problem };
            problem.into_response()
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
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;
    use crate::http::request_log::log_request;
    use crate::http::route::RouteTable;

    #[tokio::test]
    async fn a_panic_is_an_internal_problem() {
        async fn panicking() -> &'static str {
            panic!("a bug")
        }
        let observed = from_fn_with_state(RouteTable::default(), log_request);
        let router = Router::new().route("/panic", get(panicking)).layer(catch_panic()).layer(observed);
        let request = axum::http::Request::get("/panic").header("x-request-id", "p-1").body(Body::empty());
        let response = router.oneshot(request.expect("valid")).await.expect("infallible");
        assert_eq!(response.status().as_u16(), 500);
        let body = to_bytes(response.into_body(), 10_000).await.expect("a small body");
        let body = String::from_utf8(body.to_vec()).expect("text");
        assert!(body.contains("\"code\":\"internal\"") && body.contains("p-1") && !body.contains("a bug"));
    }
}
