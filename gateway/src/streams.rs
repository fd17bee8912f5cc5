//! Live streams of events over HTTP: server-sent events and WebSockets. One reader for each tenant supplies them.
//!
//! Layout: `hub` holds the readers. `ring` holds the newest encoded events of a tenant. `follower` is the position of
//! one client in the log. `session` opens streams, independent of their protocol. `disconnect` waits for what ends a
//! stream or an export. `sse` and `websocket` are the two protocols.

pub mod disconnect;
mod disconnect_reason;
mod follower;
mod frame;
pub mod hub;
mod ring;
pub mod session;
pub mod sse;
pub mod websocket;

pub use disconnect::AccessWatch;
pub use disconnect_reason::DisconnectReason;
pub use hub::Hub;
pub use session::Sessions;
