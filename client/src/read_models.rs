//! Historical states of read models, and the differences between two of them.

use schemas::engine::LogId;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::{Client, Error};

/// Which rows of a read model a page holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct RowsRequest {
    /// The position of the state; `None` is the end of the log.
    pub at: Option<u64>,
    /// The log that the position belongs to. The server refuses the request if the tenant has another one.
    pub log: Option<LogId>,
    /// Rows after this one.
    pub after: Option<Uuid>,
    /// Maximum number of rows.
    pub limit: usize,
}

/// Rows of a historical state.
#[derive(Debug, Deserialize)]
pub struct RowsPage {
    /// The log.
    pub log_id: LogId,
    /// The position of the state.
    pub at: u64,
    /// The rows.
    pub rows: Vec<Value>,
    /// The last row, if there are more.
    pub next_after: Option<Uuid>,
}

/// Which changes between two states a page holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChangesRequest {
    /// The position of the first state.
    pub from: u64,
    /// The position of the second state; `None` is the end of the log.
    pub to: Option<u64>,
    /// The log that the positions belong to. The server refuses the request if the tenant has another one.
    pub log: Option<LogId>,
    /// Changes by events after this position.
    pub after: Option<u64>,
    /// Maximum number of events that the page reads.
    pub limit: usize,
}

/// Changes of rows between two states.
#[derive(Debug, Deserialize)]
pub struct ChangesPage {
    /// The log.
    pub log_id: LogId,
    /// The position of the second state.
    pub to: u64,
    /// The changes.
    pub changes: Vec<Value>,
    /// The last position that was read.
    pub next_after: u64,
}

impl Client {
    /// Rows of the read model `name` as of a position.
    ///
    /// # Errors
    /// [`Error::Transport`] without a complete answer, [`Error::Unreadable`] when it is not a page of rows.
    /// [`Error::Refused`] when the server refuses the request, for example for an unknown read model or a replaced log.
    pub async fn historic_rows(&self, name: &str, request: &RowsRequest) -> Result<RowsPage, Error> {
        let mut parameters = vec![("limit", request.limit.to_string())];
        parameters.extend(request.at.map(|at| ("at", at.to_string())));
        parameters.extend(request.log.map(|log| ("log", log.to_string())));
        parameters.extend(request.after.map(|after| ("after", after.to_string())));
        self.json(&format!("/v1/audit/read-models/{name}"), &parameters).await
    }

    /// Changes of the rows of the read model `name` between two positions.
    ///
    /// # Errors
    /// [`Error::Transport`] without a complete answer, [`Error::Unreadable`] when it is not a page of changes.
    /// [`Error::Refused`] when the server refuses the request, for example for an unknown read model or a replaced log.
    pub async fn historic_changes(&self, name: &str, request: &ChangesRequest) -> Result<ChangesPage, Error> {
        let mut parameters = vec![("from", request.from.to_string()), ("limit", request.limit.to_string())];
        parameters.extend(request.to.map(|to| ("to", to.to_string())));
        parameters.extend(request.log.map(|log| ("log", log.to_string())));
        parameters.extend(request.after.map(|after| ("after", after.to_string())));
        self.json(&format!("/v1/audit/read-models/{name}/changes"), &parameters).await
    }
}
