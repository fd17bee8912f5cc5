//! Bounded resources shared fairly between tenants. [`FairScheduler`] is the scheduling rule without I/O, [`Permits`] makes a
//! semaphore of it, and [`Workers`] runs blocking work under such a semaphore.
//!
//! The rule: a resource has a number of permits. A tenant holds at most its share of them, and the last few are given only
//! to tenants that hold none, so that a tenant that comes late finds one free. Tenants that wait are served round robin,
//! whatever the order and the number of their requests; the requests of one tenant are served in order.

mod permits;
mod scheduler;
mod workers;

use std::hash::Hash;

pub use permits::{Permit, Permits, Refused};
pub use scheduler::{FairScheduler, Limits};
pub use workers::{WorkError, Workers};

/// What requests are counted by: the id of a tenant, or anything as small.
pub trait Key: Eq + Hash + Clone + Send + 'static {}

impl<K: Eq + Hash + Clone + Send + 'static> Key for K {}
