//! A stream as both ways out see it: the next events, a heartbeat when there were none for a while, and its end.

use std::pin::Pin;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use schemas::engine::clock;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep};
use tokio_util::sync::CancellationToken;

use super::closing::Closing;
use super::follower::Follower;
use super::frame::Frame;
use crate::auth::Watcher;
use crate::gateway::Gateway;

/// What a stream does next.
pub enum Step {
    /// Sends these.
    Frames(Vec<Arc<Frame>>),
    /// Shows that it is alive.
    Heartbeat,
    /// Ends.
    Closed(Closing),
}

/// An open stream in the metrics.
struct Open(&'static str);

impl Open {
    fn new(way: &'static str) -> Self {
        metrics::gauge!("event_streams_open", "way" => way).increment(1.0);
        Self(way)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        metrics::gauge!("event_streams_open", "way" => self.0).decrement(1.0);
    }
}

/// One open stream. It takes its place among the streams of this process until it is dropped.
pub struct Session {
    /// Whether personal data is sent open.
    pub personal: bool,
    follower: Follower,
    expiry: Pin<Box<Sleep>>,
    revoked: BoxFuture<'static, ()>,
    stopping: CancellationToken,
    heartbeat: Interval,
    open: Open,
    _place: OwnedSemaphorePermit,
}

impl Session {
    /// A stream that ends when the token does, or the process.
    pub fn new(
        way: &'static str,
        follower: Follower,
        watcher: &Watcher,
        gateway: &Gateway,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let left = (watcher.expires_at - clock::now()).to_std().unwrap_or_default();
        let (heartbeat, stopping) = (gateway.config.heartbeat, gateway.stopping.clone());
        let revoked = match (watcher.claims.clone(), gateway.clone()) {
            (Some(claims), of) => async move { of.service_tokens.revoked(&claims).await }.boxed(),
            (None, _) => std::future::pending().boxed(),
        };
        let mut heartbeat = tokio::time::interval_at(Instant::now() + heartbeat, heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (expiry, open) = (Box::pin(tokio::time::sleep(left)), Open::new(way));
        Self {
            personal: watcher.personal,
            follower,
            expiry,
            revoked,
            stopping,
            heartbeat,
            open,
            _place: place,
        }
    }

    /// Everything up to and with this position has been given out or does not match.
    pub fn at(&self) -> u64 {
        self.follower.at()
    }

    /// Counts why it ends.
    pub fn count_closed(&self, why: Closing) {
        metrics::counter!("event_streams_closed_total", "way" => self.open.0, "code" => why.as_str())
            .increment(1);
    }

    /// The next step. May be dropped and called again.
    pub async fn step(&mut self) -> Step {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => Step::Closed(Closing::Stopping),
            () = &mut self.expiry => Step::Closed(Closing::TokenExpired),
            () = &mut self.revoked => Step::Closed(Closing::TokenRevoked),
            next = self.follower.next() => {
                self.heartbeat.reset();
                next.map_or_else(Step::Closed, Step::Frames)
            }
            _ = self.heartbeat.tick() => Step::Heartbeat,
        }
    }
}
