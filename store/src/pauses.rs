//! The pauses of read models as a process last read them, for all read models together.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use schemas::engine::TenantId;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long the pauses are used before they are read again.
pub(crate) const PAUSES_TTL: Duration = Duration::from_millis(250);

/// By read model: the tenants that it is paused for; `None` means all tenants.
pub(crate) type PausedTenants = HashMap<String, HashSet<Option<TenantId>>>;

/// The pauses, and when they were read.
#[derive(Default)]
pub(crate) struct Pauses(pub(crate) Mutex<Option<(Instant, PausedTenants)>>);
