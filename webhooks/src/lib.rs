//! Delivers tenants' events to their endpoints: signed by Standard Webhooks, at least once, in order if requested, and
//! only to public addresses.
//!
//! - `endpoint` checks the address of an endpoint.
//! - `secret` encrypts secrets and signs messages.
//! - `sender` sends one request.
//! - `delivery_run` delivers to one endpoint for a limited time.
//! - `runner` finds the endpoints with work.
//!
//! The registry of webhooks is in the store.

mod delivery_run;
pub mod endpoint;
mod runner;
pub mod secret;
mod sender;
mod settings;

pub use runner::run;
pub use sender::SenderError;
pub use settings::WebhookSettings;
