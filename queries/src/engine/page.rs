//! Pages of a list.

use projections::Record;
use schemas::engine::{Model, TenantId};
use store::{DeploymentKey, StoreError, TenantStore};

use super::cursor::{CursorScope, Place};
use super::error::QueryError;
use super::read::{Rows, read_selected};
use super::select::{Select, Statement};

/// Which page of a list. The caller bounds its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageRequest {
    /// The first rows after a cursor, or of the list.
    #[expect(missing_docs, reason = "the names are those of the Relay connection specification")]
    Forward { first: usize, after: Option<String> },
    /// The last rows before a cursor, or of the list, in the order of the list.
    #[expect(missing_docs, reason = "the names are those of the Relay connection specification")]
    Backward { last: usize, before: Option<String> },
}

impl PageRequest {
    /// The first rows of a list.
    pub fn first(first: usize) -> Self {
        Self::Forward { first, after: None }
    }
}

/// A page: rows in the order of the list, with all columns.
pub struct Page {
    /// The rows.
    pub rows: Vec<Record>,
    /// Whether the list has rows after the last one.
    pub has_next: bool,
    /// Whether the list has rows before the first one.
    pub has_previous: bool,
    /// The number of rows of the whole list, if it was requested.
    pub total: Option<u64>,
    select: Select,
    scope: CursorScope,
}

impl Page {
    /// The cursor of a row.
    pub fn cursor(&self, row: &Record) -> String {
        self.select.place(row).map_or_else(String::new, |place| self.scope.encode(&place))
    }

    /// The cursors of the first and the last row, if there are rows.
    pub fn ends(&self) -> Option<(String, String)> {
        self.rows.first().zip(self.rows.last()).map(|(first, last)| (self.cursor(first), self.cursor(last)))
    }
}

/// The limits of statements. A page reads up to the next one of them, so that pages of all sizes have few texts.
const LIMITS: [usize; 6] = [2, 6, 11, 21, 51, 101];

/// The statements of a page, and how to read their rows.
pub struct PagePlan {
    pub(crate) statements: Vec<Statement>,
    scope: CursorScope,
    forward: bool,
    limit: usize,
    has_cursor: bool,
    counts: bool,
}

/// The rows of a page as PostgreSQL sent them.
pub struct PageRows {
    /// The rows, in the order of the list, and those beyond the page.
    pub rows: Rows,
    /// The indexes of the page's rows, in the order of the list.
    pub order: Vec<usize>,
    /// Whether the list has rows after the last one.
    pub has_next: bool,
    /// Whether the list has rows before the first one.
    pub has_previous: bool,
    /// The number of rows of the whole list, if it was requested.
    pub total: Option<u64>,
}

impl PagePlan {
    /// Plans a page. `columns` are the columns to read; `counts`: the whole list is counted, in the same snapshot.
    ///
    /// # Errors
    /// [`QueryError::CursorInvalid`] if the cursor is not of this list.
    pub fn new(
        select: &Select,
        (tenant, key): (TenantId, &DeploymentKey),
        request: &PageRequest,
        columns: &str,
        counts: bool,
    ) -> Result<Self, QueryError> {
        let scope = CursorScope::new(key, tenant, select.model.table, select.scope());
        let (forward, limit, cursor) = match request {
            PageRequest::Forward { first, after } => (true, *first, after),
            PageRequest::Backward { last, before } => (false, *last, before),
        };
        let start: Option<Place> = cursor.as_deref().map(|cursor| scope.decode(cursor)).transpose()?;
        // Towards higher keys: forward through an ascending list, or backward through a descending one.
        let upward = forward != select.descending;
        let from = start.as_ref().map(|place| (place, false));
        // One row more tells whether there is another page.
        let rows_max = LIMITS.into_iter().find(|known| *known > limit).unwrap_or(limit + 1);
        let mut statements = vec![select.rows(tenant.0, columns, from, upward, rows_max)];
        if let Some(place) = &start {
            // There are rows on the other side exactly if rows are at or beyond the cursor.
            statements.push(select.rows(tenant.0, "id", Some((place, true)), !upward, 1));
        }
        if counts {
            statements.push(select.count_of(tenant.0));
        }
        Ok(Self { statements, scope, forward, limit, has_cursor: start.is_some(), counts })
    }

    /// The cursors of the list.
    pub fn scope(&self) -> &CursorScope {
        &self.scope
    }

    /// Reads the page in one round trip.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    pub async fn read(&self, tenant: &TenantStore, model: &'static Model) -> Result<PageRows, StoreError> {
        Ok(self.page(read_selected(tenant, model, &self.statements).await?))
    }

    /// The page in the rows of the plan's statements.
    fn page(&self, answers: Vec<Rows>) -> PageRows {
        let mut answers = answers.into_iter();
        let rows = answers.next().unwrap_or_default();
        let more = rows.len() > self.limit;
        let mut order: Vec<usize> = (0..rows.len().min(self.limit)).collect();
        if !self.forward {
            order.reverse();
        }
        let behind = self.has_cursor && answers.next().is_some_and(|rows| !rows.is_empty());
        let (has_next, has_previous) = if self.forward { (more, behind) } else { (behind, more) };
        let total = if self.counts { answers.next().and_then(|rows| rows.number(0)) } else { None };
        PageRows { rows, order, has_next, has_previous, total }
    }
}

impl Select {
    /// A page with all columns. `counts`: the whole list is counted, in the same snapshot.
    ///
    /// # Errors
    /// [`QueryError::CursorInvalid`] if the cursor is not of this list, [`QueryError::Store`] if the store failed.
    pub async fn page(
        &self,
        tenant: &TenantStore,
        request: &PageRequest,
        counts: bool,
    ) -> Result<Page, QueryError> {
        let of = (tenant.id(), tenant.store().key());
        let plan = PagePlan::new(self, of, request, &super::read::all_columns(self.model), counts)?;
        let PageRows { rows, order, has_next, has_previous, total } = plan.read(tenant, self.model).await?;
        let rows = order.into_iter().map(|index| rows.record(self.model, index)).collect::<Result<_, _>>()?;
        let PagePlan { scope, .. } = plan;
        Ok(Page { rows, has_next, has_previous, total, select: self.clone(), scope })
    }
}
