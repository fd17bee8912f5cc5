//! Sagas: processes that turn events into commands.
//!
//! - One file for each saga: which events concern it and how it reacts.
//! - `engine` records each reaction in the tenant's log before it sends a command. It sends each command until it takes
//!   effect or becomes a dead letter.

pub mod customer_onboarding;
pub mod engine;

pub use engine::dead_letters::{DiscardOutcome, RetryOutcome, discard_dead_letter, retry_dead_letter};
pub use engine::instance::{Instance, StepState, TimerState};
pub use engine::instances::{
    InstanceHistory, InstanceStatus, InstanceSummary, StepOutcome, list_instances, show_instance,
};
pub use engine::process::{Process, Reaction, Step, Timer, Trigger};
pub use engine::retry::RetrySettings;
pub use engine::runner::{SagaError, run};
pub use engine::settings::SagaSettings;

use std::sync::Arc;

/// The sagas of the product.
pub fn processes() -> Vec<Arc<dyn Process>> {
    vec![Arc::new(customer_onboarding::CustomerOnboarding)]
}
