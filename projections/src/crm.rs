//! CRM: the read model of customers.

pub mod customer;
