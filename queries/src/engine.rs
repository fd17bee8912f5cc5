//! What every read shares: lists in pages, the wait for a position, the fold of one stream,
//! and whole read models as they were.

pub mod as_of;
pub mod cursor;
pub mod error;
mod folding;
pub mod nodes;
pub mod page;
pub mod read;
pub mod related;
pub mod rows;
pub mod select;
pub mod value;
pub mod wait;
pub mod whole;
