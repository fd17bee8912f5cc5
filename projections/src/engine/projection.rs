//! The interface of a read model (`Projection`): a fold over rows, one row for each aggregate.

use std::collections::HashMap;
use std::ops::Deref;

use chrono::{DateTime, Utc};
use schemas::engine::{Event, Moment, RecordedEvent, Row};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::ProjectionError;

/// The event is not possible in the state before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfSequence;

/// A read model as a fold over rows. Each row is folded from one stream, whose id is the row's.
///
/// A change of the fold needs a new version of the read model: its own table and checkpoint.
pub trait Projection: Row {
    /// The events of the streams.
    type Event: Event;

    /// The row after the event; `None` if the event deletes it.
    ///
    /// # Errors
    /// [`OutOfSequence`] if the event is not possible after those before it.
    fn apply(row: Option<Self>, event: Self::Event, moment: &Moment) -> Result<Option<Self>, OutOfSequence>;
}

/// A row with the columns that the engine maintains. It serialises to an object whose fields are the columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredRow<R> {
    /// The id of the aggregate.
    pub id: Uuid,
    /// The row.
    #[serde(flatten)]
    pub row: R,
    /// The version of the aggregate.
    pub version: u64,
    /// When the aggregate was last changed.
    pub updated_at: DateTime<Utc>,
}

impl<R> Deref for StoredRow<R> {
    type Target = R;

    fn deref(&self) -> &R {
        &self.row
    }
}

/// The category of the streams of a read model.
pub(crate) const fn category<P: Projection>() -> &'static str {
    <P::Event as Event>::CATEGORY
}

/// The key of the row that the event changes, or `None` if the event does not concern the read model.
pub(crate) fn key<P: Projection>(event: &RecordedEvent) -> Option<Uuid> {
    (event.stream.category() == category::<P>()).then(|| event.stream.uuid()).flatten()
}

/// The entry after the event; `None` if the event deletes it.
///
/// # Errors
/// [`ProjectionError`] if the event cannot be applied.
pub fn apply<P: Projection>(
    entry: Option<StoredRow<P>>,
    event: &RecordedEvent,
) -> Result<Option<StoredRow<P>>, ProjectionError> {
    let decoded = decode::<P>(event.event_type.as_str(), &event.payload)?;
    apply_decoded(entry, decoded, event.event_type.as_str(), &moment(event)?)
}

/// Where and when the event was recorded.
///
/// # Errors
/// [`ProjectionError`] if the stream is not of an aggregate.
pub(crate) fn moment(event: &RecordedEvent) -> Result<Moment, ProjectionError> {
    let id = event.stream.uuid().ok_or_else(|| ProjectionError::OutOfSequence {
        event_type: event.event_type.to_string(),
        reason: "the stream's id is no UUID",
    })?;
    Ok(Moment { id, version: event.version, time: event.recorded_at })
}

pub(crate) fn decode<P: Projection>(event_type: &str, payload: &[u8]) -> Result<P::Event, ProjectionError> {
    let decoded = P::Event::decode(event_type, payload)?;
    decoded.ok_or_else(|| ProjectionError::UnknownType(event_type.to_owned()))
}

pub(crate) fn apply_decoded<P: Projection>(
    entry: Option<StoredRow<P>>,
    event: P::Event,
    event_type: &str,
    moment: &Moment,
) -> Result<Option<StoredRow<P>>, ProjectionError> {
    let row = P::apply(entry.map(|entry| entry.row), event, moment).map_err(|OutOfSequence| {
        ProjectionError::OutOfSequence {
            event_type: event_type.to_owned(),
            reason: "the event cannot follow those before it",
        }
    })?;
    Ok(row.map(|row| StoredRow { id: moment.id, row, version: moment.version, updated_at: moment.time }))
}

/// Rows by key: as loaded from the table, and as the events leave them.
pub(crate) struct Fold<P> {
    loaded: HashMap<Uuid, StoredRow<P>>,
    folded: HashMap<Uuid, Option<StoredRow<P>>>,
}

/// The changes of a batch to the table.
pub(crate) struct Changes<R> {
    pub(crate) upserts: Vec<R>,
    pub(crate) deletes: Vec<Uuid>,
}

impl<P: Projection> Fold<P> {
    pub(crate) fn new(loaded: HashMap<Uuid, StoredRow<P>>) -> Self {
        Self { loaded, folded: HashMap::new() }
    }

    pub(crate) fn apply(&mut self, event: &RecordedEvent) -> Result<(), ProjectionError> {
        let Some(key) = key::<P>(event) else { return Ok(()) };
        let before = match self.folded.get(&key) {
            Some(entry) => entry.clone(),
            None => self.loaded.get(&key).cloned(),
        };
        let after = apply(before, event)?;
        self.folded.insert(key, after);
        Ok(())
    }

    pub(crate) fn changes(self) -> Changes<StoredRow<P>> {
        let mut changes = Changes { upserts: Vec::new(), deletes: Vec::new() };
        for (key, entry) in self.folded {
            match (self.loaded.get(&key), entry) {
                (before, Some(after)) if before != Some(&after) => changes.upserts.push(after),
                (Some(_), None) => changes.deletes.push(key),
                _ => {}
            }
        }
        changes
    }
}

/// Folds events, in order, into an entry.
///
/// # Errors
/// [`ProjectionError`] if an event cannot be applied.
pub fn fold<'a, P: Projection>(
    events: impl IntoIterator<Item = &'a RecordedEvent>,
) -> Result<Option<StoredRow<P>>, ProjectionError> {
    events.into_iter().try_fold(None, apply)
}
