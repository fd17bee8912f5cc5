//! The saga engine. It handles each event that concerns a saga in three steps:
//!
//! 1. It appends the reaction to the instance's stream, under a command id derived from saga and event.
//! 2. In one transaction it writes the steps of the reaction to `saga_steps` and moves the checkpoint.
//! 3. It reads the steps from the table and sends their commands.
//!
//! Ids of commands and targets are derived from instance and step, so work repeated after a crash is recognised as a
//! duplicate.

mod attempt;
pub mod dead_letters;
mod due_tenants;
pub mod instance;
pub mod instances;
pub mod process;
mod react;
pub mod retry;
mod rows;
pub mod runner;
mod saga_log;
pub mod settings;
mod step_runner;
mod tenant_queue;
