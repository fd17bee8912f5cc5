//! Identity in GraphQL.

pub mod user;
