//! What runs the processes. For each event that concerns a process: its reaction is appended to the instance's stream
//! under a command id derived from process and event; then, in one transaction, the steps that it wants become rows and
//! the checkpoint moves; then the steps are taken from the rows. Ids of commands and targets derive from instance and
//! step, so whatever is repeated after a crash is recognised as the repeat that it is.

mod attempt;
pub mod dead_letters;
pub mod instance;
pub mod instances;
pub mod process;
mod react;
pub mod retry;
mod rows;
pub mod runner;
mod saga_log;
mod step_runner;
mod tenant_queue;
