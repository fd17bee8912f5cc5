//! Counts and logs what a listener refuses before a handler runs. Refused clients cost almost nothing and could fill
//! the log, so the lines in the access log are limited.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::Method;
use schemas::engine::RequestId;

use super::limits::{ConnectionRefusal, counted_address};
use super::rate_limited_log::RateLimitedLog;
use super::refusal::RequestRefusal;
use crate::http::access_log::{AccessLine, RefusalDetails, request_span};

/// Maximum log lines of one listener in a second.
const LINES_PER_SECOND_MAX: u32 = 20;

/// The refusals of one listener.
pub struct RefusalLog {
    listener: &'static str,
    log: Mutex<RateLimitedLog>,
}

impl RefusalLog {
    /// A log without refusals yet.
    pub fn new(listener: &'static str) -> Arc<Self> {
        Arc::new(Self {
            listener,
            log: Mutex::new(RateLimitedLog::new(LINES_PER_SECOND_MAX, Duration::from_secs(1))),
        })
    }

    /// Records a connection that was refused at a limit. `id` is the request id in the response.
    pub fn record_connection(
        &self,
        reason: ConnectionRefusal,
        peer: IpAddr,
        answer: RequestRefusal,
        id: &RequestId,
    ) {
        let reason = reason.as_str();
        let labels = [("listener", self.listener), ("reason", reason)];
        metrics::counter!("annals_connections_refused_total", &labels).increment(1);
        self.log(AccessLine::default(), answer, reason, peer, id);
    }

    /// Records a request that was not parsed or did not arrive in time.
    pub fn record_unparsed(&self, refusal: RequestRefusal, peer: IpAddr, id: &RequestId) {
        self.record_request(AccessLine::default(), refusal, peer, id);
    }

    /// Records a parsed request that breaks a rule of HTTP.
    pub fn record_parsed(
        &self,
        method: &Method,
        path: &str,
        refusal: RequestRefusal,
        client: IpAddr,
        id: &RequestId,
    ) {
        let line = AccessLine { method: Some(method), path: Some(path), ..AccessLine::default() };
        self.record_request(line, refusal, client, id);
    }

    fn record_request(&self, line: AccessLine<'_>, refusal: RequestRefusal, client: IpAddr, id: &RequestId) {
        let status = refusal.status().as_str().to_owned();
        metrics::counter!("annals_http_refusals_total", "listener" => self.listener, "status" => status)
            .increment(1);
        self.log(line, refusal, refusal.code().as_str(), client, id);
    }

    fn log(
        &self,
        line: AccessLine<'_>,
        refusal: RequestRefusal,
        reason: &'static str,
        client: IpAddr,
        id: &RequestId,
    ) {
        // No code panics while it holds the lock.
        let suppressed_before = self.log.lock().unwrap_or_else(PoisonError::into_inner).acquire();
        let Some(left_out) = suppressed_before else { return };
        let address = counted_address(client);
        let refused = RefusalDetails { listener: self.listener, reason, address, left_out };
        let status = refusal.status().as_u16();
        request_span(id, None).in_scope(|| AccessLine { status, refused: Some(refused), ..line }.write());
    }
}
