//! Delivers tenants' events to the endpoints that they name: signed after Standard Webhooks, at least once, in order where
//! that is asked for, and to public addresses only.
//!
//! Layout: `endpoint` says which addresses are delivered to, `secret` seals and signs, `sender` makes one request, `turn`
//! works for one endpoint for a while, `runner` finds out whose turn it is. The registry itself is the store's.

mod delivery_run;
pub mod endpoint;
mod runner;
pub mod secret;
mod sender;
mod settings;

pub use runner::run;
pub use sender::SenderError;
pub use settings::WebhookSettings;
