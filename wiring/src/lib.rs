//! Connects all crates: builds their parts from the settings and runs the roles.
//!
//! Layout: `roles` is the table of roles, `workers` what each role runs, `process` a process from its preparation to
//! its stop. The others build parts from the settings: `database`, `broker`, `keys`, `listeners`, `parts`. `limits` are
//! those of the operating system.

mod broker;
mod database;
mod keys;
pub mod limits;
mod listeners;
mod parts;
mod process;
mod roles;
mod starting;
mod workers;

pub use self::broker::{collect_checkpoints, connect_nats, integrators};
pub use self::database::{compact, connect, connect_with, executor, migrate, worker_login};
pub use self::keys::{keyring, keys, malformed_keys, passwords};
pub use self::listeners::Addresses;
pub use self::process::Prepared;
pub use self::roles::{ProcessRole, connections_max};
pub use self::starting::Running;
