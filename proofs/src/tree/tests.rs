//! The tree against the vectors of RFC 6962's reference implementation, against a definition by recursion and against
//! an implementation that nobody here wrote.

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use proptest::prelude::*;
use sha2::Sha256;

use super::*;
use crate::frame::leaf_hash;

/// The eight leaves of the reference implementation of Certificate Transparency.
const LEAVES: [&str; 8] =
    ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
/// The roots of the trees of the first one, two, ... of them.
const ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}

/// A log of `size` leaves with all perfect subtrees kept.
struct Log {
    frontier: Frontier,
    nodes: HashMap<Node, Hash>,
}

impl Log {
    fn of(size: u64) -> Self {
        let mut log = Self { frontier: Frontier::default(), nodes: HashMap::new() };
        for index in 0..size {
            let hash = leaf(index);
            log.nodes.insert(Node { height: 0, index }, hash);
            let nodes = &mut log.nodes;
            log.frontier.push(hash, |node, hash| {
                nodes.insert(node, hash);
            });
        }
        log
    }

    fn path(&self, spans: &[Span]) -> Vec<Hash> {
        spans.iter().map(|span| span.hash(&self.nodes).expect("all subtrees are kept")).collect()
    }
}

fn leaf(index: u64) -> Hash {
    leaf_hash(&index.to_be_bytes())
}

/// `MTH` as the RFC defines it.
fn root_by_definition(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len() as u64) as usize);
            node_hash(&root_by_definition(left), &root_by_definition(right))
        }
    }
}

#[test]
fn the_roots_are_those_of_the_reference_implementation() {
    let mut frontier = Frontier::default();
    assert_eq!(
        frontier.root().to_vec(),
        unhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    );
    for (entry, root) in LEAVES.iter().zip(ROOTS) {
        frontier.push(leaf_hash(&unhex(entry)), |_, _| {});
        assert_eq!(frontier.root().to_vec(), unhex(root));
    }
}

#[test]
fn every_proof_of_every_small_tree_verifies_and_no_other_leaf_or_root_does() {
    let roots: Vec<Hash> = (0..=40).map(|size| Log::of(size).frontier.root()).collect();
    for size in 1..=40u64 {
        let log = Log::of(size);
        let leaves: Vec<Hash> = (0..size).map(leaf).collect();
        assert_eq!(log.frontier.root(), root_by_definition(&leaves));
        let root = roots[size as usize];
        for index in 0..size {
            let path = log.path(&inclusion(index, size).expect("there is such a leaf"));
            assert!(verify_inclusion(index, size, &leaf(index), &path, &root));
            for other in 0..size {
                assert_eq!(verify_inclusion(other, size, &leaf(index), &path, &root), other == index);
            }
            assert!(!verify_inclusion(index, size, &leaf(size), &path, &root));
        }
        for from in 1..=size {
            let path = log.path(&consistency(from, size).expect("in order"));
            assert!(verify_consistency(from, &roots[from as usize], size, &root, &path), "{from} of {size}");
            for other in (0..40).filter(|other| *other != from as usize) {
                assert!(!verify_consistency(from, &roots[other], size, &root, &path), "{from} of {size}");
            }
            assert!(!verify_consistency(from, &roots[from as usize], size, &empty_root(), &path));
        }
    }
}

#[test]
fn what_is_not_there_has_no_proof() {
    assert_eq!(inclusion(3, 3), None);
    assert_eq!(inclusion(0, 0), None);
    assert_eq!(consistency(0, 3), None);
    assert_eq!(consistency(4, 3), None);
    assert!(!verify_inclusion(3, 3, &leaf(3), &[], &empty_root()));
    assert!(verify_consistency(0, &empty_root(), 3, &leaf(0), &[]));
    assert!(!verify_consistency(3, &leaf(0), 2, &leaf(0), &[]));
}

#[test]
fn a_frontier_of_subtrees_is_that_of_their_leaves() {
    let log = Log::of(100);
    for start in 0..100 {
        let mut frontier = Log::of(start).frontier;
        for node in (Span { start, end: 100 }).nodes() {
            assert!(frontier.push_subtree(node.height, log.nodes[&node]));
        }
        assert_eq!(frontier, log.frontier);
    }
    let mut odd = Log::of(3).frontier;
    assert!(!odd.push_subtree(1, leaf(0)));
    assert_eq!(odd, Log::of(3).frontier);
}

#[test]
fn a_proof_in_a_log_of_a_billion_events_has_thirty_hashes_at_most() {
    let size = 1_000_000_000;
    for index in [0, 1, size / 2, size - 2, size - 1] {
        assert!(inclusion(index, size).expect("there is such a leaf").len() <= 30);
    }
}

proptest! {
    #[test]
    fn proofs_agree_with_another_implementation(size in 1u64..600, index in 0u64..600, from in 1u64..600) {
        let (index, from) = (index % size, from % size + 1);
        let mut other = MemoryBackedTree::<Sha256, [u8; 8]>::new();
        for leaf in 0..size {
            other.push(leaf.to_be_bytes());
        }
        let log = Log::of(size);
        prop_assert!(other.root().as_bytes().as_slice() == log.frontier.root());
        let path = log.path(&inclusion(index, size).expect("there is such a leaf"));
        prop_assert!(other.prove_inclusion(index as usize).as_bytes() == path.concat());
        if from < size {
            let path = log.path(&consistency(from, size).expect("in order"));
            prop_assert!(other.prove_consistency((size - from) as usize).as_bytes() == path.concat());
        }
    }

    #[test]
    fn nothing_that_comes_from_outside_makes_verification_panic(
        index: u64, size: u64, from: u64, path in proptest::collection::vec(any::<[u8; 32]>(), 0..70)
    ) {
        let hash = leaf(0);
        prop_assert!(!verify_inclusion(index, size, &hash, &path, &hash) || size == 1);
        let _ = verify_consistency(from, &hash, size, &hash, &path);
    }
}
