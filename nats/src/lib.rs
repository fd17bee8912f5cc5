//! NATS JetStream: the fast and public copy of every tenant's log. PostgreSQL is the truth; the copy may lose everything
//! and is filled again.
//!
//! Layout: `connection` connects and sets the stream up; `message` maps events to messages and back; `relay` publishes
//! the log; `follow` reads the stream for the product's own followers; `erasures` finds those
//! that a restored database has lost; `checkpoints` publishes what the sealer signs;
//! `accounts` says who may do what on a NATS in operator mode, and `integrators` issues and keeps the credentials of
//! those outside.

pub mod accounts;
pub mod checkpoints;
pub mod connection;
mod erasures;
mod error;
pub mod integrators;
pub mod message;
pub mod relay;
pub mod stream_consumer;

pub use connection::{Nats, NatsConfig, NatsTls, has_credentials};
pub use erasures::lost_erasures;
pub use error::NatsError;
pub use integrators::{IntegratorError, Integrators, Issuer};
pub use stream_consumer::StreamConsumer;
