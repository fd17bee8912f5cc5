//! What keeps every read model: the fold over a batch, its SQL, the keeper that `store::feed` feeds, the rebuild
//! beside the table that serves, and past states in scratch tables.

pub mod change;
pub mod error;
pub mod historic_state;
pub mod lag;
pub mod projection;
pub mod rebuild;
pub mod replay;
pub mod runner;
pub mod sql;
pub mod table;
#[cfg(test)]
pub(crate) mod testing;
