//! The interface of rejections.

use crate::ErrorCode;

/// Why the rules of an aggregate reject a command. `Display` is the message for people. Written by `#[rejections]`.
pub trait Rejection: std::error::Error + Send + Sync + 'static {
    /// The error code.
    fn code(&self) -> ErrorCode;

    /// The path to the field of the input at fault, such as `lines.2.quantity`.
    fn path(&self) -> Option<String> {
        None
    }
}
