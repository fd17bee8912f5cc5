//! CRM: the customers of a tenant.

pub mod customer;
