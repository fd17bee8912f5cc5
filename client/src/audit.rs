//! The proofs of a tenant's log: its key, its checkpoint, proofs, and its position at a time.

use chrono::{DateTime, Utc};
use schemas::engine::LogId;
use schemas::engine::recorded::timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::{Client, Error};

/// A position of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct LogPosition {
    /// The log.
    pub log_id: LogId,
    /// The position.
    pub position: u64,
    /// The head of the log.
    pub head: u64,
}

impl Client {
    /// The public key of the log's checkpoints, as a line of text.
    ///
    /// # Errors
    /// [`Error::Transport`] without a complete answer. [`Error::Refused`] when the server refuses the request, or while
    /// nothing of the log is sealed.
    pub async fn audit_key(&self) -> Result<String, Error> {
        self.text("/v1/audit/key", &[]).await
    }

    /// The newest signed checkpoint, as a signed note.
    ///
    /// # Errors
    /// [`Error::Transport`] without a complete answer. [`Error::Refused`] when the server refuses the request, or while
    /// nothing of the log is sealed.
    pub async fn checkpoint(&self) -> Result<String, Error> {
        self.text("/v1/audit/checkpoint", &[]).await
    }

    /// The proof that an event is in the log of `size` events; `None` is the newest sealed size.
    ///
    /// # Errors
    /// [`Error::Transport`] without a complete answer, [`Error::Unreadable`] when it is not JSON. [`Error::Refused`]
    /// when the server refuses the request, for example because no checkpoint covers the position yet.
    pub async fn inclusion_proof(&self, position: u64, size: Option<u64>) -> Result<Value, Error> {
        let size = size.map(|size| ("size", size.to_string()));
        self.json(&format!("/v1/audit/proofs/{position}"), size.as_slice()).await
    }

    /// The proof that the log of `from` events is the beginning of the log of `to` events; `None` is the newest sealed
    /// size.
    ///
    /// # Errors
    /// [`Error::Transport`] without a complete answer, [`Error::Unreadable`] when it is not JSON. [`Error::Refused`]
    /// when the server refuses the request, for example because no checkpoint covers a size yet.
    pub async fn consistency_proof(&self, from: u64, to: Option<u64>) -> Result<Value, Error> {
        let mut parameters = vec![("from", from.to_string())];
        parameters.extend(to.map(|to| ("to", to.to_string())));
        self.json("/v1/audit/consistency", &parameters).await
    }

    /// The position of the log at a time.
    ///
    /// # Errors
    /// [`Error::Transport`] without a complete answer, [`Error::Refused`] when the server refuses the request.
    /// [`Error::Unreadable`] when the answer is not a position.
    pub async fn log_position(&self, time: DateTime<Utc>) -> Result<LogPosition, Error> {
        self.json("/v1/audit/position", &[("time", timestamp(time))]).await
    }
}
