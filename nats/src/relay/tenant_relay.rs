//! The relay's state for one tenant: the positions acknowledged by JetStream, the part of them that PostgreSQL stores,
//! and whether a page is in flight.

use super::page::{PAGE_SIZE_MAX, PageResult, RelayPage};
use super::progress::{AckedMessage, RelayMove, RelayProgress};
use schemas::engine::{LogId, TenantId, TenantSlug};

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent marks on a tenant, each with its own time")]
pub(super) struct TenantRelay {
    slug: TenantSlug,
    log_id: LogId,
    stream_epoch: u32,
    /// The last known head of the log.
    head: u64,
    /// End of the contiguous prefix that JetStream has acknowledged.
    acked: u64,
    /// End of the part of that prefix that PostgreSQL stores.
    stored: u64,
    /// The message with the highest stream position among those not stored yet.
    acked_message: AckedMessage,
    /// A page that begins before this position repeats an interrupted page.
    resend_until: u64,
    /// End of the stream range in which positions may be out of order, because a page was sent twice.
    /// A new connection sends what was queued when the old one broke, so the end of a page may precede its beginning.
    out_of_order_until: u64,
    /// Messages that had left the stream when the oldest page that is not stored was begun.
    removed: Option<u64>,
    state: TenantRelayState,
    /// The head has moved since the page in flight was begun.
    notified: bool,
    /// A move of the progress is running or queued.
    moving: bool,
    /// Another process moved the progress. The state must be read from the store again.
    invalidated: bool,
    /// A republish is wanted. No page is begun before it.
    paused: bool,
    failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TenantRelayState {
    Idle,
    Queued,
    Busy,
    Waiting,
    /// The tenant's events are being compared and republished.
    Republishing,
    /// The tenant's data break a rule that always holds.
    Stopped,
}

impl TenantRelay {
    pub(super) fn new(progress: &RelayProgress) -> Self {
        Self {
            slug: progress.slug.clone(),
            log_id: progress.log_id,
            stream_epoch: progress.stream_epoch,
            head: progress.head,
            acked: progress.acked,
            stored: progress.acked,
            acked_message: AckedMessage::default(),
            resend_until: 0,
            out_of_order_until: 0,
            removed: None,
            state: TenantRelayState::Idle,
            notified: false,
            moving: false,
            invalidated: false,
            paused: false,
            failures: 0,
        }
    }

    pub(super) fn log_id(&self) -> LogId {
        self.log_id
    }

    pub(super) fn acked_to(&self) -> u64 {
        self.acked
    }

    pub(super) fn stream_epoch(&self) -> u32 {
        self.stream_epoch
    }

    /// Requests a republish. Returns true if it may start now: nothing is in flight and everything is stored.
    pub(super) fn pause(&mut self) -> bool {
        self.paused = true;
        let quiet = self.state == TenantRelayState::Idle
            && !self.moving
            && !self.invalidated
            && self.stored == self.acked;
        if quiet {
            self.state = TenantRelayState::Republishing;
        }
        quiet
    }

    /// Cancels the request for a republish.
    pub(super) fn unpause(&mut self) {
        self.paused = false;
    }

    /// Ends a republish. The state must be read from the store again.
    pub(super) fn republish_finished(&mut self) {
        self.paused = false;
        self.state = TenantRelayState::Idle;
        self.invalidate();
    }

    /// The head has moved, to an unknown position.
    pub(super) fn notify(&mut self) {
        self.notified = true;
    }

    /// Returns whether the tenant must be queued now, and marks it as queued.
    pub(super) fn enqueue(&mut self) -> bool {
        let due = self.state == TenantRelayState::Idle
            && !self.invalidated
            && !self.paused
            && (self.notified || self.acked < self.head);
        if due {
            self.state = TenantRelayState::Queued;
        }
        due
    }

    /// The next page, or `None` if there is nothing to publish. `removed` is the number of messages that have left the
    /// stream.
    pub(super) fn begin(&mut self, limit: usize, removed: u64) -> Option<RelayPage> {
        if self.invalidated || self.paused {
            self.state = TenantRelayState::Idle;
            return None;
        }
        self.state = TenantRelayState::Busy;
        self.notified = false;
        Some(RelayPage {
            slug: self.slug.clone(),
            log_id: self.log_id,
            stream_epoch: self.stream_epoch,
            after: self.acked,
            limit,
            removed,
        })
    }

    /// Removes the tenant from the queue, because it is now assigned to another process.
    pub(super) fn skip(&mut self) {
        self.state = TenantRelayState::Idle;
    }

