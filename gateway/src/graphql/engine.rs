//! What all fields of the schema share.

pub mod commands;
pub mod cost;
pub mod errors;
pub mod guard;
pub mod kinds;
pub mod nodes;
pub mod objects;
pub mod order;
pub mod pages;
pub mod past;
pub mod reads;
pub mod relations;
pub mod rows;
pub mod scan;
