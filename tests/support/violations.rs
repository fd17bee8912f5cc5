//! Fixtures of the tests of runtime assertions (`STYLE.md`, section "Runtime assertions").

use gateway::operations::recorder;
use store::Invariant;
use tokio::sync::{Mutex, MutexGuard};

static ALONE: Mutex<()> = Mutex::const_new(());

/// Counts the reports of an invariant by this process, while no other test does.
pub struct Reports {
    invariant: Invariant,
    before: u64,
    _alone: MutexGuard<'static, ()>,
}

impl Reports {
    pub async fn of(invariant: Invariant) -> Self {
        let alone = ALONE.lock().await;
        Self { invariant, before: reported(invariant), _alone: alone }
    }

    /// The number of reports since the start.
    pub fn count(&self) -> u64 {
        reported(self.invariant) - self.before
    }

    /// Waits until so many violations were reported, and asserts that these are all.
    pub async fn reach(&self, count: u64) {
        super::eventually("the violation is reported", || async { (self.count() >= count).then_some(()) })
            .await;
        assert_eq!(self.count(), count);
    }
}

fn reported(invariant: Invariant) -> u64 {
    let metrics = recorder().expect("metrics are recorded").render();
    let name = format!("annals_invariant_violations_total{{invariant=\"{invariant}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value.map_or(0, |value| value.parse().expect("a number"))
}
