//! Pages of a historical state and of changes between two states: the API sends them, the database computes them.

use client::{ChangesRequest, Client, RowsRequest};
use projections::{HistoricReadModel, HistoricStateError, ReplayTarget};
use schemas::engine::LogId;
use serde_json::Value;
use store::TenantStore;
use terminal::Exit;
use uuid::Uuid;

use crate::failure::Failure;
use crate::progress::ProgressReporter;
use crate::source::Source;

/// Rows in a page of the API, or events that a page of changes reads.
const PAGE_SIZE: usize = 500;

/// The rows of a historical state.
pub struct RowPages<'a> {
    /// The log of the state.
    pub log: LogId,
    /// The position of the state.
    pub at: u64,
    reader: RowReader<'a>,
}

enum RowReader<'a> {
    Computed {
        state: HistoricReadModel,
        /// The key of the last row that was read.
        behind: Option<Uuid>,
    },
    Requested {
        client: &'a Client,
        checkpoint: &'static str,
        /// The first page, which says what the state is.
        first: Option<Vec<Value>>,
        /// The key of the last row that was received, if there are more.
        after: Option<Uuid>,
        received: u64,
        bar: ProgressReporter,
    },
}

impl<'a> RowPages<'a> {
    /// The rows of a read model at a position, otherwise at the end of the log.
    pub async fn open(
        source: &'a Source,
        checkpoint: &'static str,
        at: Option<u64>,
        log: Option<LogId>,
    ) -> Result<Self, Failure> {
        match source {
            Source::Api(client) => {
                let bar = ProgressReporter::rows(checkpoint);
                let request = RowsRequest { at, log, after: None, limit: PAGE_SIZE };
                let page = client.historic_rows(checkpoint, &request).await?;
                let (first, after) = (Some(page.rows), page.next_after);
                let reader = RowReader::Requested { client, checkpoint, first, after, received: 0, bar };
                Ok(Self { log: page.log_id, at: page.at, reader })
            }
            Source::Database(source) => {
                let (log, at) = (known(log), known(at));
                let state = compute(&source.tenant, checkpoint, log, ReplayTarget::At(at)).await?;
                Ok(Self { log, at, reader: RowReader::Computed { state, behind: None } })
            }
        }
    }

    /// The next page; `None` after the last one.
    pub async fn next(&mut self) -> Result<Option<Vec<Value>>, Failure> {
        match &mut self.reader {
            RowReader::Computed { state, behind } => {
                let rows = state.rows(*behind).await.map_err(failure)?;
                let Some((last, _)) = rows.last() else { return Ok(None) };
                *behind = Some(*last);
                Ok(Some(rows.into_iter().map(|(_, row)| row).collect()))
            }
            RowReader::Requested { client, checkpoint, first, after, received, bar } => {
                if first.is_none() {
                    if after.is_none() {
                        return Ok(None);
                    }
                    bar.at(*received);
                    let (at, log) = (Some(self.at), Some(self.log));
                    let request = RowsRequest { at, log, after: *after, limit: PAGE_SIZE };
                    let page = client.historic_rows(checkpoint, &request).await?;
                    *after = page.next_after;
                    *first = Some(page.rows);
                }
                let rows = first.take();
                *received += rows.as_ref().map_or(0, Vec::len) as u64;
                Ok(rows)
            }
        }
    }

    /// Removes the progress bar.
    pub fn end(&self) {
        if let RowReader::Requested { bar, .. } = &self.reader {
            bar.end();
        }
    }
}

/// The changes of rows between two states.
pub struct ChangePages<'a> {
    /// The log of both states.
    pub log: LogId,
    /// The position of the first state.
    pub from: u64,
    /// The position of the second state.
    pub to: u64,
    reader: ChangeReader<'a>,
}

enum ChangeReader<'a> {
    Computed {
        state: HistoricReadModel,
        /// The key to continue after.
        behind: Option<Uuid>,
        is_done: bool,
    },
    Requested {
        client: &'a Client,
        checkpoint: &'static str,
        /// The first page, which says what the second state is.
        first: Option<Vec<Value>>,
        /// The last position that was read.
        after: u64,
        bar: ProgressReporter,
    },
}

/// The second state of a comparison.
#[derive(Debug, Clone, Copy)]
pub enum Compared {
    /// With the state at a position, otherwise at the end of the log.
    Historic(Option<u64>),
    /// The present rows, compared with the first state, or with the state at their checkpoint.
    Serving { is_bounded: bool },
}

