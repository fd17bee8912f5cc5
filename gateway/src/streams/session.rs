//! A stream independent of its protocol: the next events, a heartbeat when it is idle, and its end.

use std::sync::Arc;
use std::time::Duration;

use fairness::Permit;
use futures::FutureExt;
use futures::future::BoxFuture;
use schemas::engine::{LogId, TenantId};
use store::LogFilter;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::disconnect::AccessWatch;
use super::disconnect_reason::DisconnectReason;
use super::follower::StreamFollower;
use super::frame::Frame;
use super::hub::Hub;
use crate::auth::EventSubscriber;
use crate::config::StreamTimes;
use crate::http::Problem;
use crate::http::log_id::check_log_id;
use crate::limits::StreamLimit;

/// Opens event streams. Cheap to clone.
#[derive(Clone)]
pub struct Sessions(Arc<SessionsState>);

struct SessionsState {
    hub: Hub,
    limit: StreamLimit,
    times: StreamTimes,
    access: AccessWatch,
}

impl Sessions {
    /// Streams that `hub` supplies.
    pub fn new(hub: Hub, limit: StreamLimit, times: StreamTimes, access: AccessWatch) -> Self {
        Self(Arc::new(SessionsState { hub, limit, times, access }))
    }

    /// Opens a stream after the position `after` of the log `log`. Without `log` it is the present one. The stream ends
    /// when the right to read ends or the process stops.
    ///
    /// # Errors
    /// 503 when too many streams are open; 410 when `log` is not the present log.
    pub async fn open(
        &self,
        transport: &'static str,
        subscriber: &EventSubscriber,
        (log, after): (Option<LogId>, u64),
        filter: LogFilter,
    ) -> Result<Session, Problem> {
        let SessionsState { hub, limit, times, access } = &*self.0;
        let permit = limit.acquire(subscriber.record.id).await?;
        let follower = hub.follow(&subscriber.record, after, filter).await?;
        check_log_id(follower.tenant(), log, follower.log_id()).await?;
        let ended = access.clone().authorization_ended(subscriber.expires_at, subscriber.claims.clone());
        let interval = times.heartbeat_interval;
        let mut heartbeat = tokio::time::interval_at(Instant::now() + interval, interval);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Session {
            personal_data: subscriber.personal_data,
            slow_consumer_timeout: times.slow_consumer_timeout,
            follower,
            authorization_ended: ended.boxed(),
            heartbeat,
            open: OpenStreamGauge::new(transport),
            _permit: permit,
        })
    }
}

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
    /// How long the client may read nothing of the pending events. Then the stream is closed.
    pub slow_consumer_timeout: Duration,
    follower: StreamFollower,
    authorization_ended: BoxFuture<'static, DisconnectReason>,
    heartbeat: Interval,
    open: OpenStreamGauge,
    _permit: Permit<TenantId>,
}

impl Session {
    /// The id of the log.
    pub fn log_id(&self) -> LogId {
        self.follower.log_id()
    }

    /// The last position of the log that this stream has seen.
    pub fn end(&self) -> u64 {
        self.follower.end()
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
