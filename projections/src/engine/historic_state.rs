//! What a read model was: the events of the past as folds take them, and the rows that they come to. Whatever shows a
//! past state reads its events here, so that there is one place where it is seen to that they are of one log and open.

use std::marker::PhantomData;

use futures::{StreamExt, pin_mut};
use schemas::engine::{LogId, RecordedEvent, StreamName, ids};
use store::{DeadLetterStatus, LogFilter, LogPage, StoreError, StreamFilter, TenantStore};

use super::error::ProjectionError;
use super::projection::{Projection, checkpoint_name};

/// Events of a stream that are made ready at once.
const CHUNK_SIZE_MAX: usize = 500;

/// Why a past state cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum HistoricStateError {
    /// No read model has this name.
    #[error("there is no read model {0}")]
    Unknown(String),
    /// The log has not come so far: nobody knows what will stand there.
    #[error("the log ends at position {head}")]
    Beyond {
        /// Its end.
        head: u64,
    },
    /// The rows that serve are not of the log that the tenant has now.
    #[error("the rows that serve are of a log that was replaced; rebuild the read model")]
    OtherLog,
    /// An event cannot be applied and nobody has discarded it.
    #[error("the event at position {position} cannot be applied: {}", source.describe())]
    Poison {
        /// Where it stands.
        position: u64,
        /// What is wrong.
        source: ProjectionError,
    },
    /// The store did not do its part, or the log was replaced meanwhile.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The past of the read model `P` of a tenant, in one log.
pub struct HistoricState<'a, P> {
    tenant: &'a TenantStore,
    log: LogId,
    consumer: String,
    projection: PhantomData<fn() -> P>,
}

impl<'a, P: Projection> HistoricState<'a, P> {
    /// The past as this log tells it. What is read when the tenant has another log by then is refused.
    pub fn new(tenant: &'a TenantStore, log: LogId) -> Self {
        Self { tenant, log, consumer: checkpoint_name::<P>(), projection: PhantomData }
    }

    /// The log.
    pub fn log(&self) -> LogId {
        self.log
    }

    /// A page of the events that concern the read model.
    pub async fn page(&self, after: u64, up_to: u64, limit: usize) -> Result<LogPage, HistoricStateError> {
        let stream = Some(StreamFilter::Category(P::CATEGORY.to_owned()));
        let filter = LogFilter { types: Vec::new(), stream };
        let mut page = self.tenant.read_log_page(after, Some(up_to), limit, &filter).await?;
        if page.log_id != self.log {
            return Err(StoreError::LogReplaced { current: page.log_id }.into());
        }
        page.events = self.tenant.open(self.of_this_log(page.events)?).await?;
        Ok(page)
    }

    /// All that is read of the past comes through here.
    fn of_this_log(&self, events: Vec<RecordedEvent>) -> Result<Vec<RecordedEvent>, HistoricStateError> {
        match events.iter().find(|event| event.log_id != self.log) {
            Some(event) => Err(StoreError::LogReplaced { current: event.log_id }.into()),
            None => Ok(events),
        }
    }

    /// The rows that a stream has made by each of these positions, in ascending order, and how many events were read.
    pub async fn rows_at<const N: usize>(
        &self,
        stream: &StreamName,
        positions: [u64; N],
    ) -> Result<([Option<P::Row>; N], usize), HistoricStateError> {
        let (mut rows, mut shown, mut read) = ([const { None }; N], 0, 0);
        let mut row: Option<P::Row> = None;
        let events = self.tenant.read_stream_of(Some(self.log), stream, 1);
        let pages = events.ready_chunks(CHUNK_SIZE_MAX);
        pin_mut!(pages);
        'log: while let Some(events) = pages.next().await {
            // A stream comes with its personal data open.
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
                row = match P::apply(row.clone(), event) {
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

    /// Goes on without an event that cannot be applied where an operator has decided so, as the rows that serve do.
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
