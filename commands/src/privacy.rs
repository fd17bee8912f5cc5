//! Privacy: the rules of subjects.

pub mod subject;