    /// Records a page's acknowledgements. Returns true if a move of the progress must be queued.
    pub(super) fn acked(&mut self, page: &RelayPage, published: &PageResult) -> bool {
        let &PageResult { acked_to, acked_message, repeated, .. } = published;
        let same_log = (page.log_id, page.stream_epoch) == (self.log_id, self.stream_epoch);
        if self.invalidated || !same_log || acked_to <= self.acked {
            return false;
        }
        self.acked = acked_to;
        self.head = self.head.max(acked_to);
        self.acked_message = self.acked_message.later(acked_message);
        if repeated || page.after < self.resend_until {
            self.out_of_order_until = self.out_of_order_until.max(acked_message.sequence);
        }
        self.removed = Some(self.removed.map_or(page.removed, |removed| removed.min(page.removed)));
        !std::mem::replace(&mut self.moving, true)
    }

    /// Ends a page. `full` means that the log had at least as many events as the page took.
    pub(super) fn end(&mut self, full: bool) {
        self.state = TenantRelayState::Idle;
        self.failures = 0;
        if full {
            self.notified = true;
        } else {
            // The log ended here when it was read.
            self.head = self.head.min(self.acked);
        }
    }

    pub(super) fn fail(&mut self) -> u32 {
        self.state = TenantRelayState::Waiting;
        self.notified = true;
        self.resend_until = self.acked + PAGE_SIZE_MAX as u64;
        self.failures += 1;
        self.failures
    }

    /// Stops after a violation, until [`resume`](Self::resume).
    pub(super) fn stop(&mut self) {
        self.fail();
        self.state = TenantRelayState::Stopped;
    }

    /// Whether the state must be read from the store again.
    pub(super) fn is_invalidated(&self) -> bool {
        self.invalidated
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.state == TenantRelayState::Stopped
    }

    pub(super) fn resume(&mut self) {
        if matches!(self.state, TenantRelayState::Waiting | TenantRelayState::Stopped) {
            self.state = TenantRelayState::Idle;
        }
    }

    /// The move that stores the acknowledged position.
    pub(super) fn next_move(&mut self, tenant: TenantId) -> Option<RelayMove> {
        if self.invalidated || self.stored >= self.acked {
            self.moving = false;
            return None;
        }
        Some(RelayMove {
            tenant,
            log_id: self.log_id,
            stream_epoch: self.stream_epoch,
            from: self.stored,
            to: self.acked,
            removed: self.removed.unwrap_or_default(),
            acked_message: self.acked_message,
            out_of_order_until: self.out_of_order_until,
        })
    }

    /// Records a successful move. Returns true if there is more to store.
    pub(super) fn stored(&mut self, moved: &RelayMove) -> bool {
        let same_log = (moved.log_id, moved.stream_epoch) == (self.log_id, self.stream_epoch);
        if self.invalidated || !same_log {
            // The progress that was read meanwhile replaces the result of this move.
            return false;
        }
        self.stored = self.stored.max(moved.to);
        self.moving = self.acked > self.stored;
        if !self.moving {
            self.removed = None;
        }
        self.moving
    }

    /// A move failed because of an outage. Returns true if it must be queued again.
    pub(super) fn move_failed(&mut self) -> bool {
        self.moving = !self.invalidated;
        self.moving
    }

    pub(super) fn invalidate(&mut self) {
        self.invalidated = true;
        self.moving = false;
    }

