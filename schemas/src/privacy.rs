//! The bounded context `privacy`: the people whom personal data is about, and their erasure.

pub mod subject;
