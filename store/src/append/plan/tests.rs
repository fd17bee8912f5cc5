//! The planner's rules, without a database.

use schemas::engine::{Actor, EventType, Metadata};
use tokio::sync::oneshot;

use super::super::capacity::QueueCapacity;
use super::super::{NewEvent, Reservation, StreamAppend};
use super::*;
use crate::stored_receipt::ReceiptFormat;
use crate::{DeploymentKey, IdempotencyClaim};

struct Given {
    tenant: TenantId,
    view: HashMap<TenantId, TenantView>,
    batch: Vec<PendingAppend>,
}

fn stream(name: u128) -> StreamName {
    StreamName::new("crm.customer", Uuid::from_u128(name))
}

fn given_head(position: u64) -> Given {
    let tenant = TenantId(Uuid::from_u128(7));
    let head = HeadView {
        log_id: LogId(Uuid::from_u128(8)),
        position,
        recorded_at: DateTime::UNIX_EPOCH,
        fence: Uuid::nil(),
    };
    let view = TenantView {
        head,
        versions: HashMap::new(),
        fresh: HashSet::new(),
        receipts: HashMap::new(),
        holders: HashMap::new(),
    };
    Given { tenant, view: HashMap::from([(tenant, view)]), batch: Vec::new() }
}

impl Given {
    fn view(&mut self) -> &mut TenantView {
        self.view.get_mut(&self.tenant).expect("given")
    }

    fn cached_version(mut self, name: u128, version: u64) -> Self {
        self.view().versions.insert(stream(name), version);
        self
    }

    fn fresh(mut self, name: u128, version: u64) -> Self {
        self.view().fresh.insert(stream(name));
        self.cached_version(name, version)
    }

    fn append(self, name: u128, expected: ExpectedVersion, events: usize) -> Self {
        self.append_with(name, expected, events, |_| {})
    }

    fn append_with(
        mut self,
        name: u128,
        expected: ExpectedVersion,
        events: usize,
        change: impl FnOnce(&mut StreamAppend),
    ) -> Self {
        let event = NewEvent {
            event_id: None,
            event_type: EventType::parse("crm.customer.renamed.v1").expect("valid"),
            payload: "{}".into(),
            subject_keys: Vec::new(),
        };
        let metadata = Metadata::new(Actor::system("test"), Uuid::nil());
        let mut append = StreamAppend::new(stream(name), expected, vec![event; events], metadata);
        change(&mut append);
        self.batch.push(PendingAppend {
            tenant: self.tenant,
            append,
            metadata: "{}".into(),
            event_ids: Vec::new(),
            bytes: 2,
            attempts: 0,
            needs_version_lookup: false,
            reply: oneshot::channel().0,
            _permit: QueueCapacity::new(1, 2).try_acquire(self.tenant, 2).expect("free"),
        });
        self
    }

    fn plan(&self) -> Plan {
        let digest = |_: TenantId, _: &'static str, value: &str| {
            let mut digest = [0; 32];
            digest[..value.len()].copy_from_slice(value.as_bytes());
            digest
        };
        plan(
            &self.batch,
            &self.view,
            DateTime::UNIX_EPOCH,
            &EventIds::new(&DeploymentKey::generate()),
            &digest,
        )
    }
}

fn written(decision: &Decision) -> (u64, u64, u64) {
    match decision {
        Decision::Write(receipt) => (receipt.version, receipt.first_position, receipt.position),
        other => panic!("not written: {other:?}"),
    }
}

fn conflict(decision: &Decision) -> (u64, bool) {
    match decision {
        Decision::Answer { result: Err(AppendError::VersionConflict { actual }), requires_swap } => {
            (*actual, *requires_swap)
        }
        other => panic!("no conflict: {other:?}"),
    }
}

fn email(value: &str) -> Reservation {
    Reservation { kind: "email", value: value.to_owned() }
}

fn claim(digest: u8) -> IdempotencyClaim {
    IdempotencyClaim::new(Uuid::from_u128(1), [digest; 32])
}

/// A receipt of a claim with the digest 5.
fn stored(format: ReceiptFormat, receipt: Option<Receipt>) -> StoredReceipt {
    StoredReceipt { format, digest: [5; 32], receipt }
}

