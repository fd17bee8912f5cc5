//! Identity: reads of users.

pub mod user;
