//! A historical state of a whole read model, computed in scratch tables: filled from the log up to a position, listed
//! by pages, and compared with a later state or with the serving rows.

use chrono::{DateTime, Utc};
use schemas::engine::{LogId, RecordedEvent};
use serde_json::Value;
use store::{Scratch, StoreError, TenantStore};
use uuid::Uuid;

use super::change::RowChange;
use super::definition::{read_table, table_at};
use super::error::ProjectionError;
use super::historic_state::{HistoricState, HistoricStateError};
use super::projection::{Fold, Projection, StoredRow};
use super::rebuild::OnProgress;
use super::sql::{copy_sql, page_sql};
use super::table::{Tables, corrupt};

/// Maximum events of one write.
const BATCH_SIZE_MAX: usize = 2_000;
/// Maximum rows of a page.
const PAGE_SIZE_MAX: i64 = 1_000;
/// The scratch tables: the requested state, and the state that it is compared with.
const HISTORIC_TABLE: &str = "pg_temp.past";
const LATER_TABLE: &str = "pg_temp.later";

/// What to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayTarget {
    /// The rows as of this position.
    At(u64),
    /// The differences between two positions.
    Between(u64, u64),
    /// The differences between a position and the serving rows.
    /// `None` takes the checkpoint of the serving rows, so that any difference is an error.
    Serving(Option<u64>),
}

/// A position in a tenant's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPosition {
    /// The log.
    pub log: LogId,
    /// The position.
    pub position: u64,
    /// The head of the log when it was read.
    pub head: u64,
}

/// A historical state of a read model. Its tables exist as long as this value.
pub struct HistoricReadModel {
    scratch: Scratch,
    tables: Box<dyn RowReader>,
    /// The position of the state.
    pub at: u64,
    /// The position of the state that it is compared with, if any.
    pub compared_with: Option<u64>,
}

/// The position of a tenant's log at a time, or its head if `time` is `None`.
///
/// # Errors
/// [`StoreError`] if the log cannot be read.
pub async fn log_position_at(
    tenant: &TenantStore,
    time: Option<DateTime<Utc>>,
) -> Result<LogPosition, StoreError> {
    let (head, found) = match time {
        Some(time) => tenant.position_at(time).await.map(|(head, position)| (head, Some(position)))?,
        None => (tenant.head().await?, None),
    };
    let position = found.unwrap_or(head.position);
    Ok(LogPosition { log: head.log_id, position, head: head.position })
}

/// Computes a historical state of the read model `P`. `log` is the log of the positions.
pub(crate) async fn replay<P: Projection>(
    tenant: &TenantStore,
    log: LogId,
    wanted: ReplayTarget,
    progress: OnProgress<'_>,
) -> Result<HistoricReadModel, HistoricStateError> {
    let head = tenant.head().await?;
    if head.log_id != log {
        return Err(StoreError::LogReplaced { current: head.log_id }.into());
    }
    let reached = |position: u64| {
        if position <= head.position {
            Ok(position)
        } else {
            Err(HistoricStateError::Beyond { head: head.position })
        }
    };
    let scratch = tenant.scratch();
    let tables = Tables::<P>::named([HISTORIC_TABLE.to_owned(), LATER_TABLE.to_owned()]);
    scratch.create(&read_table(P::MODEL), HISTORIC_TABLE).await?;
    let build =
        ReplayBuild { state: HistoricState::new(tenant, log), scratch: &scratch, tables: &tables, progress };
    let (at, compared_with) = match wanted {
        ReplayTarget::At(at) => {
            build.fill(0, 0, reached(at)?).await?;
            (at, None)
        }
        ReplayTarget::Between(from, to) => {
            let (from, to) = (reached(from)?, reached(to)?);
            build.fill(0, 0, from).await?;
            scratch.create(&read_table(P::MODEL), LATER_TABLE).await?;
            build.copy(HISTORIC_TABLE).await?;
            build.fill(1, from, to).await?;
            (from, Some(to))
        }
        ReplayTarget::Serving(from) => {
            let from = from.map(reached).transpose()?;
            scratch.create(&read_table(P::MODEL), LATER_TABLE).await?;
            let serving = build.copy_serving().await?;
            build.fill(0, 0, from.unwrap_or(serving)).await?;
            (from.unwrap_or(serving), Some(serving))
        }
    };
    Ok(HistoricReadModel { scratch, tables: Box::new(tables), at, compared_with })
}

struct ReplayBuild<'a, P> {
    state: HistoricState<'a, P>,
    scratch: &'a Scratch,
    tables: &'a Tables<P>,
    progress: OnProgress<'a>,
}

