//! The vocabulary of Annals: events, commands, value objects, and the envelope of events. The crate does no I/O.
//!
//! `engine` is shared by all contexts. Each bounded context has a folder, each aggregate a file.

// The attributes of `describe` name this crate from outside and from inside.
extern crate self as schemas;

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
