//! A stream independent of its protocol: the next events, a heartbeat when it is idle, and its end.

use std::sync::Arc;

use fairness::Permit;
use futures::FutureExt;
use futures::future::BoxFuture;
use schemas::engine::TenantId;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::disconnect::authorization_ended;
use super::disconnect_reason::DisconnectReason;
use super::follower::StreamFollower;
use super::frame::Frame;
use crate::auth::EventSubscriber;
use crate::state::Gateway;

/// What a stream sends next.
pub enum SessionEvent {
    /// Events.
    Frames(Vec<Arc<Frame>>),
    /// A heartbeat, because the stream was idle.
    Heartbeat,
    /// The end, with its reason.
    Closed(DisconnectReason),
}

/// Counts one open stream in the metrics until it is dropped.
struct OpenStreamGauge(&'static str);

impl OpenStreamGauge {
    fn new(transport: &'static str) -> Self {
        metrics::gauge!("annals_event_streams_open", "transport" => transport).increment(1.0);
        Self(transport)
    }
}

impl Drop for OpenStreamGauge {
    fn drop(&mut self) {
        metrics::gauge!("annals_event_streams_open", "transport" => self.0).decrement(1.0);
    }
}

/// One open stream. It holds a permit for a stream of this process until it is dropped.
pub struct Session {
    /// Whether personal data is sent decrypted.
    pub personal_data: bool,
    follower: StreamFollower,
    authorization_ended: BoxFuture<'static, DisconnectReason>,
    heartbeat: Interval,
    open: OpenStreamGauge,
    _permit: Permit<TenantId>,
}

impl Session {
    /// A stream that ends when the token ends or the process stops.
    pub fn new(
        transport: &'static str,
        follower: StreamFollower,
        subscriber: &EventSubscriber,
        gateway: &Gateway,
        permit: Permit<TenantId>,
    ) -> Self {
        let authorization_ended =
            authorization_ended(gateway.clone(), subscriber.expires_at, subscriber.claims.clone()).boxed();
        let (heartbeat, open) = (gateway.config.heartbeat_interval, OpenStreamGauge::new(transport));
        let mut heartbeat = tokio::time::interval_at(Instant::now() + heartbeat, heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let personal_data = subscriber.personal_data;
        Self { personal_data, follower, authorization_ended, heartbeat, open, _permit: permit }
    }

    /// The last position that was returned or filtered out.
    pub fn at(&self) -> u64 {
        self.follower.at()
    }

    /// Counts the reason for its end.
    pub fn count_closed(&self, reason: DisconnectReason) {
        metrics::counter!("annals_event_streams_closed_total", "transport" => self.open.0, "code" => reason.as_str())
            .increment(1);
    }

    /// The next event to send. Cancel-safe.
    pub async fn next(&mut self) -> SessionEvent {
        tokio::select! {
            biased;
            reason = &mut self.authorization_ended => SessionEvent::Closed(reason),
            next = self.follower.next() => {
                self.heartbeat.reset();
                next.map_or_else(SessionEvent::Closed, SessionEvent::Frames)
            }
            _ = self.heartbeat.tick() => SessionEvent::Heartbeat,
        }
    }
}
