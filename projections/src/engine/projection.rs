//! What a read model is to the engine: a fold over rows, and the table that the rows stand in.

use std::collections::HashMap;

use schemas::engine::RecordedEvent;
use serde::{Serialize, de::DeserializeOwned};
use store::ReadTable;
use uuid::Uuid;

use super::error::ProjectionError;

/// A read model as a fold over rows.
///
/// `Row` serialises to an object whose fields are the table's columns; that is how it travels to and from PostgreSQL.
pub trait Projection: Send + Sync + 'static {
    /// One record.
    type Row: Serialize + DeserializeOwned + Clone + PartialEq + Send + Sync;

    /// The read model's name, such as `customers`.
    const NAME: &'static str;
    /// Raised with every change of fold or table; a new version is another table and another checkpoint.
    const VERSION: u32;
    /// Where the rows stand. The key is the column `id`.
    const TABLE: ReadTable;

    /// The scope that reads the rows.
    const SCOPE: &'static str;
    /// The category of the streams that rows are made from: a row by the stream of its own id, and by no other.
    const CATEGORY: &'static str;

    /// The row that the event is about, or `None` where it is about none of this read model.
    fn key(event: &RecordedEvent) -> Option<Uuid>;

    /// The row behind the event; `None` where there is to be none.
    fn apply(row: Option<Self::Row>, event: &RecordedEvent) -> Result<Option<Self::Row>, ProjectionError>;
}

/// The name of the read model's checkpoint, such as `customers.v1`.
pub fn checkpoint_name<P: Projection>() -> String {
    format!("{}.v{}", P::NAME, P::VERSION)
}

/// Rows by key: as they stand in the table, then as the events leave them.
pub(crate) struct Fold<P: Projection> {
    loaded: HashMap<Uuid, P::Row>,
    folded: HashMap<Uuid, Option<P::Row>>,
}

/// What a batch changes in the table.
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

/// The row that events, in order, make of nothing.
pub fn fold<'a, P: Projection>(
    events: impl IntoIterator<Item = &'a RecordedEvent>,
) -> Result<Option<P::Row>, ProjectionError> {
    events.into_iter().try_fold(None, |row, event| P::apply(row, event))
}
