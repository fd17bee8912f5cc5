//! The one door in: REST for identity and platform services, GraphQL for the core, event streams, probes and metrics.
//!
//! Layout: `state` holds what all handlers of the public and the admin listener share; `router` lists the routes, which `routes` puts together; `http` is what happens to every
//! request; `auth` says who asks; `rest`, `graphql` and `streams` are the public listener's handlers, `operations` and
//! `admin` those of the other two listeners; `metrics` is the catalogue of
//! metrics; `activity` writes the activity log.

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
