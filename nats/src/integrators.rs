//! Integrators' credentials: each reads one tenant's events from one consumer of `EVENTS`, from an account that holds
//! nothing (ADR 16).
//!
//! Layout: `issuer` makes the text of a credentials file; `issuing` is what tenants do with credentials, which changes the
//! registry in PostgreSQL alone; `keeper` brings NATS in line with the registry: `system` pushes who is kept out,
//! `consumers` makes and removes consumers, `place` says what acknowledged places come to as positions, `search` where in
//! the stream a consumer starts.

mod consumers;
mod issuer;
mod issuing;
mod reconciler;
mod stream_position;
mod stream_search;
mod system_account;

pub use issuer::{IntegratorConnection, Issuer};
pub use issuing::{IntegratorError, Integrators, IssuedCredential, LIFETIME_MAX, NewIntegrator, ResetPoint};
pub use reconciler::{ReconcilerConfig, reconcile};