    /// Applies head and progress as the store holds them.
    pub(super) fn apply_progress(&mut self, progress: &RelayProgress) {
        let same_log = (progress.log_id, progress.stream_epoch) == (self.log_id, self.stream_epoch);
        if self.invalidated || !same_log {
            // A page in flight belongs to the old state; `acked` drops its acknowledgements.
            if self.state == TenantRelayState::Busy {
                self.invalidated = true;
            } else {
                let (state, paused, failures) = (self.state, self.paused, self.failures);
                *self = Self { state, paused, failures, ..Self::new(progress) };
            }
            return;
        }
        self.head = self.head.max(progress.head);
        if progress.acked > self.acked {
            // Another relay has progressed further.
            self.acked = progress.acked;
            self.stored = progress.acked;
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const TENANT: TenantId = TenantId(Uuid::from_u128(9));

    fn progress(acked: u64, head: u64) -> RelayProgress {
        RelayProgress {
            tenant: TENANT,
            slug: TenantSlug::parse("acme").expect("a valid slug"),
            log_id: LogId(Uuid::from_u128(1)),
            stream_epoch: 0,
            is_single_epoch: true,
            acked,
            head,
            removed: Some(0),
            acked_message: AckedMessage::default(),
            out_of_order_until: 0,
        }
    }

    fn at(position: u64) -> AckedMessage {
        AckedMessage { sequence: position, position }
    }

    fn up_to(acked_to: u64) -> PageResult {
        PageResult { acked_to, acked_message: at(acked_to), full: true, repeated: false, failure: None }
    }

    fn moved(tenant_relay: &mut TenantRelay) -> Option<(u64, u64)> {
        tenant_relay.next_move(TENANT).map(|moved| (moved.from, moved.to))
    }

    fn a_move(from: u64, to: u64) -> RelayMove {
        RelayMove {
            tenant: TENANT,
            log_id: LogId(Uuid::from_u128(1)),
            stream_epoch: 0,
            from,
            to,
            removed: 0,
            acked_message: at(to),
            out_of_order_until: 0,
        }
    }

    #[test]
    fn a_tenant_is_queued_once_while_it_is_behind() {
        let mut tenant_relay = TenantRelay::new(&progress(3, 5));
        assert!(tenant_relay.enqueue());
        assert!(!tenant_relay.enqueue());
        let page = tenant_relay.begin(10, 0).expect("a page");
        assert_eq!(page.after, 3);
        assert!(!tenant_relay.enqueue(), "one page at a time");
        assert!(tenant_relay.acked(&page, &up_to(5)));
        tenant_relay.end(false);
        assert!(!tenant_relay.enqueue());
        tenant_relay.notify();
        assert!(tenant_relay.enqueue());
    }

    #[test]
    fn a_hint_during_a_page_leads_to_another_page() {
        let mut tenant_relay = TenantRelay::new(&progress(0, 1));
        assert!(tenant_relay.enqueue());
        let page = tenant_relay.begin(10, 0).expect("a page");
        tenant_relay.notify();
        assert!(tenant_relay.acked(&page, &up_to(1)));
        tenant_relay.end(false);
        assert!(tenant_relay.enqueue());
    }

    #[test]
    fn progress_is_stored_from_where_it_was_stored_last() {
        let mut tenant_relay = TenantRelay::new(&progress(0, 9));
        let page = tenant_relay.begin(4, 0).expect("a page");
        assert!(tenant_relay.acked(&page, &up_to(4)));
        assert_eq!(moved(&mut tenant_relay), Some((0, 4)));
        tenant_relay.end(true);
        let page = tenant_relay.begin(4, 0).expect("a page");
        assert!(!tenant_relay.acked(&page, &up_to(8)), "a move is under way");
        assert!(tenant_relay.stored(&a_move(0, 4)), "there is more to store");
        assert_eq!(moved(&mut tenant_relay), Some((4, 8)));
        assert!(!tenant_relay.stored(&a_move(4, 8)));
    }

    #[test]
    fn after_a_failure_publishing_starts_at_the_acknowledged_prefix() {
        let mut tenant_relay = TenantRelay::new(&progress(0, 9));
        let page = tenant_relay.begin(10, 0).expect("a page");
        assert!(tenant_relay.acked(&page, &up_to(6)));
        assert_eq!(tenant_relay.fail(), 1);
        assert!(!tenant_relay.enqueue(), "it waits first");
        tenant_relay.resume();
        assert!(tenant_relay.enqueue());
        assert_eq!(tenant_relay.begin(10, 0).expect("a page").after, 6);
    }

    #[test]
    fn a_stopped_tenant_is_neither_published_nor_republished_before_the_pause_is_over() {
        let mut tenant_relay = TenantRelay::new(&progress(0, 9));
        tenant_relay.begin(10, 0).expect("a page");
        tenant_relay.stop();
        tenant_relay.notify();
        tenant_relay.apply_progress(&progress(0, 10));
        assert!(tenant_relay.is_stopped() && !tenant_relay.enqueue() && !tenant_relay.pause());
        tenant_relay.unpause();
        tenant_relay.resume();
        assert!(tenant_relay.enqueue());
        assert_eq!(tenant_relay.begin(10, 0).expect("a page").after, 0);
    }

    #[test]
    fn another_relays_progress_is_taken_over() {
        let mut tenant_relay = TenantRelay::new(&progress(2, 9));
        tenant_relay.apply_progress(&progress(7, 9));
        assert_eq!(tenant_relay.begin(10, 0).expect("a page").after, 7);
    }

    #[test]
    fn a_lost_move_is_settled_by_what_the_store_says() {
        let mut tenant_relay = TenantRelay::new(&progress(2, 9));
        let page = tenant_relay.begin(10, 0).expect("a page");
        assert!(tenant_relay.acked(&page, &up_to(9)));
        tenant_relay.end(false);
        assert_eq!(moved(&mut tenant_relay), Some((2, 9)));
        tenant_relay.invalidate();
        assert!(!tenant_relay.enqueue(), "nothing is published before the store was asked");
        tenant_relay.apply_progress(&progress(5, 9));
        assert!(tenant_relay.enqueue());
        assert_eq!(tenant_relay.begin(10, 0).expect("a page").after, 5);
    }

    #[test]
    fn a_new_generation_starts_over() {
        let mut tenant_relay = TenantRelay::new(&progress(9, 9));
        tenant_relay.notify();
        let page = tenant_relay.begin(10, 0).expect("a page");
        let raised = RelayProgress { stream_epoch: 1, ..progress(0, 9) };
        tenant_relay.apply_progress(&raised);
        assert!(!tenant_relay.acked(&page, &up_to(10)), "what was under way belongs to the old generation");
        tenant_relay.end(false);
        tenant_relay.apply_progress(&raised);
        assert!(tenant_relay.enqueue());
        let page = tenant_relay.begin(10, 0).expect("a page");
        assert_eq!((page.after, page.stream_epoch), (0, 1));
        assert!(!tenant_relay.stored(&a_move(0, 9)), "a move of the old generation that ends late");
        assert!(tenant_relay.acked(&page, &up_to(4)));
        assert_eq!(moved(&mut tenant_relay), Some((0, 4)));
    }

    #[test]
    fn a_refill_waits_for_what_is_under_way_and_holds_up_what_is_not() {
        let mut tenant_relay = TenantRelay::new(&progress(3, 5));
        let page = tenant_relay.begin(10, 0).expect("a page");
        assert!(!tenant_relay.pause(), "a page is under way");
        assert!(tenant_relay.acked(&page, &up_to(5)));
        tenant_relay.end(true);
        assert!(!tenant_relay.pause(), "it is not stored");
        assert!(!tenant_relay.enqueue());
        assert!(!tenant_relay.stored(&a_move(3, 5)));
        assert!(tenant_relay.pause());
        tenant_relay.republish_finished();
        assert!(!tenant_relay.enqueue(), "the store says how it ended");
        tenant_relay.apply_progress(&RelayProgress { stream_epoch: 1, ..progress(1, 5) });
        assert!(tenant_relay.enqueue());
        let page = tenant_relay.begin(10, 0).expect("a page");
        assert_eq!((page.after, page.stream_epoch), (1, 1));
    }

    #[test]
    fn progress_is_stored_with_the_loss_that_was_known_when_its_oldest_page_began() {
        let mut tenant_relay = TenantRelay::new(&progress(0, 9));
        let first = tenant_relay.begin(4, 7).expect("a page");
        assert!(tenant_relay.acked(&first, &PageResult { acked_message: at(40), ..up_to(4) }));
        tenant_relay.end(true);
        let second = tenant_relay.begin(4, 8).expect("a page");
        assert!(!tenant_relay.acked(&second, &PageResult { acked_message: at(30), ..up_to(8) }));
        let moved = tenant_relay.next_move(TENANT).expect("a move");
        assert_eq!((moved.removed, moved.acked_message), (7, at(40)));
    }

    #[test]
    fn places_of_what_was_sent_before_are_marked_as_disordered() {
        let mut tenant_relay = TenantRelay::new(&progress(0, 2_000));
        let page = |tenant_relay: &mut TenantRelay, published: PageResult| {
            let page = tenant_relay.begin(PAGE_SIZE_MAX, 0).expect("a page");
            tenant_relay.acked(&page, &published);
            tenant_relay.end(true);
            tenant_relay.next_move(TENANT).expect("a move").out_of_order_until
        };
        assert_eq!(page(&mut tenant_relay, up_to(250)), 0);
        assert_eq!(
            page(&mut tenant_relay, PageResult { repeated: true, ..up_to(500) }),
            500,
            "by whoever was before"
        );
        let interrupted = tenant_relay.begin(PAGE_SIZE_MAX, 0).expect("a page");
        tenant_relay.acked(&interrupted, &up_to(600));
        tenant_relay.fail();
        tenant_relay.resume();
        assert_eq!(page(&mut tenant_relay, up_to(850)), 850);
        assert_eq!(page(&mut tenant_relay, up_to(1_100)), 850);
    }
}
