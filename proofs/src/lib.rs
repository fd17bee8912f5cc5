//! Event frames, leaf hashes, Merkle trees and the offline verifier. The crate has no server dependency, so that
//! verifiers can use it. `docs/audit-format.md` describes the format.
//!
//! Hashing follows RFC 6962: a leaf is `SHA-256(0x00 || entry)`. Integers are big-endian, `len16(x)` is a two-byte
//! length followed by the bytes, labels end with a zero byte.

pub mod export;
pub mod frame;
pub mod json;
pub mod note;
pub mod tree;
pub mod verify;

pub use frame::{CommitmentKind, Frame, FrameError, Hash, Salt, commitment, leaf_hash};
pub use note::{Checkpoint, NoteError, NoteSigner, VerifierKey};
pub use tree::{Frontier, Node, Span};
