//! What the relay knows of one tenant: how far JetStream has acknowledged, how far PostgreSQL has been told, whether a
//! page is under way.

use schemas::engine::{LogId, TenantId, TenantSlug};
use store::{RelayMark, RelayMove, RelayProgress};

use super::PAGE;
use super::page::{Page, Published};

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent marks on a tenant, each with its own time")]
pub(super) struct Lane {
    slug: TenantSlug,
    log_id: LogId,
    generation: u32,
    /// Where the log ended when last looked at.
    head: u64,
    /// The contiguous prefix that JetStream has acknowledged.
    acked: u64,
    /// The part of it that is stored.
    stored: u64,
    /// The farthest place in the stream among what is not stored yet.
    mark: RelayMark,
    /// A page that begins before this position repeats an interrupted one.
    repeats_to: u64,
    /// The farthest place of pages that were sent before, in part: what was queued when the connection broke is sent by the
    /// next one, so their end may stand in the stream before their beginning.
    disordered_to: u64,
    /// Messages that had left the stream before the oldest page of what is not stored was begun.
    removed: Option<u64>,
    state: State,
    /// The head has moved since the page under way was begun.
    hinted: bool,
    /// A move of the progress is under way or listed.
    moving: bool,
    /// Somebody else moved the progress: what the store says counts.
    disputed: bool,
    /// A refill is wanted: nothing is begun before.
    held: bool,
    failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Queued,
    Busy,
    Waiting,
    /// Its part of the stream is being compared and refilled.
    Refilling,
}

impl Lane {
    pub(super) fn new(progress: &RelayProgress) -> Self {
        Self {
            slug: progress.slug.clone(),
            log_id: progress.log_id,
            generation: progress.generation,
            head: progress.head,
            acked: progress.acked,
            stored: progress.acked,
            mark: RelayMark::default(),
            repeats_to: 0,
            disordered_to: 0,
            removed: None,
            state: State::Idle,
            hinted: false,
            moving: false,
            disputed: false,
            held: false,
            failures: 0,
        }
    }

    pub(super) fn log_id(&self) -> LogId {
        self.log_id
    }

