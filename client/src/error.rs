//! Why a request fails.

use std::fmt;
use std::time::Duration;

use reqwest::{Response, StatusCode, header};
use schemas::engine::LogId;
use serde::Deserialize;

/// Why the API did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address of the API is malformed.
    #[error(transparent)]
    Address(#[from] url::ParseError),
    /// The HTTP client cannot be set up.
    #[error(transparent)]
    Setup(reqwest::Error),
    /// There was no complete answer.
    #[error(transparent)]
    Transport(reqwest::Error),
    /// The server refused the request.
    #[error("{0}")]
    Refused(Problem),
    /// The answer is not what the API promises.
    #[error("the answer does not read")]
    Unreadable(#[source] serde_json::Error),
    /// An export or a stream of events broke off.
    #[error(transparent)]
    BrokenOff(reqwest::Error),
    /// The server ended an export early.
    #[error("the export broke off: {0}")]
    ExportClosed(ExportClosed),
    /// An export ended without its last line.
    #[error("the export has no end")]
    ExportIncomplete,
    /// The log of a stream of events was replaced.
    #[error("the log was replaced; what was shown up to position {position} is of {log}")]
    LogReplaced {
        /// The last position that was received.
        position: u64,
        /// The log that was replaced.
        log: LogId,
    },
    /// Several streams in a row ended without an event.
    #[error("the stream keeps ending")]
    StreamKeepsEnding,
    /// A line of a stream exceeds the limit.
    #[error("the stream holds a line without an end")]
    LineTooLong,
}

impl Error {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Transport(_) => true,
            Self::Refused(problem) => {
                [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(&problem.status)
            }
            _ => false,
        }
    }

    /// The pause before a repeat that the server asks for.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(problem) => problem.retry_after,
            _ => None,
        }
    }
}

/// A refusal of the server (RFC 9457).
#[derive(Debug)]
pub struct Problem {
    /// The status of the response.
    pub status: StatusCode,
    /// The pause before a repeat that the server asks for.
    pub retry_after: Option<Duration>,
    /// What the body says, if it is a problem.
    pub body: Option<ProblemBody>,
}

/// The body of a refusal.
#[derive(Debug, Deserialize)]
pub struct ProblemBody {
    /// A text for people, the same for each problem with this code.
    pub title: String,
    /// What is wrong with this request.
    #[serde(default)]
    pub detail: Option<String>,
    /// The stable code (`docs/errors.md`).
    #[serde(default)]
    pub code: String,
}

impl Problem {
    pub(crate) async fn read(answer: Response) -> Self {
        let status = answer.status();
        let retry_after = answer.headers().get(header::RETRY_AFTER);
        let retry_after =
            retry_after.and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        Self { status, retry_after, body: answer.json().await.ok() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.body {
            Some(ProblemBody { title, detail: Some(detail), code }) => {
                write!(f, "{title} ({code}): {detail}")
            }
            Some(ProblemBody { title, detail: None, code }) => write!(f, "{title} ({code})"),
            None => write!(f, "the answer was {}", self.status),
        }
    }
}

/// Why the server ended an export early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportClosed {
    /// The access token has expired.
    TokenExpired,
    /// The access token was revoked.
    TokenRevoked,
    /// The tenant is suspended.
    TenantUnknown,
    /// The tenant's log was replaced meanwhile.
    LogReplaced,
    /// The server stops.
    Stopping,
    /// A reason that this client does not know.
    Other(String),
}

impl ExportClosed {
    pub(crate) fn parse(reason: String) -> Self {
        match reason.as_str() {
            "token_expired" => Self::TokenExpired,
            "token_revoked" => Self::TokenRevoked,
            "tenant_unknown" => Self::TenantUnknown,
            "log_replaced" => Self::LogReplaced,
            "stopping" => Self::Stopping,
            _ => Self::Other(reason),
        }
    }
}

impl fmt::Display for ExportClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (why, code) = match self {
            Self::TokenExpired => ("the access token has expired", "token_expired"),
            Self::TokenRevoked => ("the access token was revoked", "token_revoked"),
            Self::TenantUnknown => ("the tenant is on hold", "tenant_unknown"),
            Self::LogReplaced => ("the tenant's log is another one by now", "log_replaced"),
            Self::Stopping => ("the server stops, try again", "stopping"),
            Self::Other(reason) => ("the server cannot go on, try again", reason.as_str()),
        };
        write!(f, "{why} ({code})")
    }
}
