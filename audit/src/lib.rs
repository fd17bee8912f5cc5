//! Proving a tenant's history: the sealer extends the Merkle log of each tenant and signs checkpoints; `prove` answers
//! with proofs and `export` writes a history that verifies without the product.
//!
//! Layout: `signer` holds the key and remembers outside PostgreSQL what was signed; `sealer` is the role; `prove` and
//! `export` read, `schemas` finds what an export says of the types in it. What they promise stands in `docs/audit-format.md`, what checks it in the crate `proofs`.

mod error;
pub mod export;
pub mod proof;
mod schemas;
pub mod sealer;
pub mod signer;

pub use error::AuditError;
pub use signer::{Signer, SignerConfig};
