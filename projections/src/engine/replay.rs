//! A whole read model as it was, worked out in scratch tables: filled from the log up to a position, shown by pages, and
//! compared with a later state or with the rows that serve.

use chrono::{DateTime, Utc};
use schemas::engine::{LogId, RecordedEvent};
use serde_json::Value;
use store::{Scratch, StoreError, TenantStore};
use uuid::Uuid;

use super::change::RowChange;
use super::error::ProjectionError;
use super::past::{Past, PastError};
use super::projection::{Fold, Projection, checkpoint_name};
use super::rebuild::OnProgress;
use super::sql::{copied, page};
use super::table::{Tables, corrupt};

/// Events of one write.
const BATCH: usize = 2_000;
/// Rows on a page.
const PAGE: i64 = 1_000;
/// The tables: the state asked for, and the one that it is compared with.
const PAST: &str = "pg_temp.past";
const LATER: &str = "pg_temp.later";

/// What to work out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The rows when the log ended at this position.
    At(u64),
    /// What differs between two positions.
    Between(u64, u64),
    /// What differs between a position and the rows that serve. `None`: the very position at which they stand, so that
    /// any difference is a fault.
    Serving(Option<u64>),
}

/// A place in a tenant's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The log.
    pub log: LogId,
    /// The position.
    pub position: u64,
    /// The log's end when it was looked for.
    pub head: u64,
}

/// A read model as it was, for as long as this is kept.
pub struct Replayed {
    scratch: Scratch,
    tables: Box<dyn Shown>,
    /// The position of the state.
    pub at: u64,
    /// The position of the state that it is compared with, where one is.
    pub compared_with: Option<u64>,
}

/// Where the log of a tenant was at a time; without one, where it is.
pub async fn moment(tenant: &TenantStore, time: Option<DateTime<Utc>>) -> Result<Moment, StoreError> {
    let (head, found) = match time {
        Some(time) => tenant.position_at(time).await.map(|(head, position)| (head, Some(position)))?,
        None => (tenant.head().await?, None),
    };
    let position = found.unwrap_or(head.position);
    Ok(Moment { log: head.log_id, position, head: head.position })
}

/// Works out a past state of the read model `P`. `log`: which log the positions are of.
pub(crate) async fn replay<P: Projection>(
    tenant: &TenantStore,
    log: LogId,
    wanted: Wanted,
    progress: OnProgress<'_>,
) -> Result<Replayed, PastError> {
    let head = tenant.head().await?;
    if head.log_id != log {
        return Err(StoreError::LogReplaced { current: head.log_id }.into());
    }
    let reached = |position: u64| {
        if position <= head.position { Ok(position) } else { Err(PastError::Beyond { head: head.position }) }
    };
    let scratch = tenant.scratch();
    let tables = Tables::<P>::named([PAST.to_owned(), LATER.to_owned()]);
    scratch.create(&P::TABLE, PAST).await?;
    let build = Build { past: Past::new(tenant, log), scratch: &scratch, tables: &tables, progress };
    let (at, compared_with) = match wanted {
        Wanted::At(at) => {
            build.fill(0, 0, reached(at)?).await?;
            (at, None)
        }
        Wanted::Between(from, to) => {
            let (from, to) = (reached(from)?, reached(to)?);
            build.fill(0, 0, from).await?;
            scratch.create(&P::TABLE, LATER).await?;
            build.copy(PAST).await?;
            build.fill(1, from, to).await?;
            (from, Some(to))
        }
        Wanted::Serving(from) => {
            let from = from.map(reached).transpose()?;
            scratch.create(&P::TABLE, LATER).await?;
            let serving = build.copy_serving().await?;
            build.fill(0, 0, from.unwrap_or(serving)).await?;
            (from.unwrap_or(serving), Some(serving))
        }
    };
    Ok(Replayed { scratch, tables: Box::new(tables), at, compared_with })
}

struct Build<'a, P> {
    past: Past<'a, P>,
    scratch: &'a Scratch,
    tables: &'a Tables<P>,
    progress: OnProgress<'a>,
}

