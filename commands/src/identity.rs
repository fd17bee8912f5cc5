//! Identity: the rules of tenants and users, and the use cases of registration and administration.

pub mod administration;
pub mod authority;
pub mod registration;
pub mod tenant;
pub mod user;
