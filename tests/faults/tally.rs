//! What the load has been promised, what went wrong, and how long the product kept anybody waiting.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A promise of the product: it has answered that this is recorded.
#[derive(Debug, Clone)]
pub enum Promise {
    /// A user, by REST.
    User { tenant: usize, id: String, email: String },
    /// A customer at its first version or under a new name, by GraphQL.
    Customer { tenant: usize, id: String, name: String, version: u64, position: u64 },
    /// A user under a new name, by GraphQL.
    UserName { tenant: usize, id: String, name: String, version: u64, position: u64 },
}

/// What one kind of fault did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kind {
    pub count: u32,
    /// The longest that a request took, repeats at either gateway included.
    pub longest: Duration,
}

#[derive(Debug, Default)]
pub struct Tally {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
pub struct Inner {
    pub promises: Vec<Promise>,
    pub violations: Vec<String>,
    pub kinds: BTreeMap<String, Kind>,
    pub requests: u64,
    pub repeats: u64,
    pub reads: u64,
    pub late_reads: u64,
    current: Option<String>,
}

impl Tally {
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on whatever takes long is this fault's doing.
    pub fn begin(&self, fault: &str) {
        let mut inner = self.lock();
        inner.kinds.entry(fault.to_owned()).or_default().count += 1;
        inner.current = Some(fault.to_owned());
    }

    /// A request came to its end after so long.
    pub fn took(&self, took: Duration) {
        let mut inner = self.lock();
        inner.requests += 1;
        let name = inner.current.clone().unwrap_or_else(|| "no fault".to_owned());
        let kind = inner.kinds.entry(name).or_default();
        kind.longest = kind.longest.max(took);
    }

    pub fn requests(&self) -> u64 {
        self.lock().requests
    }

    pub fn promised(&self, promise: Promise) {
        self.lock().promises.push(promise);
    }

    pub fn violation(&self, what: impl Into<String>) {
        let what = what.into();
        println!("violation: {what}");
        self.lock().violations.push(what);
    }
}
