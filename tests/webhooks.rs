//! Webhooks at real endpoints.

mod deliveries;
mod fairness;
mod recovery;
mod tls;
