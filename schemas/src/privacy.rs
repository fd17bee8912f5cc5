//! The bounded context `privacy`: the subjects of personal data, and their erasure.

pub mod subject;
