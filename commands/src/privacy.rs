//! Privacy: the rules of subjects, and the use case that erases one in a stream.

pub mod erasure;
pub mod subject;
