//! Stories through the public API alone, as clients meet it: HTTP, GraphQL, SSE and the NATS client.

mod bad_input;
pub mod checker;
mod graphiql;
mod graphql;
mod hashing;
mod idempotency;
mod isolation;
mod past;
pub mod readme;
mod registrations;
mod streams;
mod typed_client;
mod users;
mod web_pages;
