//! The command line against running products: what it prints and how it exits.

mod administrators;
mod commands;
mod dead_letters;
mod history;
mod known_password;
mod projections;
mod sagas;
pub mod serve;
