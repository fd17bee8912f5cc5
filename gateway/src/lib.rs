//! The public API: REST for identity and platform services, GraphQL for the core, event streams, probes and metrics.
//!
//! Layout: `rest`, `graphql` and `streams` are the handlers of the public listener with their routes, `operations` and
//! `admin` those of the other two. `router` lists the resources, and `routes` collects their routes. `state` holds the
//! parts that handlers ask for. `limits` bounds concurrent work. `http` has the layers around every request, `auth`
//! authenticates callers, and `activity` writes the activity log. `server` serves connections. `metrics` is the
//! catalogue of metrics.

pub mod activity;
pub mod admin;
pub mod auth;
pub mod config;
pub mod graphql;
pub mod http;
pub mod limits;
pub mod metrics;
pub mod operations;
pub mod rest;
pub mod router;
pub mod routes;
pub mod server;
pub mod state;
pub mod streams;

pub use config::{ActivityRetention, GatewayConfig, StreamTimes, WebhookRules};
pub use operations::{Operations, ReadinessCheck};
pub use server::{ListenerSettings, TrustedProxies, serve};
pub use state::{Gateway, GatewayError};
