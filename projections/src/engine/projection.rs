//! The interface of a read model (`Projection`): a fold over rows, and the table that holds the rows.

use std::collections::HashMap;

use schemas::engine::RecordedEvent;
use serde::{Serialize, de::DeserializeOwned};
use store::ReadTable;
use uuid::Uuid;

use super::error::ProjectionError;

/// A read model as a fold over rows.
///
/// `Row` serialises to an object whose fields are the columns of the table. Rows are sent to and from PostgreSQL in
/// this form.
pub trait Projection: Send + Sync + 'static {
    /// One row.
    type Row: Serialize + DeserializeOwned + Clone + PartialEq + Send + Sync;

    /// The read model's name, such as `customers`.
    const NAME: &'static str;
    /// Raised with every change of fold or table. A new version has its own table and checkpoint.
    const VERSION: u32;
    /// The table of the rows. The key is the column `id`.
    const TABLE: ReadTable;

    /// The scope that a reader of the rows needs.
    const SCOPE: &'static str;
    /// The category of the streams that the rows are folded from. Each row is folded from the stream with the row's id.
    const CATEGORY: &'static str;

    /// The key of the row that the event changes, or `None` if the event does not concern the read model.
    fn key(event: &RecordedEvent) -> Option<Uuid>;

    /// The row after the event; `None` if the event deletes it.
    ///
    /// # Errors
    /// [`ProjectionError`] if the event cannot be applied.
    fn apply(row: Option<Self::Row>, event: &RecordedEvent) -> Result<Option<Self::Row>, ProjectionError>;
}

/// The name of the read model's checkpoint, such as `customers.v1`.
pub fn checkpoint_name<P: Projection>() -> String {
    format!("{}.v{}", P::NAME, P::VERSION)
}

/// Rows by key: as loaded from the table, and as the events leave them.
pub(crate) struct Fold<P: Projection> {
    loaded: HashMap<Uuid, P::Row>,
    folded: HashMap<Uuid, Option<P::Row>>,
}

/// The changes of a batch to the table.
pub(crate) struct Changes<R> {
    pub(crate) upserts: Vec<R>,
    pub(crate) deletes: Vec<Uuid>,
}

impl<P: Projection> Fold<P> {
    pub(crate) fn new(loaded: HashMap<Uuid, P::Row>) -> Self {
        Self { loaded, folded: HashMap::new() }
    }

    pub(crate) fn apply(&mut self, event: &RecordedEvent) -> Result<(), ProjectionError> {
        let Some(key) = P::key(event) else { return Ok(()) };
        let before = match self.folded.get(&key) {
            Some(row) => row.clone(),
            None => self.loaded.get(&key).cloned(),
        };
        let after = P::apply(before, event)?;
        self.folded.insert(key, after);
        Ok(())
    }

    pub(crate) fn changes(self) -> Changes<P::Row> {
        let mut changes = Changes { upserts: Vec::new(), deletes: Vec::new() };
        for (key, row) in self.folded {
            match (self.loaded.get(&key), row) {
                (before, Some(after)) if before != Some(&after) => changes.upserts.push(after),
                (Some(_), None) => changes.deletes.push(key),
                _ => {}
            }
        }
        changes
    }
}

/// Folds events, in order, into a row.
///
/// # Errors
/// [`ProjectionError`] if an event cannot be applied.
pub fn fold<'a, P: Projection>(
    events: impl IntoIterator<Item = &'a RecordedEvent>,
) -> Result<Option<P::Row>, ProjectionError> {
    events.into_iter().try_fold(None, |row, event| P::apply(row, event))
}
