//! REST: identity, platform services, external services, and pages of the log.

pub mod activities;
pub mod audit;
pub mod auth;
pub mod contracts;
pub mod credentials;
pub mod erasures;
mod event_pages;
pub mod event_types;
pub mod events;
pub mod external_streams;
pub mod jwks;
pub mod pages;
pub mod read_models;
pub mod service_tokens;
pub mod stream_tickets;
pub mod tenants;
pub mod users;
pub mod webhooks;
