//! The stores of keys: what they promise, how keys are exported, and how the root key is changed.

mod key_export;
mod key_stores;
mod memory;
mod root_key;