    pub(super) fn acked_to(&self) -> u64 {
        self.acked
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// A refill is wanted; true where it may start now, because nothing is under way and everything is stored.
    pub(super) fn hold(&mut self) -> bool {
        self.held = true;
        let quiet = self.state == State::Idle && !self.moving && !self.disputed && self.stored == self.acked;
        if quiet {
            self.state = State::Refilling;
        }
        quiet
    }

    /// No refill is wanted any more.
    pub(super) fn let_go(&mut self) {
        self.held = false;
    }

    /// A refill has ended: what the store says counts.
    pub(super) fn refilled(&mut self) {
        self.held = false;
        self.state = State::Idle;
        self.dispute();
    }

    /// The head has moved, how far is not said.
    pub(super) fn hint(&mut self) {
        self.hinted = true;
    }

    /// Whether the tenant is to be queued now; from then on it counts as queued.
    pub(super) fn enqueue(&mut self) -> bool {
        let due = self.state == State::Idle
            && !self.disputed
            && !self.held
            && (self.hinted || self.acked < self.head);
        if due {
            self.state = State::Queued;
        }
        due
    }

    /// The next page; `removed` messages have left the stream by now.
    pub(super) fn begin(&mut self, limit: usize, removed: u64) -> Option<Page> {
        if self.disputed || self.held {
            self.state = State::Idle;
            return None;
        }
        self.state = State::Busy;
        self.hinted = false;
        Some(Page {
            slug: self.slug.clone(),
            log_id: self.log_id,
            generation: self.generation,
            after: self.acked,
            limit,
            removed,
        })
    }

    /// Its turn has come, but the tenant is another process's by now.
    pub(super) fn pass(&mut self) {
        self.state = State::Idle;
    }

    /// Takes a page's acknowledgements in; true where there is progress to store that is not listed yet.
    pub(super) fn acked(&mut self, page: &Page, published: &Published) -> bool {
        let &Published { acked_to, mark, repeated, .. } = published;
        let same_log = (page.log_id, page.generation) == (self.log_id, self.generation);
        if self.disputed || !same_log || acked_to <= self.acked {
            return false;
        }
        self.acked = acked_to;
        self.head = self.head.max(acked_to);
        self.mark = self.mark.farther(mark);
        if repeated || page.after < self.repeats_to {
            self.disordered_to = self.disordered_to.max(mark.sequence);
        }
        self.removed = Some(self.removed.map_or(page.removed, |removed| removed.min(page.removed)));
        !std::mem::replace(&mut self.moving, true)
    }

    /// Ends a page; `full` where the log had at least as much as the page took.
    pub(super) fn end(&mut self, full: bool) {
        self.state = State::Idle;
        self.failures = 0;
        if full {
            self.hinted = true;
        } else {
            // The log ended here at the time of reading.
            self.head = self.head.min(self.acked);
        }
    }

    pub(super) fn fail(&mut self) -> u32 {
        self.state = State::Waiting;
        self.hinted = true;
        self.repeats_to = self.acked + PAGE as u64;
        self.failures += 1;
        self.failures
    }

    pub(super) fn resume(&mut self) {
        if self.state == State::Waiting {
            self.state = State::Idle;
        }
    }

    /// The move that stores what is acknowledged by now.
    pub(super) fn next_move(&mut self, tenant: TenantId) -> Option<RelayMove> {
        if self.disputed || self.stored >= self.acked {
            self.moving = false;
            return None;
        }
        Some(RelayMove {
            tenant,
            log_id: self.log_id,
            generation: self.generation,
            from: self.stored,
            to: self.acked,
            removed: self.removed.unwrap_or_default(),
            mark: self.mark,
            disordered_to: self.disordered_to,
        })
    }

    /// A move succeeded; true where there is more to store already.
    pub(super) fn stored(&mut self, moved: &RelayMove) -> bool {
        let same_log = (moved.log_id, moved.generation) == (self.log_id, self.generation);
        if self.disputed || !same_log {
            // What the store said meanwhile counts more than a move of what was before.
            return false;
        }
        self.stored = self.stored.max(moved.to);
        self.moving = self.acked > self.stored;
        if !self.moving {
            self.removed = None;
        }
        self.moving
    }

    /// A move failed for an outage; true where it is to be listed again.
    pub(super) fn unmoved(&mut self) -> bool {
        self.moving = !self.disputed;
        self.moving
    }

    pub(super) fn dispute(&mut self) {
        self.disputed = true;
        self.moving = false;
    }

    /// Takes in what the store says of head and progress.
    pub(super) fn refreshed(&mut self, progress: &RelayProgress) {
        let same_log = (progress.log_id, progress.generation) == (self.log_id, self.generation);
        if self.disputed || !same_log {
            // A page under way belongs to what was before: its acknowledgements are dropped by `acked`.
            if self.state == State::Busy {
                self.disputed = true;
            } else {
                let (state, held, failures) = (self.state, self.held, self.failures);
                *self = Self { state, held, failures, ..Self::new(progress) };
            }
            return;
        }
        self.head = self.head.max(progress.head);
        if progress.acked > self.acked {
            // Another relay is ahead.
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
            generation: 0,
            one_filling: true,
            acked,
            head,
            removed: Some(0),
            mark: RelayMark::default(),
            disordered_to: 0,
        }
    }

    fn at(position: u64) -> RelayMark {
        RelayMark { sequence: position, position }
    }

    fn up_to(acked_to: u64) -> Published {
        Published { acked_to, mark: at(acked_to), full: true, repeated: false, failure: None }
    }

    fn moved(lane: &mut Lane) -> Option<(u64, u64)> {
        lane.next_move(TENANT).map(|moved| (moved.from, moved.to))
    }

    fn a_move(from: u64, to: u64) -> RelayMove {
        RelayMove {
            tenant: TENANT,
            log_id: LogId(Uuid::from_u128(1)),
            generation: 0,
            from,
            to,
            removed: 0,
            mark: at(to),
            disordered_to: 0,
        }
    }

    #[test]
    fn a_tenant_is_queued_once_while_it_is_behind() {
        let mut lane = Lane::new(&progress(3, 5));
        assert!(lane.enqueue());
        assert!(!lane.enqueue());
        let page = lane.begin(10, 0).expect("a page");
        assert_eq!(page.after, 3);
        assert!(!lane.enqueue(), "one page at a time");
        assert!(lane.acked(&page, &up_to(5)));
        lane.end(false);
        assert!(!lane.enqueue());
        lane.hint();
        assert!(lane.enqueue());
    }

    #[test]
    fn a_hint_during_a_page_leads_to_another_page() {
        let mut lane = Lane::new(&progress(0, 1));
        assert!(lane.enqueue());
        let page = lane.begin(10, 0).expect("a page");
        lane.hint();
        assert!(lane.acked(&page, &up_to(1)));
        lane.end(false);
        assert!(lane.enqueue());
    }

    #[test]
    fn progress_is_stored_from_where_it_was_stored_last() {
        let mut lane = Lane::new(&progress(0, 9));
        let page = lane.begin(4, 0).expect("a page");
        assert!(lane.acked(&page, &up_to(4)));
        assert_eq!(moved(&mut lane), Some((0, 4)));
        lane.end(true);
        let page = lane.begin(4, 0).expect("a page");
        assert!(!lane.acked(&page, &up_to(8)), "a move is under way");
        assert!(lane.stored(&a_move(0, 4)), "there is more to store");
        assert_eq!(moved(&mut lane), Some((4, 8)));
        assert!(!lane.stored(&a_move(4, 8)));
    }

    #[test]
    fn after_a_failure_publishing_starts_at_the_acknowledged_prefix() {
        let mut lane = Lane::new(&progress(0, 9));
        let page = lane.begin(10, 0).expect("a page");
        assert!(lane.acked(&page, &up_to(6)));
        assert_eq!(lane.fail(), 1);
        assert!(!lane.enqueue(), "it waits first");
        lane.resume();
        assert!(lane.enqueue());
        assert_eq!(lane.begin(10, 0).expect("a page").after, 6);
    }

    #[test]
    fn another_relays_progress_is_taken_over() {
        let mut lane = Lane::new(&progress(2, 9));
        lane.refreshed(&progress(7, 9));
        assert_eq!(lane.begin(10, 0).expect("a page").after, 7);
    }

    #[test]
    fn a_lost_move_is_settled_by_what_the_store_says() {
        let mut lane = Lane::new(&progress(2, 9));
        let page = lane.begin(10, 0).expect("a page");
        assert!(lane.acked(&page, &up_to(9)));
        lane.end(false);
        assert_eq!(moved(&mut lane), Some((2, 9)));
        lane.dispute();
        assert!(!lane.enqueue(), "nothing is published before the store was asked");
        lane.refreshed(&progress(5, 9));
        assert!(lane.enqueue());
        assert_eq!(lane.begin(10, 0).expect("a page").after, 5);
    }

    #[test]
    fn a_new_generation_starts_over() {
        let mut lane = Lane::new(&progress(9, 9));
        lane.hint();
        let page = lane.begin(10, 0).expect("a page");
        let raised = RelayProgress { generation: 1, ..progress(0, 9) };
        lane.refreshed(&raised);
        assert!(!lane.acked(&page, &up_to(10)), "what was under way belongs to the old generation");
        lane.end(false);
        lane.refreshed(&raised);
        assert!(lane.enqueue());
        let page = lane.begin(10, 0).expect("a page");
        assert_eq!((page.after, page.generation), (0, 1));
        assert!(!lane.stored(&a_move(0, 9)), "a move of the old generation that ends late");
        assert!(lane.acked(&page, &up_to(4)));
        assert_eq!(moved(&mut lane), Some((0, 4)));
    }

    #[test]
    fn a_refill_waits_for_what_is_under_way_and_holds_up_what_is_not() {
        let mut lane = Lane::new(&progress(3, 5));
        let page = lane.begin(10, 0).expect("a page");
        assert!(!lane.hold(), "a page is under way");
        assert!(lane.acked(&page, &up_to(5)));
        lane.end(true);
        assert!(!lane.hold(), "it is not stored");
        assert!(!lane.enqueue());
        assert!(!lane.stored(&a_move(3, 5)));
        assert!(lane.hold());
        lane.refilled();
        assert!(!lane.enqueue(), "the store says how it ended");
        lane.refreshed(&RelayProgress { generation: 1, ..progress(1, 5) });
        assert!(lane.enqueue());
        let page = lane.begin(10, 0).expect("a page");
        assert_eq!((page.after, page.generation), (1, 1));
    }

    #[test]
    fn progress_is_stored_with_the_loss_that_was_known_when_its_oldest_page_began() {
        let mut lane = Lane::new(&progress(0, 9));
        let first = lane.begin(4, 7).expect("a page");
        assert!(lane.acked(&first, &Published { mark: at(40), ..up_to(4) }));
        lane.end(true);
        let second = lane.begin(4, 8).expect("a page");
        assert!(!lane.acked(&second, &Published { mark: at(30), ..up_to(8) }));
        let moved = lane.next_move(TENANT).expect("a move");
        assert_eq!((moved.removed, moved.mark), (7, at(40)));
    }

    #[test]
    fn places_of_what_was_sent_before_are_marked_as_disordered() {
        let mut lane = Lane::new(&progress(0, 2_000));
        let page = |lane: &mut Lane, published: Published| {
            let page = lane.begin(PAGE, 0).expect("a page");
            lane.acked(&page, &published);
            lane.end(true);
            lane.next_move(TENANT).expect("a move").disordered_to
        };
        assert_eq!(page(&mut lane, up_to(250)), 0);
        assert_eq!(page(&mut lane, Published { repeated: true, ..up_to(500) }), 500, "by whoever was before");
        let interrupted = lane.begin(PAGE, 0).expect("a page");
        lane.acked(&interrupted, &up_to(600));
        lane.fail();
        lane.resume();
        assert_eq!(page(&mut lane, up_to(850)), 850);
        assert_eq!(page(&mut lane, up_to(1_100)), 850);
    }
}
