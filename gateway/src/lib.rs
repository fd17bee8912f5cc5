//! The public API: REST for identity and platform services, GraphQL for the core, event streams, probes and metrics.
//!
//! Layout: `state` holds what the handlers of the public and the admin listener share. `router` lists the routes,
//! and `routes` collects them.
//! `http` has the layers around every request. `auth` authenticates callers. `rest`, `graphql` and `streams` are the
//! handlers of the public listener, `operations` and `admin` those of the other two. `metrics` is the catalogue of
//! metrics. `activity` writes the activity log.

pub mod activity;
pub mod admin;
pub mod auth;
pub mod config;
pub mod graphql;
pub mod http;
pub mod metrics;
pub mod operations;
pub mod rest;
pub mod router;
pub mod routes;
pub mod server;
pub mod state;
pub mod streams;

pub use config::{ActivityRetention, GatewayConfig};
pub use operations::{Operations, ReadinessCheck};
pub use server::{ListenerSettings, TrustedProxies, serve};
pub use state::{Gateway, GatewayError};
