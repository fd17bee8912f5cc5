//! Identity: tenants and their users.

pub mod role;
pub mod scope;
pub mod tenant;
pub mod user;
