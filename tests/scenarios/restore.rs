//! A database that is put back to an earlier point: which logs are replaced, and that no position, token, cursor or message
//! is taken for another fact afterwards.

mod log_replacement;
mod operator_decides;
mod running_processes;
mod signed_logs;
mod started_processes;
