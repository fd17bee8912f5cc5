//! Authority in one place: who calls ([`Principal`]), what a caller may do ([`Permission`]), and how a refusal is named
//! ([`ErrorCode`]).
//!
//! This crate does no I/O. The gateway makes principals of verified tokens; other parts of the product make their own.

mod codes;
pub mod policy;
mod principal;

pub use codes::{ErrorCode, render_error_codes};
pub use policy::{Owner, Permission};
pub use principal::{Principal, SystemPart};
