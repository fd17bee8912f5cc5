//! Access control: the caller ([`Principal`]), its rights ([`Permission`]), and the codes of refusals ([`ErrorCode`]).
//!
//! This crate does no I/O.
//! The gateway makes principals from verified tokens. Other parts of the product make their own.

mod codes;
pub mod policy;
mod principal;
mod rejection;

pub use codes::{ErrorCode, render_error_codes};
pub use policy::{Owner, Permission};
pub use principal::{Principal, SystemPart};
pub use rejection::Rejection;
