//! CRM: reads of customers.

pub mod customer;
