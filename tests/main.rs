//! The one integration binary: stories through the public API, engine tests on real servers, `annals dev` itself.
//!
//! Layout: one folder an area; `support` starts the product and bare servers, and holds what the stories share. One
//! binary, because each further one links the whole product again.

mod architecture;
mod audit;
mod commands;
mod credentials;
mod database;
mod dev;
mod faults;
mod gateway;
mod integrators;
mod listeners;
mod nats;
mod operators;
mod outages;
mod privacy;
mod processes;
mod production;
mod projections;
mod queries;
mod restore;
mod sagas;
mod store;
mod stories;
mod support;