fn is_reused(decision: &Decision) -> bool {
    matches!(decision, Decision::Answer { result: Err(AppendError::CommandIdReused), requires_swap: false })
}

#[test]
fn positions_are_dense_over_all_appends_of_a_flush() {
    let plan = given_head(10)
        .fresh(1, 0)
        .fresh(2, 4)
        .append(1, ExpectedVersion::NoStream, 3)
        .append(2, ExpectedVersion::Exact(4), 1)
        .append(1, ExpectedVersion::Exact(3), 2)
        .plan();
    assert_eq!(written(&plan.decisions[0]), (3, 11, 13));
    assert_eq!(written(&plan.decisions[1]), (5, 14, 14));
    assert_eq!(written(&plan.decisions[2]), (5, 15, 16));
    let positions: Vec<u64> = plan.rows.iter().map(|row| row.position).collect();
    assert_eq!(positions, (11..=16).collect::<Vec<_>>());
    let (before, after) = plan.moves.values().next().expect("moved");
    assert_eq!((before.position, after.position), (10, 16));
}

#[test]
fn a_stale_writer_is_told_the_actual_version_at_once() {
    let plan = given_head(9).fresh(1, 5).append(1, ExpectedVersion::Exact(3), 1).plan();
    assert_eq!(conflict(&plan.decisions[0]), (5, false));
    assert!(plan.rows.is_empty() && plan.moves.is_empty());
}

#[test]
fn a_remembered_version_is_told_only_if_the_flush_proves_it() {
    let plan = given_head(9).cached_version(1, 5).append(1, ExpectedVersion::Exact(3), 1).plan();
    assert_eq!(conflict(&plan.decisions[0]), (5, true));
}

#[test]
fn a_writer_who_knows_more_than_the_cache_makes_it_look_again() {
    let cached_version = given_head(9).cached_version(1, 5).append(1, ExpectedVersion::Exact(6), 1).plan();
    assert!(matches!(cached_version.decisions[0], Decision::Refresh));
    let fresh = given_head(9).fresh(1, 5).append(1, ExpectedVersion::Exact(6), 1).plan();
    assert_eq!(conflict(&fresh.decisions[0]), (5, false));
}

#[test]
fn a_conflict_with_the_same_flush_counts_only_if_the_flush_does() {
    let plan = given_head(0)
        .fresh(1, 0)
        .append(1, ExpectedVersion::NoStream, 1)
        .append(1, ExpectedVersion::NoStream, 1)
        .plan();
    assert_eq!(conflict(&plan.decisions[1]), (1, true));
}

#[test]
fn a_command_id_answers_with_its_receipt_or_is_refused() {
    let mut given = given_head(3)
        .cached_version(1, 1)
        .append_with(1, ExpectedVersion::NoStream, 1, |append| append.claim = Some(claim(5)))
        .append_with(1, ExpectedVersion::Any, 1, |append| append.claim = Some(claim(6)));
    let receipt = Receipt {
        stream: stream(1),
        version: 1,
        log_id: LogId(Uuid::nil()),
        first_position: 2,
        position: 2,
        count: 1,
        recorded_at: None,
        duplicate: true,
    };
    given
        .view()
        .receipts
        .insert(Uuid::from_u128(1), stored(ReceiptFormat::DerivedKey, Some(receipt.clone())));
    let plan = given.plan();
    assert!(matches!(&plan.decisions[0], Decision::Answer { result: Ok(found), .. } if *found == receipt));
    assert!(is_reused(&plan.decisions[1]));
}

#[test]
fn a_command_id_twice_in_a_flush_waits_for_the_next() {
    let plan = given_head(0)
        .fresh(1, 0)
        .append_with(1, ExpectedVersion::NoStream, 1, |append| append.claim = Some(claim(5)))
        .append_with(1, ExpectedVersion::NoStream, 1, |append| append.claim = Some(claim(5)))
        .plan();
    assert_eq!(written(&plan.decisions[0]), (1, 1, 1));
    assert!(matches!(plan.decisions[1], Decision::Defer));
}

