//! The names of systems and rows in the results.

/// Systems.
pub const ANNALS: &str = "annals";
pub const REFERENCE: &str = "annals, reference executor";
pub const PEER: &str = "PostGraphile";
pub const PEER_CLUSTER: &str = "PostGraphile, two processes";
pub const PGBENCH: &str = "pgbench";
pub const BARE_INSERT: &str = "bare INSERT";

/// Rows.
pub const LIST: &str = "list of 100";
pub const OBJECT: &str = "object by id";
pub const RENAME: &str = "renameCustomer";
pub const RENAME_WITH_ID: &str = "renameCustomer with command id";
pub const RENAME_WITH_CONFLICTS: &str = "renameCustomer, 10 % version conflicts";
pub const REGISTER: &str = "registerCustomer";
pub const RENAME_ALONE: &str = "renameCustomer, one client";
pub const RENAME_OLD: &str = "renameCustomer, one client, old customer";
pub const VISIBLE: &str = "answered to visible, half load";
pub const ACCOUNT: &str = "GET /v1/auth/me";
