//! The engine of all read models: folds batches, generates SQL, runs projections on `store::feed`, rebuilds the idle
//! table, and computes historical states in scratch tables.

pub mod change;
pub mod definition;
pub mod error;
pub mod historic_state;
pub mod lag;
pub mod projection;
pub mod rebuild;
pub mod replay;
pub mod runner;
pub(crate) mod shared_write;
pub mod sql;
pub mod table;
#[cfg(test)]
pub(crate) mod testing;
