//! The exit codes that scripts rely on.

use std::process::ExitCode;

/// The result of a command as exit code of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It did what it was asked to.
    Ok = 0,
    /// It failed, and no other code says why.
    Failed = 1,
    /// The command line or the configuration is invalid.
    Usage = 2,
    /// A thing that was named is not there.
    NotFound = 3,
    /// The caller may not do this.
    Denied = 4,
    /// It contradicts the present state.
    Conflict = 5,
    /// A rule forbids it.
    Rejected = 6,
    /// There was no answer in time.
    TimedOut = 7,
    /// A server cannot be reached.
    Unavailable = 8,
    /// The check found problems.
    CheckFailed = 9,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
