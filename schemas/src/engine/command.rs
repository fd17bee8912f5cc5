//! The trait of all commands.

use serde::{Serialize, de::DeserializeOwned};

/// A request in the imperative. The idempotency digest covers its serialised form, so it must not contain secrets.
pub trait Command: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The command's name, such as `RegisterCustomer`.
    const NAME: &'static str;
}