#[test]
fn a_receipt_without_events_moves_the_fence_and_nothing_else() {
    let plan = given_head(9)
        .cached_version(1, 5)
        .append_with(1, ExpectedVersion::Exact(5), 0, |append| append.claim = Some(claim(5)))
        .append_with(1, ExpectedVersion::Exact(5), 0, |append| append.claim = Some(claim(5)))
        .append(1, ExpectedVersion::Exact(5), 1)
        .plan();
    assert_eq!(written(&plan.decisions[0]), (5, 9, 9));
    assert!(matches!(plan.decisions[1], Decision::Defer), "a second one under the key waits for the first");
    assert_eq!(written(&plan.decisions[2]), (6, 10, 10));
    let alone = given_head(9)
        .cached_version(1, 5)
        .append_with(1, ExpectedVersion::Exact(5), 0, |append| append.claim = Some(claim(5)))
        .plan();
    let (before, after) = alone.moves.values().next().expect("the swap proves the version");
    assert_eq!((before.position, before.recorded_at), (after.position, after.recorded_at));
    assert_ne!(before.fence, after.fence);
    assert!(alone.rows.is_empty());
}

#[test]
fn a_receipt_without_events_is_refused_where_the_stream_has_moved() {
    let plan = given_head(9)
        .fresh(1, 6)
        .append_with(1, ExpectedVersion::Exact(5), 0, |append| append.claim = Some(claim(5)))
        .plan();
    assert_eq!(conflict(&plan.decisions[0]), (6, false));
}

#[test]
fn a_key_that_a_request_has_used_is_used() {
    let mut given = given_head(3)
        .fresh(1, 0)
        .append_with(1, ExpectedVersion::Any, 1, |append| append.claim = Some(claim(5)));
    given.view().receipts.insert(Uuid::from_u128(1), stored(ReceiptFormat::DerivedKey, None));
    assert!(is_reused(&given.plan().decisions[0]));
}

#[test]
fn a_plain_key_finds_receipts_of_before_and_not_those_of_another_principal() {
    let plain = |append: &mut StreamAppend| {
        append.claim = Some(IdempotencyClaim { plain_key: Some(Uuid::from_u128(2)), ..claim(5) });
    };
    let given = || given_head(3).fresh(1, 0).append_with(1, ExpectedVersion::Any, 1, plain);
    let mut before = given();
    before.view().receipts.insert(Uuid::from_u128(2), stored(ReceiptFormat::PlainKey, None));
    assert!(is_reused(&before.plan().decisions[0]));
    let mut other = given();
    other.view().receipts.insert(Uuid::from_u128(2), stored(ReceiptFormat::DerivedKey, None));
    assert_eq!(written(&other.plan().decisions[0]), (1, 4, 4));
}

#[test]
fn an_event_id_is_taken_once_even_within_its_stream() {
    let (id, key) = (Uuid::from_u128(77), [7; 32]);
    let mut twice =
        given_head(0).fresh(1, 0).append(1, ExpectedVersion::Any, 1).append(1, ExpectedVersion::Any, 1);
    twice.batch.iter_mut().for_each(|pending| pending.event_ids = vec![(id, key)]);
    let plan = twice.plan();
    assert_eq!(written(&plan.decisions[0]), (1, 1, 1));
    assert_eq!(plan.reservations[0], [(EVENT_ID_KIND, key)]);
    let taken = |decision: &Decision, swap: bool| match decision {
        Decision::Answer { result: Err(AppendError::EventIdTaken(taken)), requires_swap } => {
            *taken == id && *requires_swap == swap
        }
        _ => false,
    };
    assert!(taken(&plan.decisions[1], true));
    let mut held = given_head(0).fresh(1, 1).append(1, ExpectedVersion::Any, 1);
    held.batch[0].event_ids = vec![(id, key)];
    held.view().holders.insert((EVENT_ID_KIND, key), stream(1));
    assert!(taken(&held.plan().decisions[0], false));
}

