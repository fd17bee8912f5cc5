//! Pages of a list.

use super::cursor::{CursorScope, Place};

/// Which page of a list. The edge bounds its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageRequest {
    /// The first rows behind a cursor, or of the list.
    #[expect(missing_docs, reason = "the names are those of the Relay connection specification")]
    Forward { first: u32, after: Option<String> },
    /// The last rows before a cursor, or of the list; in list order all the same.
    #[expect(missing_docs, reason = "the names are those of the Relay connection specification")]
    Backward { last: u32, before: Option<String> },
}

impl PageRequest {
    /// The first rows of a list.
    pub fn first(first: u32) -> Self {
        Self::Forward { first, after: None }
    }
}

/// Some rows of a list, in its order.
pub struct Page<R> {
    /// The rows.
    pub rows: Vec<R>,
    /// Whether there are rows behind the last.
    pub has_next: bool,
    /// Whether there are rows before the first.
    pub has_previous: bool,
    pub(crate) scope: CursorScope,
    pub(crate) place: fn(&R) -> Place,
}

impl<R> Page<R> {
    /// The cursor of the row at `index`.
    pub fn cursor(&self, index: usize) -> Option<String> {
        self.rows.get(index).map(|row| self.scope.encode(&(self.place)(row)))
    }

    /// The cursors of the first and the last row, where there are rows.
    pub fn ends(&self) -> Option<(String, String)> {
        self.cursor(0).zip(self.cursor(self.rows.len().saturating_sub(1)))
    }

    /// The rows, each with its cursor.
    pub fn into_edges(self) -> impl Iterator<Item = (String, R)> {
        let Self { rows, scope, place, .. } = self;
        rows.into_iter().map(move |row| (scope.encode(&place(&row)), row))
    }
}