impl<P: Projection> ReplayBuild<'_, P> {
    /// Advances a table from one position to another. The next page is read while one is written.
    async fn fill(&self, table: u64, from: u64, to: u64) -> Result<(), HistoricStateError> {
        (self.progress)(from, to);
        let mut at = from;
        if at >= to {
            return Ok(());
        }
        let mut page = self.state.page(at, to, BATCH_SIZE_MAX).await?;
        loop {
            let read_to = page.scanned_to;
            if read_to <= at {
                return Err(StoreError::Corrupt(format!("the log ends at {at} and not at {to}")).into());
            }
            let next = async {
                if read_to < to {
                    self.state.page(read_to, to, BATCH_SIZE_MAX).await.map(Some)
                } else {
                    Ok(None)
                }
            };
            let (written, next) = futures::join!(self.write(table, &page.events), next);
            written?;
            at = read_to;
            (self.progress)(at, to);
            match next? {
                Some(next) => page = next,
                None => return Ok(()),
            }
        }
    }

    /// Writes events, in halves if the event that fails must be found.
    async fn write(&self, table: u64, events: &[RecordedEvent]) -> Result<(), HistoricStateError> {
        let mut parts = vec![events];
        while let Some(part) = parts.pop() {
            let Err(error) = self.write_part(table, part).await? else { continue };
            if let [event] = part {
                self.state.skip_if_discarded(event, error).await?;
            } else {
                let (first, second) = part.split_at(part.len() / 2);
                parts.extend([second, first]);
            }
        }
        Ok(())
    }

    /// The inner error: PostgreSQL rejects the resulting rows.
    async fn write_part(
        &self,
        table: u64,
        events: &[RecordedEvent],
    ) -> Result<Result<(), ProjectionError>, HistoricStateError> {
        let transaction = self.scratch.begin().await?;
        let mut fold = Fold::<P>::new(self.tables.load(&transaction, table, events).await?);
        for event in events {
            if let Err(error) = fold.apply(event) {
                self.state.skip_if_discarded(event, error).await?;
            }
        }
        match self.tables.save(&transaction, table, fold.changes()).await {
            Ok(()) => {
                transaction.commit().await?;
                Ok(Ok(()))
            }
            Err(error) if error.is_poison() => Ok(Err(error)),
            Err(error) => Err(StoreError::from(error).into()),
        }
    }

    /// Copies all rows of a table into the later table.
    async fn copy(&self, from: &str) -> Result<(), HistoricStateError> {
        let transaction = self.scratch.begin().await?;
        transaction.execute(&copy_sql(from, LATER_TABLE), &[&transaction.tenant().0]).await?;
        Ok(transaction.commit().await?)
    }

    /// Copies the serving rows in one snapshot with their checkpoint. Returns its position.
    async fn copy_serving(&self) -> Result<u64, HistoricStateError> {
        let name = P::MODEL.name.to_owned();
        let transaction = self.scratch.begin_snapshot().await?;
        let checkpoint = transaction.checkpoint(&name).await?;
        if checkpoint.is_some_and(|checkpoint| checkpoint.log_id != self.state.log()) {
            return Err(HistoricStateError::OtherLog);
        }
        let generation = transaction.generation(&name).await?;
        let serving = table_at(P::MODEL, generation);
        transaction.execute(&copy_sql(&serving, LATER_TABLE), &[&transaction.tenant().0]).await?;
        transaction.commit().await?;
        Ok(checkpoint.map_or(0, |checkpoint| checkpoint.position))
    }
}

/// Reads the rows of one read model.
trait RowReader: Send + Sync {
    /// Parses a row of the table and serialises it as the read model's own type does.
    fn row(&self, text: &str) -> Result<Value, StoreError>;
}

impl<P: Projection> RowReader for Tables<P> {
    fn row(&self, text: &str) -> Result<Value, StoreError> {
        let row: StoredRow<P> =
            serde_json::from_str(text).map_err(|error| corrupt(P::MODEL.table, &error))?;
        serde_json::to_value(row).map_err(|error| corrupt(P::MODEL.table, &error))
    }
}

impl HistoricReadModel {
    /// A page of rows in the order of their keys, after the key `behind`. An empty page is the end.
    ///
    /// # Errors
    /// [`HistoricStateError`] if the rows cannot be read.
    pub async fn rows(&self, behind: Option<Uuid>) -> Result<Vec<(Uuid, Value)>, HistoricStateError> {
        let transaction = self.scratch.begin().await?;
        let low = behind.unwrap_or_default();
        let sql = page_sql(HISTORIC_TABLE, behind.is_some());
        let rows = transaction.query(&sql, &[&transaction.tenant().0, &low, &PAGE_SIZE_MAX]).await?;
        transaction.commit().await?;
        let rows = rows.iter().map(|row| Ok((row.get(0), self.tables.row(row.get(1))?)));
        Ok(rows.collect::<Result<_, StoreError>>()?)
    }

    /// The differences among the next keys after `behind`, and the key to continue after; `None` at the end.
    ///
    /// # Errors
    /// [`HistoricStateError`] if the rows cannot be read.
    pub async fn changes(
        &self,
        behind: Option<Uuid>,
    ) -> Result<(Vec<RowChange>, Option<Uuid>), HistoricStateError> {
        let transaction = self.scratch.begin().await?;
        let (rows, next) =
            super::table::compare_some(&transaction, [HISTORIC_TABLE, LATER_TABLE], behind).await?;
        transaction.commit().await?;
        let mut changes = Vec::with_capacity(rows.len());
        for (id, before, after) in rows {
            let read = |text: Option<String>| text.map(|text| self.tables.row(&text)).transpose();
            let (before, after) = (read(before)?, read(after)?);
            changes.extend(RowChange::between(id, before.as_ref(), after.as_ref()));
        }
        Ok((changes, next))
    }
}
