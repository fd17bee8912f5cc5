//! Personal data: the erasure of persons, and the comparison of their keys with the logs.
//!
//! - `subjects` finds the subject of a user or customer, and erases it in one stream.
//! - `requests` requests an erasure; `progress` shows how far it is.
//! - `worker` carries erasures out.
//! - `reapply` repeats erasures after a restore; `copies` finds those that only JetStream still has.
//! - `key_comparison` compares the keys with the logs; `key_rows` holds its SQL.
//!
//! The rules of a subject are in `commands::privacy`, encryption and keys are in `keyring`.

pub mod copies;
pub mod key_comparison;
mod key_rows;
pub mod progress;
pub mod reapply;
pub mod requests;
pub mod subjects;
pub mod worker;

pub use copies::{DerivedCopies, lost_erasures};
pub use key_comparison::{KeyComparison, compare_keys};
pub use key_rows::EventWithoutKey;
pub use progress::{ErasureProgress, RecordedErasure};
pub use reapply::reapply;
pub use requests::{request_as_system, request_erasure};
pub use subjects::{erase_stream, subject_of_customer, subject_of_user};
pub use worker::run;
