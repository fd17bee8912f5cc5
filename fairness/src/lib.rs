//! Limited resources, shared fairly between tenants.
//!
//! - [`FairScheduler`]: the scheduling rule, without I/O.
//! - [`Permits`]: a semaphore with this rule.
//! - [`Workers`]: blocking work under such a semaphore.
//! - [`FairCache`]: a cache in which a tenant evicts its own entries first.
//!
//! The rule of permits: a resource has a number of permits, and each tenant holds at most its share.
//! The last few permits are reserved for tenants that hold none, so that a late tenant finds a free one.
//! Waiting tenants are served round-robin; the requests of one tenant are served in order.

mod cache;
mod permits;
mod scheduler;
mod workers;

use std::hash::Hash;

pub use cache::FairCache;
pub use permits::{Permit, Permits, Refused};
pub use scheduler::{FairScheduler, Limits};
pub use workers::{WorkError, Workers};

/// The key that requests are counted by, such as the id of a tenant. It should be small.
pub trait Key: Eq + Hash + Clone + Send + 'static {}

impl<K: Eq + Hash + Clone + Send + 'static> Key for K {}
