//! Delivers tenants' events to their endpoints: signed by Standard Webhooks, at least once, in order if requested, and
//! only to public addresses.
//!
//! - `endpoint` checks the address of an endpoint.
//! - `secret` encrypts secrets and signs messages.
//! - `sender` sends one request.
//! - `delivery_run` delivers to one endpoint for a limited time.
//! - `runner` finds the endpoints with work.
//! - `registry` has the rows of endpoints, `attempts` and `failures` those of deliveries.

pub mod attempts;
mod delivery_run;
pub mod endpoint;
pub mod failures;
pub mod registry;
mod runner;
pub mod secret;
mod sender;
mod settings;

pub use registry::{Disabled, DisabledReason, Ordering, Webhook};
pub use runner::run;
pub use sender::SenderError;
pub use settings::WebhookSettings;
