//! Failures, and which exit code each has.

use std::fmt;

use commands::ExecuteError;
use keyring::KeyringError;
use nats::{IntegratorError, NatsError};
use settings::SettingsError;
use store::StoreError;
use terminal::{Exit, OneLine};

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    cause: anyhow::Error,
}

impl Failure {
    /// A failure with an exit code.
    pub fn new(exit: Exit, cause: impl Into<anyhow::Error>) -> Self {
        Self { exit, cause: cause.into() }
    }

    /// The command line or the configuration is invalid.
    pub fn usage(cause: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Usage, cause)
    }

    /// Nothing has this name.
    pub fn not_found(what: &str, name: impl fmt::Display) -> Self {
        Self::new(Exit::NotFound, anyhow::anyhow!("there is no {what} {name}"))
    }

    /// A refused request about credentials.
    pub fn rejected_credential(error: IntegratorError) -> Self {
        let exit = match &error {
            IntegratorError::Invalid { .. } => Exit::Rejected,
            IntegratorError::NameTaken | IntegratorError::CommandIdReused => Exit::Conflict,
            IntegratorError::NotFound => Exit::NotFound,
            IntegratorError::NotInEffect => Exit::Unavailable,
            IntegratorError::Store(_) => return anyhow::Error::from(error).into(),
        };
        Self::new(exit, error)
    }

    /// A rejected command.
    pub fn rejected_command<R: std::error::Error + Send + Sync + 'static>(error: ExecuteError<R>) -> Self {
        let exit = match &error {
            ExecuteError::Rejected(_)
            | ExecuteError::TooLarge { .. }
            | ExecuteError::Invalid(_)
            | ExecuteError::Exists { .. }
            | ExecuteError::SubjectErased => Exit::Rejected,
            ExecuteError::VersionConflict { .. }
            | ExecuteError::CommandIdReused
            | ExecuteError::Reserved { .. } => Exit::Conflict,
            ExecuteError::NotFound | ExecuteError::TenantUnknown => Exit::NotFound,
            ExecuteError::Forbidden => Exit::Denied,
            ExecuteError::Overloaded | ExecuteError::Unavailable(_) => Exit::Unavailable,
            ExecuteError::Internal { .. } => Exit::Failed,
        };
        Self::new(exit, error)
    }
}

/// The message and its causes on one line.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        OneLine(self.cause.as_ref()).fmt(f)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(cause: anyhow::Error) -> Self {
        let exit = cause.chain().find_map(|cause| {
            if let Some(error) = cause.downcast_ref::<StoreError>() {
                return Some(match error {
                    StoreError::TenantUnknown => Exit::NotFound,
                    error if error.is_unavailable() => Exit::Unavailable,
                    _ => Exit::Failed,
                });
            }
            if let Some(error) = cause.downcast_ref::<NatsError>() {
                return Some(if error.is_unavailable() { Exit::Unavailable } else { Exit::Failed });
            }
            if let Some(error) = cause.downcast_ref::<KeyringError>() {
                let is_ours = matches!(error, KeyringError::Config(_) | KeyringError::Invalid(_));
                return Some(if is_ours { Exit::Usage } else { Exit::Unavailable });
            }
            cause.is::<SettingsError>().then_some(Exit::Usage)
        });
        Self { exit: exit.unwrap_or(Exit::Failed), cause }
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        Self::new(client_exit(&error), error)
    }
}

/// The exit code for a request to the API that failed.
fn client_exit(error: &client::Error) -> Exit {
    use client::{Error, ExportClosed};
    match error {
        Error::Address(_) => Exit::Usage,
        Error::Transport(error) if error.is_timeout() => Exit::TimedOut,
        Error::Transport(_) | Error::BrokenOff(_) | Error::ExportIncomplete | Error::StreamKeepsEnding => {
            Exit::Unavailable
        }
        Error::Refused(problem) => match problem.status.as_u16() {
            401 | 403 => Exit::Denied,
            404 | 410 => Exit::NotFound,
            409 => Exit::Conflict,
            400 | 422 => Exit::Rejected,
            429 | 503 => Exit::Unavailable,
            _ => Exit::Failed,
        },
        Error::ExportClosed(reason) => match reason {
            ExportClosed::TokenExpired | ExportClosed::TokenRevoked => Exit::Denied,
            ExportClosed::TenantUnknown | ExportClosed::LogReplaced => Exit::NotFound,
            ExportClosed::Stopping | ExportClosed::Other(_) => Exit::Unavailable,
        },
        Error::LogReplaced { .. } => Exit::NotFound,
        Error::Setup(_) | Error::Unreadable(_) | Error::LineTooLong => Exit::Failed,
    }
}

impl From<verifier::Error> for Failure {
    fn from(error: verifier::Error) -> Self {
        Self::new(error.exit(), error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        anyhow::Error::from(error).into()
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        Self::usage(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Failed, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_and_a_missing_thing_have_codes_of_their_own() {
        assert_eq!(Failure::from(StoreError::Unavailable("gone".to_owned())).exit, Exit::Unavailable);
        assert_eq!(Failure::from(StoreError::TenantUnknown).exit, Exit::NotFound);
        let wrapped = anyhow::Error::from(StoreError::Overloaded).context("the store cannot be used");
        assert_eq!(Failure::from(wrapped).exit, Exit::Unavailable);
        assert_eq!(Failure::from(SettingsError::Missing("secrets.deployment_key")).exit, Exit::Usage);
        assert_eq!(Failure::not_found("tenant", "acme").to_string(), "there is no tenant acme");
    }
}
