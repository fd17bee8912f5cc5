//! What integrators build on: events and streams over the public API, live streams, webhooks, contracts, services in other
//! languages.

mod consumer_record;
mod consumers;
mod contracts;
mod event_types;
mod examples;
mod many_consumers;
mod nats_data_loss;
mod schema_limits;
mod service_tokens;
mod services;
mod suspension;
