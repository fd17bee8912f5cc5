//! What keeps every read model: the fold over a batch, its SQL, the keeper that `store::feed` feeds, and the rebuild
//! beside the table that serves.

pub mod error;
pub mod keeper;
pub mod lag;
pub mod projection;
pub mod rebuild;
pub mod sql;
pub mod table;
#[cfg(test)]
pub(crate) mod testing;
