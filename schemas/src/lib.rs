//! The vocabulary of Annals: what is said (events, commands, value objects) and the envelope it travels in.
//!
//! Layout: `engine` holds what every context shares; then one folder a bounded context, one file an aggregate.
//! This crate does no I/O and knows no database.

pub mod contracts;
pub mod crm;
pub mod engine;
pub mod identity;
pub mod integration;
pub mod platform;
pub mod privacy;
pub mod saga;

#[cfg(test)]
mod samples;
