//! Historical states: reads earlier events and folds them into rows.
//! All code that shows a historical state reads its events here, so the checks of log and decryption are in one place.

use std::marker::PhantomData;

use futures::{StreamExt, pin_mut};
use schemas::engine::{LogId, RecordedEvent, StreamName, ids};
use store::{DeadLetterStatus, LogFilter, LogPage, StoreError, StreamFilter, TenantStore};

use super::error::ProjectionError;
use super::projection::{Projection, StoredRow, apply, category};

/// Maximum events of a stream that are decrypted at once.
const CHUNK_SIZE_MAX: usize = 500;

/// Why a historical state cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum HistoricStateError {
    /// No read model has this name.
    #[error("there is no read model {0}")]
    Unknown(String),
    /// The position is after the head of the log.
    #[error("the log ends at position {head}")]
    Beyond {
        /// The head of the log.
        head: u64,
    },
    /// The serving rows belong to a replaced log.
    #[error("the rows that serve are of a log that was replaced; rebuild the read model")]
    OtherLog,
    /// An event cannot be applied, and no operator has discarded it.
    #[error("the event at position {position} cannot be applied: {}", source.describe())]
    Poison {
        /// The position of the event.
        position: u64,
        /// The reason.
        source: ProjectionError,
    },
    /// The store failed, or the log was replaced meanwhile.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Historical states of the read model `P` of a tenant, in one log.
pub struct HistoricState<'a, P> {
    tenant: &'a TenantStore,
    log: LogId,
    consumer: String,
    projection: PhantomData<fn() -> P>,
}

impl<'a, P: Projection> HistoricState<'a, P> {
    /// Historical states in this log. Reads fail if the tenant has another log by then.
    pub fn new(tenant: &'a TenantStore, log: LogId) -> Self {
        Self { tenant, log, consumer: P::MODEL.name.to_owned(), projection: PhantomData }
    }

    /// The log.
    pub fn log(&self) -> LogId {
        self.log
    }

    /// A page of the events of the read model's streams.
    ///
    /// # Errors
    /// [`HistoricStateError`] if the store fails or the log was replaced.
    pub async fn page(&self, after: u64, up_to: u64, limit: usize) -> Result<LogPage, HistoricStateError> {
        let stream = Some(StreamFilter::Category(category::<P>().to_owned()));
        let filter = LogFilter { types: Vec::new(), stream };
        let mut page = self.tenant.read_log_page(after, Some(up_to), limit, &filter).await?;
        if page.log_id != self.log {
            return Err(StoreError::LogReplaced { current: page.log_id }.into());
        }
        page.events = self.tenant.open(self.of_this_log(page.events)?).await?;
        Ok(page)
    }

    /// Checks that all events are of this log. All reads use it.
    fn of_this_log(&self, events: Vec<RecordedEvent>) -> Result<Vec<RecordedEvent>, HistoricStateError> {
        match events.iter().find(|event| event.log_id != self.log) {
            Some(event) => Err(StoreError::LogReplaced { current: event.log_id }.into()),
            None => Ok(events),
        }
    }

    /// The row of a stream as of each of these positions (ascending), and the number of events read.
    ///
    /// # Errors
    /// [`HistoricStateError`] if the store fails, the log was replaced, or an event cannot be applied.
    pub async fn rows_at<const N: usize>(
        &self,
        stream: &StreamName,
        positions: [u64; N],
    ) -> Result<([Option<StoredRow<P>>; N], usize), HistoricStateError> {
        let (mut rows, mut shown, mut read) = ([const { None }; N], 0, 0);
        let mut row: Option<StoredRow<P>> = None;
        let events = self.tenant.read_stream_of(Some(self.log), stream, 1);
        let pages = events.ready_chunks(CHUNK_SIZE_MAX);
        pin_mut!(pages);
        'log: while let Some(events) = pages.next().await {
            // Reading a stream decrypts its personal data.
            let events = self.of_this_log(events.into_iter().collect::<Result<_, _>>()?)?;
            for event in &events {
                while shown < N && event.position > positions[shown] {
                    rows[shown].clone_from(&row);
                    shown += 1;
                }
                if shown == N {
                    break 'log;
                }
                read += 1;
                row = match apply(row.clone(), event) {
                    Ok(row) => row,
                    Err(error) => {
                        self.skip_if_discarded(event, error).await?;
                        row
                    }
                };
            }
        }
        rows[shown..].fill(row);
        Ok((rows, read))
    }

    /// Skips an event that cannot be applied if an operator has discarded it, as the serving rows do.
    pub(crate) async fn skip_if_discarded(
        &self,
        event: &RecordedEvent,
        source: ProjectionError,
    ) -> Result<(), HistoricStateError> {
        let letter = ids::derived_id(event.event_id, &self.consumer);
        let letter = self.tenant.store().dead_letter(letter).await?;
        if letter.is_some_and(|letter| letter.status == DeadLetterStatus::Discarded) {
            return Ok(());
        }
        Err(HistoricStateError::Poison { position: event.position, source })
    }
}
