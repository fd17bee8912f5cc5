//! Proofs of a tenant's history: the sealer extends the Merkle tree of each log and signs checkpoints.
//!
//! - `signer` holds the key, and stores outside PostgreSQL what was signed.
//! - `sealer` is the role.
//! - `merkle` reads trees and checkpoints; `proof` answers with proofs.
//! - `export` writes a history that verifies offline; `schemas` finds the schemas of its types.
//!
//! `docs/audit-format.md` describes the guarantees. The crate `proofs` verifies them.

mod error;
pub mod export;
pub mod merkle;
pub mod proof;
mod schemas;
pub mod sealer;
pub mod signer;

pub use error::AuditError;
pub use signer::{Signer, SignerConfig};
