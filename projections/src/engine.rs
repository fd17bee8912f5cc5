//! What keeps every read model: the fold over a batch, its SQL, the keeper that `store::feed` feeds, the rebuild
//! beside the table that serves, and past states in scratch tables.

pub mod change;
pub mod error;
pub mod keeper;
pub mod lag;
pub mod past;
pub mod projection;
pub mod rebuild;
pub mod replay;
pub mod sql;
pub mod table;
#[cfg(test)]
pub(crate) mod testing;
