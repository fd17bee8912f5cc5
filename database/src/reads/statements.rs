//! The prepared statements of one connection, by text: the least recently used ones are closed.

use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};

use lru::LruCache;
use postgres_protocol::Oid;
use tokio_postgres::types::Type;

use super::group::GroupStatement;

/// Maximum prepared statements per connection. Beyond it, the least recently used one is closed.
pub(super) const STATEMENTS_MAX: NonZeroUsize = NonZeroUsize::new(128).expect("it is not zero");

/// A prepared statement.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) name: String,
    sql: Box<str>,
    types: Box<[Oid]>,
    /// Known when the server has described the statement.
    pub(super) columns: OnceLock<Arc<[Type]>>,
}

pub(super) struct Statements {
    cache: LruCache<Box<str>, Arc<Prepared>>,
    next: u64,
    /// The names that the next group closes.
    closing: Vec<String>,
}

impl Statements {
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        Self { cache: LruCache::new(capacity), next: 0, closing: Vec::new() }
    }

    /// The prepared statement, and whether it is new and has to be prepared first.
    pub(super) fn get(&mut self, statement: &GroupStatement) -> (Arc<Prepared>, bool) {
        if let Some(prepared) = self.cache.get(&statement.sql).filter(|known| known.types == statement.types)
        {
            return (Arc::clone(prepared), false);
        }
        self.next += 1;
        let prepared = Arc::new(Prepared {
            name: format!("r{}", self.next),
            sql: statement.sql.clone(),
            types: statement.types.clone(),
            columns: OnceLock::new(),
        });
        if let Some((_, evicted)) = self.cache.push(statement.sql.clone(), Arc::clone(&prepared)) {
            self.closing.push(evicted.name.clone());
        }
        (prepared, true)
    }

    /// Forgets a statement that the server does not have, or has with an outdated plan.
    pub(super) fn forget(&mut self, prepared: &Arc<Prepared>) {
        if self.cache.peek(&prepared.sql).is_some_and(|cached| Arc::ptr_eq(cached, prepared)) {
            self.cache.pop(&prepared.sql);
            // Closing a statement that does not exist is no error.
            self.closing.push(prepared.name.clone());
        }
    }

    /// The names to close before the next group.
    pub(super) fn take_closing(&mut self) -> Vec<String> {
        std::mem::take(&mut self.closing)
    }
}

#[cfg(test)]
mod tests {
    use super::super::group::{Group, Read, Value};
    use super::*;

    #[test]
    fn the_least_recently_used_statement_is_closed_and_another_type_is_another_statement() {
        let mut statements = Statements::new(NonZeroUsize::new(2).expect("two"));
        let mut get = |sql: &str, values: &[Value<'_>]| {
            let group = Group::new(&[Read { sql, values }]).expect("small");
            let (prepared, is_new) = statements.get(&group.statements[0]);
            (prepared, is_new, statements.take_closing())
        };
        let (a, is_new, _) = get("a", &[]);
        assert!(is_new);
        assert!(get("b", &[]).1);
        assert!(!get("a", &[]).1);
        assert_eq!(get("c", &[]).2, ["r2"], "b was used before a");
        assert!(!get("a", &[]).1);
        let (other, is_new, closed) = get("a", &[Value::Int4(1)]);
        assert!(is_new && closed == [a.name.clone()]);
        statements.forget(&a);
        assert!(statements.take_closing().is_empty(), "it is no longer in the cache");
        statements.forget(&other);
        assert_eq!(statements.take_closing(), std::slice::from_ref(&other.name));
    }
}
