//! Why a read did not answer.

use projections::ProjectionError;
use store::StoreError;

/// Why a read did not answer. Nothing found is no error.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The cursor is not one that this list, with this filter and order, has given to this tenant.
    #[error("the cursor does not belong to this list")]
    CursorInvalid,
    /// A value of the filter is invalid.
    #[error("{0}")]
    Filter(String),
    /// The aggregate has not reached the version that was asked for.
    #[error("it is at version {version}")]
    VersionBeyond {
        /// The version that it is at.
        version: u64,
    },
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An aggregate's own events do not fold.
    #[error("the events of this aggregate do not fold")]
    Fold(#[source] ProjectionError),
}

impl QueryError {
    /// Whether trying again later may help.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_unavailable())
    }
}

/// A stored row that does not read.
pub(crate) fn corrupt(table: &str, error: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("a row of {table}: {error}"))
}