impl<'a> ChangePages<'a> {
    /// The changes of a read model from a position on.
    pub async fn open(
        source: &'a Source,
        checkpoint: &'static str,
        from: u64,
        compared: Compared,
        log: Option<LogId>,
    ) -> Result<Self, Failure> {
        match (source, compared) {
            (Source::Api(client), Compared::Historic(to)) => {
                let bar = ProgressReporter::new(checkpoint, 0);
                let request = ChangesRequest { from, to, log, after: None, limit: PAGE_SIZE };
                let page = client.historic_changes(checkpoint, &request).await?;
                bar.set_total(page.to.saturating_sub(from));
                let (first, after) = (Some(page.changes), page.next_after);
                let reader = ChangeReader::Requested { client, checkpoint, first, after, bar };
                Ok(Self { log: page.log_id, from, to: page.to, reader })
            }
            (Source::Api(_), Compared::Serving { .. }) => {
                Err(Failure::usage(anyhow::anyhow!("--serving compares in the database only")))
            }
            (Source::Database(source), compared) => {
                let target = match compared {
                    Compared::Historic(to) => ReplayTarget::Between(from, known(to)),
                    Compared::Serving { is_bounded } => ReplayTarget::Serving(is_bounded.then_some(from)),
                };
                let log = known(log);
                let state = compute(&source.tenant, checkpoint, log, target).await?;
                let (from, to) = (state.at, state.compared_with.unwrap_or_default());
                let reader = ChangeReader::Computed { state, behind: None, is_done: false };
                Ok(Self { log, from, to, reader })
            }
        }
    }

    /// The next page; `None` after the last one.
    pub async fn next(&mut self) -> Result<Option<Vec<Value>>, Failure> {
        match &mut self.reader {
            ChangeReader::Computed { is_done: true, .. } => Ok(None),
            ChangeReader::Computed { state, behind, is_done } => {
                let (changes, next) = state.changes(*behind).await.map_err(failure)?;
                (*behind, *is_done) = (next, next.is_none());
                let changes = changes.iter().map(serde_json::to_value).collect::<Result<_, _>>();
                Ok(Some(changes.map_err(anyhow::Error::from)?))
            }
            ChangeReader::Requested { client, checkpoint, first, after, bar } => {
                if first.is_none() {
                    if *after >= self.to {
                        return Ok(None);
                    }
                    bar.at(after.saturating_sub(self.from));
                    let (from, to, log) = (self.from, Some(self.to), Some(self.log));
                    let request = ChangesRequest { from, to, log, after: Some(*after), limit: PAGE_SIZE };
                    let page = client.historic_changes(checkpoint, &request).await?;
                    bar.set_total(page.to.saturating_sub(self.from));
                    *after = page.next_after;
                    *first = Some(page.changes);
                }
                Ok(first.take())
            }
        }
    }

    /// Removes the progress bar.
    pub fn end(&self) {
        if let ChangeReader::Requested { bar, .. } = &self.reader {
            bar.end();
        }
    }
}

/// What [`Source::position`] finds in the database.
fn known<T>(found: Option<T>) -> T {
    found.expect("in the database every moment has a position and a log")
}

async fn compute(
    tenant: &TenantStore,
    checkpoint: &'static str,
    log: LogId,
    wanted: ReplayTarget,
) -> Result<HistoricReadModel, Failure> {
    let total = match wanted {
        ReplayTarget::At(at) => at,
        ReplayTarget::Between(_, to) => to,
        ReplayTarget::Serving(from) => from.unwrap_or(0),
    };
    let bar = ProgressReporter::new(checkpoint, total);
    let progress = |position, _| bar.at(position);
    let replayed = projections::replay(tenant, checkpoint, log, wanted, &progress).await;
    bar.end();
    replayed.map_err(failure)
}

fn failure(error: HistoricStateError) -> Failure {
    match error {
        HistoricStateError::Store(error @ store::StoreError::LogReplaced { .. }) => {
            Failure::new(Exit::NotFound, error)
        }
        HistoricStateError::Store(error) => error.into(),
        error @ HistoricStateError::Unknown(_) => Failure::new(Exit::NotFound, error),
        error @ HistoricStateError::Beyond { .. } => Failure::new(Exit::Rejected, error),
        error @ HistoricStateError::OtherLog => Failure::new(Exit::Conflict, error),
        error @ HistoricStateError::Poison { .. } => Failure::new(Exit::Failed, error),
    }
}
