//! What a listener refuses before a handler sees it: each refusal is counted, and has a line in the access log up to a bound,
//! because whoever is refused costs next to nothing and could fill the log.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::Method;
use schemas::engine::RequestId;

use super::bounded_log::BoundedLog;
use super::limits::{ConnectionRefusal, counted_address};
use super::refusal::Refusal;
use crate::http::access_log::{AccessLine, Refused, request_span};

/// Lines of one listener in a second.
const LINES_A_SECOND: u32 = 20;

/// The refusals of one listener.
pub struct Refusals {
    listener: &'static str,
    log: Mutex<BoundedLog>,
}

impl Refusals {
    /// Nothing is refused yet.
    pub fn new(listener: &'static str) -> Arc<Self> {
        Arc::new(Self { listener, log: Mutex::new(BoundedLog::new(LINES_A_SECOND, Duration::from_secs(1))) })
    }

    /// Notes a connection that is refused at a limit. The id is that of the answer.
    pub fn connection(&self, reason: ConnectionRefusal, peer: IpAddr, answer: Refusal, id: &RequestId) {
        let reason = reason.as_str();
        let labels = [("listener", self.listener), ("reason", reason)];
        metrics::counter!("annals_connections_refused_total", &labels).increment(1);
        self.log(AccessLine::default(), answer, reason, peer, id);
    }

    /// Notes a request that was not understood, or did not arrive in time.
    pub fn unread(&self, refusal: Refusal, peer: IpAddr, id: &RequestId) {
        self.request(AccessLine::default(), refusal, peer, id);
    }

    /// Notes a request that was understood and is not answered as HTTP has it.
    pub fn read(&self, method: &Method, path: &str, refusal: Refusal, client: IpAddr, id: &RequestId) {
        let line = AccessLine { method: Some(method), path: Some(path), ..AccessLine::default() };
        self.request(line, refusal, client, id);
    }

    fn request(&self, line: AccessLine<'_>, refusal: Refusal, client: IpAddr, id: &RequestId) {
        let status = refusal.status().as_str().to_owned();
        metrics::counter!("annals_http_refusals_total", "listener" => self.listener, "status" => status)
            .increment(1);
        self.log(line, refusal, refusal.code().as_str(), client, id);
    }

    fn log(
        &self,
        line: AccessLine<'_>,
        refusal: Refusal,
        reason: &'static str,
        client: IpAddr,
        id: &RequestId,
    ) {
        // Nothing panics while holding it.
        let turn = self.log.lock().unwrap_or_else(PoisonError::into_inner).turn();
        let Some(left_out) = turn else { return };
        let address = counted_address(client);
        let refused = Refused { listener: self.listener, reason, address, left_out };
        let status = refusal.status().as_u16();
        request_span(id, None).in_scope(|| AccessLine { status, refused: Some(refused), ..line }.write());
    }
}