impl<P: Projection> Build<'_, P> {
    /// Brings a table from one position to another. While one page is written the next one is read.
    async fn fill(&self, table: u64, from: u64, to: u64) -> Result<(), PastError> {
        (self.progress)(from, to);
        let mut at = from;
        if at >= to {
            return Ok(());
        }
        let mut page = self.past.page(at, to, BATCH).await?;
        loop {
            let read_to = page.scanned_to;
            if read_to <= at {
                return Err(StoreError::Corrupt(format!("the log ends at {at} and not at {to}")).into());
            }
            let next = async {
                if read_to < to { self.past.page(read_to, to, BATCH).await.map(Some) } else { Ok(None) }
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

    /// Writes events, in halves where the one at fault has to be found.
    async fn write(&self, table: u64, events: &[RecordedEvent]) -> Result<(), PastError> {
        let mut parts = vec![events];
        while let Some(part) = parts.pop() {
            let Err(error) = self.write_part(table, part).await? else { continue };
            if let [event] = part {
                self.past.forgive(event, error).await?;
            } else {
                let (first, second) = part.split_at(part.len() / 2);
                parts.extend([second, first]);
            }
        }
        Ok(())
    }

    /// The inner error: PostgreSQL refuses what the events come to.
    async fn write_part(
        &self,
        table: u64,
        events: &[RecordedEvent],
    ) -> Result<Result<(), ProjectionError>, PastError> {
        let transaction = self.scratch.begin().await?;
        let mut fold = Fold::<P>::new(self.tables.load(&transaction, table, events).await?);
        for event in events {
            if let Err(error) = fold.apply(event) {
                self.past.forgive(event, error).await?;
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

    /// Copies all rows of a table into the later one.
    async fn copy(&self, from: &str) -> Result<(), PastError> {
        let transaction = self.scratch.begin().await?;
        transaction.execute(&copied(from, LATER), &[&transaction.tenant().0]).await?;
        Ok(transaction.commit().await?)
    }

    /// Copies the rows that serve, in one snapshot with the position at which they stand.
    async fn copy_serving(&self) -> Result<u64, PastError> {
        let name = checkpoint_name::<P>();
        let transaction = self.scratch.begin_snapshot().await?;
        let checkpoint = transaction.checkpoint(&name).await?;
        if checkpoint.is_some_and(|checkpoint| checkpoint.log_id != self.past.log()) {
            return Err(PastError::OtherLog);
        }
        let generation = transaction.generation(&name).await?;
        let serving = P::TABLE.at(generation);
        transaction.execute(&copied(&serving, LATER), &[&transaction.tenant().0]).await?;
        transaction.commit().await?;
        Ok(checkpoint.map_or(0, |checkpoint| checkpoint.position))
    }
}

/// What showing needs to know of a read model.
trait Shown: Send + Sync {
    /// A row of the table, as the read model's own type writes it.
    fn row(&self, text: &str) -> Result<Value, StoreError>;
}

impl<P: Projection> Shown for Tables<P> {
    fn row(&self, text: &str) -> Result<Value, StoreError> {
        let row: P::Row = serde_json::from_str(text).map_err(|error| corrupt(P::TABLE.name, &error))?;
        serde_json::to_value(row).map_err(|error| corrupt(P::TABLE.name, &error))
    }
}

impl Replayed {
    /// A page of rows, in the order of their keys, behind one of them. An empty page is the end.
    pub async fn rows(&self, behind: Option<Uuid>) -> Result<Vec<(Uuid, Value)>, PastError> {
        let transaction = self.scratch.begin().await?;
        let low = behind.unwrap_or_default();
        let sql = page(PAST, behind.is_some());
        let rows = transaction.query(&sql, &[&transaction.tenant().0, &low, &PAGE]).await?;
        transaction.commit().await?;
        let rows = rows.iter().map(|row| Ok((row.get(0), self.tables.row(row.get(1))?)));
        Ok(rows.collect::<Result<_, StoreError>>()?)
    }

    /// What differs among the next keys behind one, and the key behind which to go on; `None` at the end.
    pub async fn changes(&self, behind: Option<Uuid>) -> Result<(Vec<RowChange>, Option<Uuid>), PastError> {
        let transaction = self.scratch.begin().await?;
        let (rows, next) = super::table::compare_some(&transaction, [PAST, LATER], behind).await?;
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
