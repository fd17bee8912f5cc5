//! Processes that turn events into commands.
//!
//! Layout: one file a process (which events concern it, what it wants done); `engine` records each reaction in the
//! tenant's log before any command is sent, and sends the commands until they took effect or stand in the dead letters. `erasure`
//! carries out the erasure of people, which is more than commands; `key_comparison` compares their keys with the logs.

pub mod customer_onboarding;
pub mod engine;
pub mod erasure;
pub mod key_comparison;

pub use engine::dead_letters::{DiscardOutcome, RetryOutcome, discard_dead_letter, retry_dead_letter};
pub use engine::instance::{Instance, StepState, TimerState};
pub use engine::instances::{
    InstanceHistory, InstanceStatus, InstanceSummary, StepOutcome, list_instances, show_instance,
};
pub use engine::process::{Process, Reaction, Step, Timer, Trigger};
pub use engine::retry::RetrySettings;
pub use engine::runner::{SagaError, SagaSettings, run};

use std::sync::Arc;

/// The product's processes.
pub fn processes() -> Vec<Arc<dyn Process>> {
    vec![Arc::new(customer_onboarding::CustomerOnboarding)]
}
