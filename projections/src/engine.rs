//! What keeps every read model: the fold over a batch, its SQL, and the keeper that `store::feed` feeds.

pub mod error;
pub mod keeper;
pub mod lag;
pub mod projection;
pub mod sql;
#[cfg(test)]
pub(crate) mod testing;
