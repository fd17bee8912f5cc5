//! Rejections that name what does not exist.

use describe::rejections;

/// Why a deal command was rejected.
#[rejections]
pub enum PathRejection {
    #[rejection(Invalid, "a line is empty", at = "lines.{line}")]
    LineEmpty,
}

/// Why a deal command was rejected.
#[rejections]
pub enum OtherPathRejection {
    #[rejection(Invalid, "line {line} is empty", at = "lines.{lin}")]
    LineEmpty { line: usize },
}

/// Why a deal command was rejected.
#[rejections]
pub enum MessageRejection {
    #[rejection(Invalid, "line {line} is empty")]
    LineEmpty,
}

/// Why a deal command was rejected.
#[rejections]
pub enum CodeRejection {
    #[rejection(DealVanished, "the deal is gone")]
    Gone,
}

/// Why a deal command was rejected.
#[rejections]
pub enum BareRejection {
    Gone,
}
