//! Folds a stream into an aggregate.

use futures::{TryStreamExt, pin_mut};
use schemas::engine::{Event, LogId, RecordedEvent, StreamName};
use store::{StoreError, TenantStore};

use super::decider::Decider;
use super::outcome::LoadError;

/// An aggregate with its version; 0 before the first event.
#[derive(Debug, Clone, Default)]
pub(crate) struct LoadedAggregate<A> {
    pub(crate) state: A,
    pub(crate) version: u64,
    /// The log of the state, if it has any event.
    pub(crate) log_id: Option<LogId>,
}

impl<A: Decider> LoadedAggregate<A> {
    /// Folds the events after the current version, up to and including `last` if given.
    pub(crate) async fn catch_up(
        &mut self,
        tenant: &TenantStore,
        stream: &StreamName,
        last: Option<u64>,
    ) -> Result<(), LoadError> {
        match self.fold(tenant, stream, last).await {
            // The cached state is of a replaced log.
            Err(LoadError::Store(StoreError::LogReplaced { .. })) => {
                *self = Self::default();
                self.fold(tenant, stream, last).await
            }
            folded => folded,
        }
    }

    async fn fold(
        &mut self,
        tenant: &TenantStore,
        stream: &StreamName,
        last: Option<u64>,
    ) -> Result<(), LoadError> {
        let events = tenant.read_stream_of(self.log_id, stream, self.version + 1);
        pin_mut!(events);
        while let Some(recorded) = events.try_next().await? {
            if last.is_some_and(|last| recorded.version > last) {
                break;
            }
            self.state.apply(decode(&recorded)?);
            self.version = recorded.version;
            self.log_id = Some(recorded.log_id);
        }
        Ok(())
    }
}

/// Decodes the event. An unknown type is an error, because skipping the event would give a wrong state.
pub(crate) fn decode<E: Event>(recorded: &RecordedEvent) -> Result<E, LoadError> {
    recorded.decode::<E>()?.ok_or_else(|| LoadError::UnknownType(recorded.event_type.to_string()))
}
