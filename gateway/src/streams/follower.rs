//! One client's place in a tenant's log: it takes what the ring holds, and reads the log where it is behind the ring.

use std::sync::Arc;
use std::time::Duration;

use fairness::Permits;
use futures::FutureExt;
use schemas::engine::{LogId, TenantId, TenantSlug};
use store::{Causes, LogFilter, TenantStore};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::disconnect_reason::DisconnectReason;
use super::frame::{Frame, FrameError};
use super::ring::{Ring, RingRead};

/// Events of one read.
const PAGE_SIZE: usize = 64;
/// The wait until an outage is looked at again.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// A follower of one tenant's log.
pub struct StreamFollower {
    ring: Arc<Ring>,
    head_updates: watch::Receiver<u64>,
    handle: TenantStore,
    slug: TenantSlug,
    filter: LogFilter,
    at: u64,
    catch_up_permits: Permits<TenantId>,
    /// A read under way, kept so that [`next`](Self::next) may be dropped at any point.
    reading: Option<AbortOnDropHandle<Result<CatchUpPage, FrameError>>>,
}

/// A page of the log, ready to be sent.
struct CatchUpPage {
    log_id: LogId,
    frames: Vec<Arc<Frame>>,
    scanned_to: u64,
}

impl StreamFollower {
    pub(super) fn new(
        ring: Arc<Ring>,
        handle: TenantStore,
        slug: TenantSlug,
        after: u64,
        filter: LogFilter,
        catch_up_permits: Permits<TenantId>,
    ) -> Self {
        let head_updates = ring.head_updates();
        Self { ring, head_updates, handle, slug, filter, at: after, catch_up_permits, reading: None }
    }

    /// The log that is followed.
    pub fn log_id(&self) -> LogId {
        self.ring.log_id
    }

    /// The end of the log, as far as it has been seen here.
    pub fn end(&self) -> u64 {
        self.ring.end()
    }

    /// Everything up to and with this position has been given out or does not match.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// What comes next, in position order. May be dropped and called again.
    pub async fn next(&mut self) -> Result<Vec<Arc<Frame>>, DisconnectReason> {
        loop {
            // Marked as seen before looking, so that a move in between wakes at once.
            self.head_updates.mark_unchanged();
            let found = match self.ring.read_after(self.at, &self.filter) {
                RingRead::Closed(reason) => return Err(reason),
                RingRead::UpToDate => {
                    // The sender lives as long as the ring, which is held here.
                    drop(self.head_updates.changed().await);
                    continue;
                }
                RingRead::Frames { frames, scanned_to } => {
                    self.at = scanned_to;
                    frames
                }
                RingRead::BeforeStart(start) => self.read(start).await?,
            };
            if !found.is_empty() {
                return Ok(found);
            }
            // A long log without a match must not keep the others of this thread waiting.
            tokio::task::yield_now().await;
        }
    }

    /// A page of the log, up to where the ring begins.
    async fn read(&mut self, up_to: u64) -> Result<Vec<Arc<Frame>>, DisconnectReason> {
        let (after, handle, filter) = (self.at, self.handle.clone(), self.filter.clone());
        let slug = self.slug.clone();
        let catch_up_permits = self.catch_up_permits.clone();
        let reading = self.reading.get_or_insert_with(|| {
            AbortOnDropHandle::new(tokio::spawn(async move {
                // A queue that is full bounds nothing more here: each stream has one read at a time.
                let _permit = catch_up_permits.acquire(handle.id()).await.ok();
                metrics::counter!("annals_event_stream_reads_total", "source" => "consumer").increment(1);
                let page = handle.read_log_page(after, Some(up_to), PAGE_SIZE, &filter).await?;
                let frames = Frame::from_events(&handle, &slug, page.events).await?;
                Ok(CatchUpPage { log_id: page.log_id, frames, scanned_to: page.scanned_to })
            }))
        });
        let read = reading.map(|ended| ended.map_err(|_panicked| DisconnectReason::Internal)).await;
        self.reading = None;
        match read? {
            Ok(page) if page.log_id != self.ring.log_id => Err(DisconnectReason::LogReplaced),
            Ok(page) => {
                self.at = page.scanned_to;
                Ok(page.frames)
            }
            Err(FrameError::Store(error)) if error.is_unavailable() => {
                tokio::time::sleep(RETRY_DELAY).await;
                Ok(Vec::new())
            }
            Err(error) => {
                tracing::error!(tenant = %self.handle.id(), error = %Causes(&error), "the log cannot be read for a follower");
                Err(DisconnectReason::Internal)
            }
        }
    }
}
