//! The fingerprints of the rules' source code, for snapshots of states.

use store::SnapshotFold;

use super::decider::Decider;

include!(concat!(env!("OUT_DIR"), "/fingerprints.rs"));

/// The fold of the events of `A` into its state.
pub(crate) fn snapshot_fold<A: Decider>() -> SnapshotFold {
    let context = A::CATEGORY.split_once('.').map_or(A::CATEGORY, |(context, _)| context);
    SnapshotFold { name: "rules", fingerprint: of_context(context) }
}
