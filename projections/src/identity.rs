//! Identity: the read model of users.

pub mod user;
