//! Stories through the public API and over whole deployments, as clients, integrators and operators meet them.

mod bad_input;
mod cors;
mod event_cost;
mod event_streams;
mod graphiql;
mod graphql;
mod history;
mod idempotency;
mod integrators;
mod outages;
mod password_hashing;
mod privacy;
mod processes;
mod production;
mod readme;
mod registrations;
mod restore;
mod tenant_isolation;
mod typed_client;
mod users;
