//! REST: identity, platform services, and the log by pages.

pub mod activities;
pub mod audit;
pub mod auth;
pub mod events;
pub mod jwks;
pub mod tenants;
pub mod users;
