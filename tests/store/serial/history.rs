//! What the worker processes tell of their appends, a line of JSON for each call and each return, and what they are told.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use store::StoreConfig;
use uuid::Uuid;

/// Marks a line as one of these: the test runner prints lines of its own.
const MARK: &str = "history ";

/// What a worker process is told on its standard input.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Orders {
    pub host: String,
    pub port: u16,
    pub database: String,
    pub password: String,
    pub key: String,
    pub lanes: usize,
    /// Prefix of the names of its appends.
    pub worker: usize,
    pub seed: u64,
    pub writers: u64,
    /// Appends of each writer.
    pub appends: u64,
    pub tenants: Vec<Uuid>,
}

impl Orders {
    pub fn store_config(&self) -> StoreConfig {
        StoreConfig {
            host: self.host.clone(),
            port: self.port,
            database: self.database.clone(),
            runtime_password: self.password.clone(),
            keyring: None,
            key: store::DeploymentKey::from_hex(&self.key).expect("a key"),
            append_workers: self.lanes,
            pool_size: 2,
            tls: store::TlsConfig::default(),
            idle_timeout: std::time::Duration::from_mins(1),
        }
    }
}

/// What a writer believes; [`store::ExpectedVersion`] as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expected {
    Any,
    NoStream,
    Exact(u64),
}

impl Expected {
    /// Whether it holds of a stream at this version.
    pub fn holds_at(self, version: u64) -> bool {
        match self {
            Self::Any => true,
            Self::NoStream => version == 0,
            Self::Exact(expected) => expected == version,
        }
    }
}

/// An append as it was asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    /// Its name, which each of its events carries.
    pub name: String,
    /// When it was asked for, on the clock that all processes share.
    pub at: u64,
    /// Index of the tenant.
    pub tenant: usize,
    pub stream: String,
    pub expected: Expected,
    pub events: usize,
    /// Command id and the byte that its digest is made of.
    pub claim: Option<(Uuid, u8)>,
    pub reserves: Vec<String>,
    pub releases: Vec<String>,
    /// The stream's password.
    pub secret: Option<String>,
    /// A tenant to open, by its id.
    pub new_tenant: Option<Uuid>,
    /// Whether PostgreSQL refuses it.
    pub poison: bool,
}

/// How an append ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Done { version: u64, log_id: Uuid, first_position: u64, position: u64, count: u32, duplicate: bool },
    Conflict { actual: u64 },
    Reused,
    Reserved { holder: String },
    Invalid(String),
    Overloaded,
    Unavailable(String),
}

/// A line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Line {
    Call(Call),
    Return { name: String, at: u64, outcome: Outcome },
}

impl Line {
    /// Prints it, past the runner, which would keep it to itself. What is in the pipe outlives this process.
    pub fn tell(&self) {
        use std::io::Write as _;
        let text = format!("{MARK}{}\n", serde_json::to_string(self).expect("a line is JSON"));
        // Nobody listens any more: the run is over.
        drop(std::io::stdout().lock().write_all(text.as_bytes()));
    }

    /// The line that a text is, if it is one and whole: a killed process leaves half a line.
    pub fn heard(text: &str) -> Option<Self> {
        // The runner begins a line of its own and leaves its end to others.
        let (_, json) = text.split_once(MARK)?;
        serde_json::from_str(json).ok()
    }
}

/// Nanoseconds of the system's monotonic clock, which all processes share.
pub fn monotonic() -> u64 {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the system has this clock"));
    u64::try_from(now.as_nanos()).expect("the system has not been up for centuries")
}
