//! What every command has.

use serde::{Serialize, de::DeserializeOwned};

/// A request, imperative. Its serialised form is what an idempotency digest covers, so secrets never stand in it.
pub trait Command: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The command's name, such as `RegisterCustomer`.
    const NAME: &'static str;
}
