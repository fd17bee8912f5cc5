//! The erasure of persons: the worker, and what is left when keys are destroyed.

mod destroyed_keys;
mod worker;
