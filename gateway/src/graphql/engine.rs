//! What every part of the schema shares: the document guard, errors, scalars, pages, looks back and command payloads.

pub mod commanding;
pub mod errors;
pub mod guard;
pub mod order;
pub mod pages;
pub mod past;
pub mod scalars;
mod scan;
