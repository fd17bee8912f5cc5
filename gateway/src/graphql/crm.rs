//! CRM in GraphQL.

pub mod customer;
