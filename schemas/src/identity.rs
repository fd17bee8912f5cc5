//! Identity: tenants and their users.

pub mod role;
pub mod tenant;
pub mod user;
