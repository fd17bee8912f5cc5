//! A typed client of the public API, with one token. It prints nothing: an [`Error`] says why a request failed, and a
//! [`Pause`] why the client waits.
//!
//! Layout: `connection` sends requests and repeats them, `error` is why a request fails. Then one file a resource:
//! `audit` (key, checkpoint, proofs), `export`, `events` (pages), `follower` (the stream of events), `read_models`
//! (historical states), `activities`, `service_tokens`.

mod activities;
mod audit;
mod connection;
mod error;
mod events;
mod export;
mod follower;
mod read_models;
mod service_tokens;

pub use activities::{ActivitiesRequest, LoggedActivity};
pub use audit::LogPosition;
pub use connection::{Client, Pause};
pub use error::{Error, ExportClosed, Problem, ProblemBody};
pub use events::{EventsPage, EventsRequest};
pub use export::{ExportDownload, ExportRequest};
pub use follower::EventFollower;
pub use read_models::{ChangesPage, ChangesRequest, RowsPage, RowsRequest};
pub use service_tokens::{
    IssuedServiceToken, NewServiceToken, ServiceTokenRecord, ServiceTokensPage, TokenExpiry,
};
