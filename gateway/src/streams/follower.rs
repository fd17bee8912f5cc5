//! The position of one client in a tenant's log. Events come from the ring. A client whose position
//! is before the ring reads the log.

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

/// Maximum events of one read.
const PAGE_SIZE: usize = 64;
/// The pause before a failed read is retried.
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
    /// A running read. It is stored here, so that the future of [`next`](Self::next) may be dropped at any point.
    reading: Option<AbortOnDropHandle<Result<CatchUpPage, FrameError>>>,
}

/// Encoded events of one page of the log.
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

    /// The handle to the tenant's data.
    pub fn tenant(&self) -> &TenantStore {
        &self.handle
    }

    /// The id of the log.
    pub fn log_id(&self) -> LogId {
        self.ring.log_id
    }

    /// The last position of the log that this follower has seen.
    pub fn end(&self) -> u64 {
        self.ring.end()
    }

    /// The last position that was returned or filtered out.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The next events, in order of position. Cancel-safe.
    pub async fn next(&mut self) -> Result<Vec<Arc<Frame>>, DisconnectReason> {
        loop {
            // Mark the value as seen before reading, so that a change in between wakes this future at once.
            self.head_updates.mark_unchanged();
            let found = match self.ring.read_after(self.at, &self.filter) {
                RingRead::Closed(reason) => return Err(reason),
                RingRead::UpToDate => {
                    // The ring owns the sender and is held here, so the sender is alive.
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
            // Yield, so that a long log without a match does not block other tasks of this thread.
            tokio::task::yield_now().await;
        }
    }

    /// Reads a page of the log, at most up to the start of the ring.
    async fn read(&mut self, up_to: u64) -> Result<Vec<Arc<Frame>>, DisconnectReason> {
        let (after, handle, filter) = (self.at, self.handle.clone(), self.filter.clone());
        let slug = self.slug.clone();
        let catch_up_permits = self.catch_up_permits.clone();
        let reading = self.reading.get_or_insert_with(|| {
            AbortOnDropHandle::new(tokio::spawn(async move {
                // A full queue is ignored: each stream has at most one read at a time anyway.
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
