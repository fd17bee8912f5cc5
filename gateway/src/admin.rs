//! The admin listener: a status page without tenant data, and a placeholder for the admin API. Only host names of this
//! machine are accepted, so that a web site cannot reach it by DNS rebinding.

use axum::extract::Request;
use axum::http::{HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::auth::Operator;
use crate::http::route::{AccessRule, AuditRule, Credential, Route};
use crate::http::{ErrorCode, Problem};
use crate::routes::Routes;

const STATUS_PAGE_HTML: &str = include_str!("admin/status.html");

/// The routes.
pub fn routes(routes: Routes) -> Routes {
    let operator = |path| {
        Route::any(path).access(AccessRule::Handler(Credential::Token)).with_audit(AuditRule::Operator)
    };
    routes
        .add(Route::public(Method::GET, "/"), status_page)
        .add(operator("/admin"), not_found)
        .add(operator("/admin/{*path}"), not_found)
}

/// `GET /`: names the product and its documentation.
async fn status_page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
        ),
    ];
    (headers, STATUS_PAGE_HTML).into_response()
}

/// `/admin/...`: 404 for callers with a token of the audience `annals-operations`: the admin API does not exist yet.
async fn not_found(_operator: Operator) -> Problem {
    Problem::new(ErrorCode::NotFound)
}

/// The layer that refuses other host names.
pub async fn require_local_host(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if host.is_some_and(is_local_host) {
        next.run(request).await
    } else {
        Problem::new(ErrorCode::Forbidden)
            .detail("the admin listener answers to the names of this machine")
            .into_response()
    }
}

fn is_local_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    name.eq_ignore_ascii_case("localhost") || matches!(name, "127.0.0.1" | "[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for local in ["localhost", "LOCALHOST:8082", "127.0.0.1:8082", "[::1]:8082", "[::1]"] {
            assert!(is_local_host(local), "{local}");
        }
        for other in
            ["", "example.com", "localhost.example.com:8082", "127.0.0.1.example.com", "10.0.0.1", "::1"]
        {
            assert!(!is_local_host(other), "{other}");
        }
    }
}
