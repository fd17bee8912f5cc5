//! The access log: one line for what a client asked for, and one in the same form for what was refused before it could ask.

use std::net::IpAddr;

use axum::http::Method;
use schemas::engine::RequestId;
use tracing::Span;
use uuid::Uuid;

/// One line of the access log. What is not known is left out.
#[derive(Default)]
pub struct AccessLine<'a> {
    /// The method that was asked for.
    pub method: Option<&'a Method>,
    /// The path, without the query.
    pub path: Option<&'a str>,
    /// The status of the answer.
    pub status: u16,
    /// How long the answer took, in microseconds.
    pub micros: Option<u64>,
    /// Whose data the request is about.
    pub tenant: Option<&'a str>,
    /// Who called.
    pub user: Option<Uuid>,
    /// What was refused before any handler.
    pub refused: Option<RefusalDetails>,
}

/// What a line says of a refusal besides.
pub struct RefusalDetails {
    /// The listener that refused.
    pub listener: &'static str,
    /// Why, in one word.
    pub reason: &'static str,
    /// The client's address.
    pub address: IpAddr,
    /// Refusals before this one that have no line.
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

/// What the log lines of one request stand in.
pub fn request_span(id: &RequestId, traceparent: Option<&str>) -> Span {
    tracing::info_span!("request", request_id = %id, traceparent)
}
