//! CRM: the rules of customers.

pub mod customer;
