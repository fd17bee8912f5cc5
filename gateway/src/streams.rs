//! Live streams of events over HTTP: server-sent events and WebSockets. One reader for each tenant supplies them.
//!
//! Layout: `hub` holds the readers. `ring` holds the newest encoded events of a tenant. `follower` is the position of
//! one client in the log. `session` is a stream independent of its protocol. `disconnect` waits for what ends a stream
//! or an export. `sse` and `websocket` are the two protocols.

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
