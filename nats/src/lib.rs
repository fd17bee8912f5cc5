//! NATS JetStream: the fast and public copy of every tenant's log. PostgreSQL holds the log itself. If the copy loses
//! events, they are published again.
//!
//! - `connection` connects and creates the stream.
//! - `message` converts events to messages and back.
//! - `relay` publishes the log.
//! - `stream_consumer` reads the stream for the product's own consumers.
//! - `checkpoints` publishes signed checkpoints.
//! - `accounts` defines accounts and permissions of a NATS in operator mode.
//! - `integrators` issues and reconciles the credentials of integrators.

pub mod accounts;
pub mod checkpoints;
pub mod connection;
mod error;
pub mod integrators;
pub mod message;
pub mod relay;
pub mod stream_consumer;

pub use connection::{Nats, NatsConfig, NatsTls, has_credentials};
pub use error::NatsError;
pub use integrators::{IntegratorError, Integrators, Issuer};
pub use stream_consumer::StreamConsumer;
