//! Integrators' credentials. Each credential reads the events of one tenant from one consumer of `EVENTS`, through an
//! account that holds no streams of its own (ADR 16).
//!
//! - `issuer` makes the text of a credentials file.
//! - `registry` has the rows of credentials and keys.
//! - `issuing` creates, rotates and revokes credentials; it changes only the registry.
//! - `reconciler` applies the registry to NATS.
//! - `system_account` pushes the list of revoked keys to the servers.
//! - `consumers` creates and removes consumers.
//! - `stream_position` converts acknowledged stream positions to log positions.
//! - `stream_search` finds the stream position at which a consumer starts.

mod consumers;
mod issuer;
mod issuing;
mod reconciler;
pub mod registry;
mod stream_position;
mod stream_search;
mod system_account;

pub use issuer::{IntegratorConnection, Issuer};
pub use issuing::{IntegratorError, Integrators, IssuedCredential, LIFETIME_MAX, NewIntegrator, ResetPoint};
pub use reconciler::{ReconcilerConfig, reconcile};
