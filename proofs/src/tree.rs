//! The Merkle tree of RFC 6962 over a log's leaves: its root, the subtrees of a proof, and the verification of proofs.
//!
//! A *span* is a range of leaf indices from 0. A *node* is the root of a perfect subtree: `(height, index)` covers `1
//! << height` leaves, from leaf `index << height`.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use crate::frame::Hash;

/// `SHA-256(0x01 || left || right)` (RFC 6962, section 2.1).
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([1]);
    hasher.update(left);
    hasher.update(right);
    hasher.finalize().into()
}

/// The root of a tree without leaves: the hash of the empty string.
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// The root of a perfect subtree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    /// The height; a leaf has height 0.
    pub height: u8,
    /// The index among the subtrees of this height, from 0.
    pub index: u64,
}

impl Node {
    /// The leaves that it covers.
    pub fn span(self) -> Span {
        Span { start: self.index << self.height, end: (self.index + 1) << self.height }
    }
}

/// A range of leaf indices, `start` included, `end` not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first leaf.
    pub start: u64,
    /// The leaf after the last.
    pub end: u64,
}

impl Span {
    /// The perfect subtrees that cover the span, from left to right, each as large as possible.
    pub fn nodes(self) -> Vec<Node> {
        let (mut nodes, mut at) = (Vec::new(), self.start);
        while at < self.end {
            let fits = (self.end - at).ilog2();
            let height = if at == 0 { fits } else { fits.min(at.trailing_zeros()) } as u8;
            nodes.push(Node { height, index: at >> height });
            at += 1 << height;
        }
        nodes
    }

    /// The hash of the subtree over the span, from the hashes of its [`Span::nodes`]; `None` if one is missing.
    pub fn hash(self, nodes: &HashMap<Node, Hash>) -> Option<Hash> {
        let hashes: Option<Vec<Hash>> = self.nodes().iter().map(|node| nodes.get(node).copied()).collect();
        hashes?.into_iter().rev().reduce(|right, left| node_hash(&left, &right))
    }
}

/// The perfect subtrees of a log of some size, the largest first. They suffice to add leaves and to compute the root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    /// The frontier of a log with `size` leaves. `None` if the number of peaks does not match the size.
    pub fn new(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (peaks.len() as u32 == size.count_ones()).then_some(Self { size, peaks })
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The hashes of the subtrees, the largest first.
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// Adds a leaf and passes every subtree that it completes, except itself, to `complete`.
    pub fn push(&mut self, leaf: Hash, mut complete: impl FnMut(Node, Hash)) {
        let (mut hash, mut height) = (leaf, 0);
        while self.size >> height & 1 == 1 {
            let left = self.peaks.pop().expect("there are as many peaks as ones in the size");
            hash = node_hash(&left, &hash);
            height += 1;
            complete(Node { height, index: self.size >> height }, hash);
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// Adds a perfect subtree at once. Returns `false` if a subtree of this height is not possible at this size.
    pub fn push_subtree(&mut self, height: u8, hash: Hash) -> bool {
        if height > 62 || (self.size != 0 && self.size.trailing_zeros() < u32::from(height)) {
            return false;
        }
        let (mut hash, mut at) = (hash, height);
        while self.size >> at & 1 == 1 {
            let left = self.peaks.pop().expect("there are as many peaks as ones in the size");
            hash = node_hash(&left, &hash);
            at += 1;
        }
        self.peaks.push(hash);
        self.size += 1 << height;
        true
    }

    /// The root of the tree.
    pub fn root(&self) -> Hash {
        self.peaks
            .iter()
            .rev()
            .copied()
            .reduce(|right, left| node_hash(&left, &right))
            .unwrap_or_else(empty_root)
    }
}

/// The root over consecutive subtrees of the same size.
pub fn fold(hashes: impl IntoIterator<Item = Hash>) -> Hash {
    let mut frontier = Frontier::default();
    for hash in hashes {
        frontier.push(hash, |_, _| {});
    }
    frontier.root()
}

/// The subtrees whose hashes prove that leaf `index` is in a tree of `size` leaves, from the leaf to the root (`PATH`
/// of RFC 6962, section 2.1.1). `None` if there is no such leaf.
pub fn inclusion(index: u64, size: u64) -> Option<Vec<Span>> {
    if index >= size {
        return None;
    }
    let (mut start, mut end) = (0, size);
    let mut path = Vec::new();
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            path.push(Span { start: middle, end });
            end = middle;
        } else {
            path.push(Span { start, end: middle });
            start = middle;
        }
    }
    path.reverse();
    Some(path)
}

/// The subtrees whose hashes prove that the tree of `to` leaves continues the tree of `from` leaves (`PROOF` of RFC
/// 6962, section 2.1.2). `None` unless `0 < from <= to`.
pub fn consistency(from: u64, to: u64) -> Option<Vec<Span>> {
    if from == 0 || from > to {
        return None;
    }
    let (mut start, mut end, mut whole) = (0, to, true);
    let mut path = Vec::new();
    while from != end {
        let middle = start + split(end - start);
        if from <= middle {
            path.push(Span { start: middle, end });
            end = middle;
        } else {
            path.push(Span { start, end: middle });
            start = middle;
            whole = false;
        }
    }
    if !whole {
        path.push(Span { start, end });
    }
    path.reverse();
    Some(path)
}

/// The largest power of two below `leaves`.
fn split(leaves: u64) -> u64 {
    1 << (leaves - 1).ilog2()
}

/// Whether the path proves that `leaf` is at `index` of the tree of `size` leaves with this root (RFC 9162, section
/// 2.1.3.2).
pub fn verify_inclusion(index: u64, size: u64, leaf: &Hash, path: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, *leaf);
    for step in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = node_hash(step, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, step);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Whether the path proves that the tree of `to` leaves with root `to_root` continues the tree of `from` leaves with
/// root `from_root` (RFC 9162, section 2.1.4.2). Every tree continues the empty one.
pub fn verify_consistency(from: u64, from_root: &Hash, to: u64, to_root: &Hash, path: &[Hash]) -> bool {
    if from > to {
        return false;
    }
    if from == 0 {
        return path.is_empty() && *from_root == empty_root();
    }
    if from == to {
        return path.is_empty() && from_root == to_root;
    }
    let (mut at, mut last) = (from - 1, to - 1);
    while at & 1 == 1 {
        at >>= 1;
        last >>= 1;
    }
    // If `from` is a power of two, its root is the first subtree of the path.
    let mut steps = path.iter();
    let first = if from.is_power_of_two() { Some(from_root) } else { steps.next() };
    let Some(first) = first else { return false };
    let (mut old, mut new) = (*first, *first);
    for step in steps {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            old = node_hash(step, &old);
            new = node_hash(step, &new);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            new = node_hash(&new, step);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && old == *from_root && new == *to_root
}

#[cfg(test)]
mod tests;
