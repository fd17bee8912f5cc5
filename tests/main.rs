//! The one integration binary: each further one links the whole product again.
//!
//! Layout: one folder a crate, named after it; `scenarios` are stories over the whole product, `faults` is the fault harness,
//! `architecture` holds rules of the sources, `compile_errors` what the compiler says about mistakes in descriptions. `support` starts servers and the product, and holds all fixtures.

mod architecture;
mod audit;
mod cli;
mod commands;
mod compile_errors;
mod database;
mod devserver;
mod faults;
mod gateway;
mod keyring;
mod nats;
mod plants;
mod privacy;
mod projections;
mod queries;
mod sagas;
mod scenarios;
mod store;
mod support;
mod webhooks;
