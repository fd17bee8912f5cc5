//! Identity: the rules of tenants and users, and the use cases of registration.

pub mod registration;
pub mod tenant;
pub mod user;
