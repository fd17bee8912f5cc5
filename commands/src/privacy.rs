//! Privacy: the rules of subjects, and the use case that forgets one in a stream.

pub mod erasure;
pub mod subject;