#[test]
fn a_value_is_reserved_once() {
    let reserve = |append: &mut StreamAppend| append.reservations = vec![email("ada")];
    let plan = given_head(0)
        .fresh(1, 0)
        .fresh(2, 0)
        .append_with(1, ExpectedVersion::NoStream, 1, reserve)
        .append_with(2, ExpectedVersion::NoStream, 1, reserve)
        .plan();
    assert_eq!(written(&plan.decisions[0]), (1, 1, 1));
    match &plan.decisions[1] {
        Decision::Answer { result: Err(AppendError::Reserved { holder, .. }), requires_swap: true } => {
            assert_eq!(*holder, stream(1));
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_value_that_the_stream_holds_already_is_not_reserved_again() {
    let mut given = given_head(0).fresh(1, 1).append_with(1, ExpectedVersion::Any, 1, |append| {
        append.reservations = vec![email("ada"), email("ada")];
    });
    let mut key = [0; 32];
    key[..3].copy_from_slice(b"ada");
    given.view().holders.insert(("email", key), stream(1));
    let plan = given.plan();
    assert_eq!(written(&plan.decisions[0]), (2, 1, 1));
    assert!(plan.reservations[0].is_empty());
}

#[test]
fn a_value_taken_and_given_back_in_one_append_stays_taken() {
    let both = |append: &mut StreamAppend| {
        append.reservations = vec![email("ada")];
        append.releases = vec![email("ada")];
    };
    let plan = given_head(0).fresh(1, 0).append_with(1, ExpectedVersion::Any, 1, both).plan();
    assert_eq!((plan.reservations[0].len(), plan.releases[0].len()), (1, 0));
}

#[test]
fn a_value_released_in_a_flush_is_free_in_the_next() {
    let mut given = given_head(0)
        .fresh(1, 1)
        .fresh(2, 0)
        .append_with(1, ExpectedVersion::Any, 1, |append| append.releases = vec![email("ada")])
        .append_with(2, ExpectedVersion::NoStream, 1, |append| append.reservations = vec![email("ada")]);
    let mut key = [0; 32];
    key[..3].copy_from_slice(b"ada");
    given.view().holders.insert(("email", key), stream(1));
    assert!(matches!(given.plan().decisions[1], Decision::Defer));
}

#[test]
fn time_never_goes_back_in_a_log() {
    let mut given = given_head(0).fresh(1, 0).append(1, ExpectedVersion::NoStream, 1);
    let later = DateTime::UNIX_EPOCH + chrono::Duration::hours(1);
    given.view().head.recorded_at = later;
    let plan = given.plan();
    let (_, after) = plan.moves.values().next().expect("moved");
    assert_eq!(after.recorded_at, later);
}

#[test]
fn an_unknown_tenant_is_said_to_be_unknown() {
    let mut given = given_head(0).append(1, ExpectedVersion::Any, 1);
    given.view.clear();
    let unknown = Decision::Answer { result: Err(AppendError::TenantUnknown), requires_swap: false };
    assert_eq!(format!("{:?}", given.plan().decisions[0]), format!("{unknown:?}"));
}

#[test]
fn a_plan_with_a_gap_is_refused_for_its_tenant_alone() {
    let mut given = given_head(4).fresh(1, 0).fresh(2, 3).append(1, ExpectedVersion::Any, 2).append(
        2,
        ExpectedVersion::Any,
        1,
    );
    let other = TenantId(Uuid::from_u128(9));
    given.view.insert(other, given.view[&given.tenant].clone());
    given.tenant = other;
    let given = given.append(2, ExpectedVersion::Any, 1);
    let refused = |change: fn(&mut Plan)| {
        let mut plan = given.plan();
        assert_eq!((plan.rows.len(), plan.moves.len()), (4, 2), "the rules hold for what was planned");
        change(&mut plan);
        plan.refuse_gaps(&given.batch);
        assert!(matches!(&plan.decisions[2], Decision::Write(receipt) if receipt.position == 5));
        assert_eq!(plan.rows.iter().map(|row| row.tenant).collect::<Vec<_>>(), [other]);
        assert_eq!(plan.moves.keys().collect::<Vec<_>>(), [&other]);
        let violation = |decision: &Decision| match decision {
            Decision::Answer { result: Err(AppendError::Unavailable(error)), requires_swap: false } => {
                error.to_string()
            }
            decision => panic!("{decision:?}"),
        };
        assert_eq!(violation(&plan.decisions[0]), violation(&plan.decisions[1]));
        violation(&plan.decisions[0])
    };
    let positions = "the invariant log_positions does not hold at position";
    assert_eq!(refused(|plan| plan.rows[1].position += 1), format!("{positions} 6"));
    assert_eq!(refused(|plan| drop(plan.rows.remove(2))), format!("{positions} 7"));
    let versions = "the invariant stream_versions does not hold at position";
    assert_eq!(refused(|plan| plan.rows[1].version += 1), format!("{versions} 6"));
}
