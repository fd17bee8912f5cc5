//! Live streams of events over HTTP: server-sent events and WebSockets, fed from one reader a tenant.
//!
//! Layout: `hub` keeps the readers, `ring` the newest events of a tenant in the form in which they are sent, `follower`
//! is one client's place in the log, `session` a stream as both ways out see it, `disconnect` what ends one besides the client,
//! and an export as well; `sse` and `websocket` are the two ways out.

mod disconnect;
mod disconnect_reason;
mod follower;
mod frame;
pub mod hub;
mod ring;
mod session;
pub mod sse;
pub mod websocket;

pub use disconnect::read_access_ended;
pub use disconnect_reason::DisconnectReason;
pub use hub::Hub;
