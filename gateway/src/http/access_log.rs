//! The access log: one line for each request. Connections and requests that are refused before routing get a line of
//! the same form.

use std::net::IpAddr;

use axum::http::Method;
use schemas::engine::RequestId;
use tracing::Span;
use uuid::Uuid;

/// One line of the access log. Unknown fields are omitted.
#[derive(Default)]
pub struct AccessLine<'a> {
    /// The request method.
    pub method: Option<&'a Method>,
    /// The path, without the query.
    pub path: Option<&'a str>,
    /// The HTTP status of the response.
    pub status: u16,
    /// The time until the handler returned the response, in microseconds.
    pub micros: Option<u64>,
    /// The slug of the tenant of the request.
    pub tenant: Option<&'a str>,
    /// The id of the caller.
    pub user: Option<Uuid>,
    /// Set when the request was refused before a handler ran.
    pub refused: Option<RefusalDetails>,
}

/// Extra fields of a line for a refusal.
pub struct RefusalDetails {
    /// The listener that refused.
    pub listener: &'static str,
    /// The reason as a label, such as a refusal's code.
    pub reason: &'static str,
    /// The client's address.
    pub address: IpAddr,
    /// The number of earlier refusals that were not logged, because the log is rate limited.
    pub left_out: u64,
}

impl AccessLine<'_> {
    /// Writes the line.
    pub fn write(&self) {
        let refused = self.refused.as_ref();
        tracing::info!(
            target: "annals::access",
            method = self.method.map(tracing::field::display),
            path = self.path,
            status = self.status,
            micros = self.micros,
            tenant = self.tenant,
            user = self.user.map(tracing::field::display),
            listener = refused.map(|refused| refused.listener),
            refused = refused.map(|refused| refused.reason),
            address = refused.map(|refused| tracing::field::display(refused.address)),
            left_out = refused.map(|refused| refused.left_out),
        );
    }
}

/// The tracing span that all log lines of one request belong to.
pub fn request_span(id: &RequestId, traceparent: Option<&str>) -> Span {
    tracing::info_span!("request", request_id = %id, traceparent)
}
