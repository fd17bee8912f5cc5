//! A stream as both ways out see it: the next events, a heartbeat when there were none for a while, and its end.

use std::sync::Arc;

use fairness::Permit;
use futures::FutureExt;
use futures::future::BoxFuture;
use schemas::engine::TenantId;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::closing::Closing;
use super::ending::right_ends;
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
        metrics::gauge!("annals_event_streams_open", "transport" => way).increment(1.0);
        Self(way)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        metrics::gauge!("annals_event_streams_open", "transport" => self.0).decrement(1.0);
    }
}

/// One open stream. It takes its place among the streams of this process until it is dropped.
pub struct Session {
    /// Whether personal data is sent open.
    pub personal: bool,
    follower: Follower,
    right_ends: BoxFuture<'static, Closing>,
    heartbeat: Interval,
    open: Open,
    _place: Permit<TenantId>,
}

impl Session {
    /// A stream that ends when the token does, or the process.
    pub fn new(
        way: &'static str,
        follower: Follower,
        watcher: &Watcher,
        gateway: &Gateway,
        place: Permit<TenantId>,
    ) -> Self {
        let right_ends = right_ends(gateway.clone(), watcher.expires_at, watcher.claims.clone()).boxed();
        let (heartbeat, open) = (gateway.config.heartbeat, Open::new(way));
        let mut heartbeat = tokio::time::interval_at(Instant::now() + heartbeat, heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let personal = watcher.personal;
        Self { personal, follower, right_ends, heartbeat, open, _place: place }
    }

    /// Everything up to and with this position has been given out or does not match.
    pub fn at(&self) -> u64 {
        self.follower.at()
    }

    /// Counts why it ends.
    pub fn count_closed(&self, why: Closing) {
        metrics::counter!("annals_event_streams_closed_total", "transport" => self.open.0, "code" => why.as_str())
            .increment(1);
    }

    /// The next step. May be dropped and called again.
    pub async fn step(&mut self) -> Step {
        tokio::select! {
            biased;
            why = &mut self.right_ends => Step::Closed(why),
            next = self.follower.next() => {
                self.heartbeat.reset();
                next.map_or_else(Step::Closed, Step::Frames)
            }
            _ = self.heartbeat.tick() => Step::Heartbeat,
        }
    }
}
