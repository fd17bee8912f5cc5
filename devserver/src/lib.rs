//! Private PostgreSQL and NATS servers on one machine, and the demo tenant, for `annals dev`.
//!
//! Layout: `programs` finds the installed server programs, `trust` refuses those that other users can change, `account`
//! chooses the user they run as, `folder` is the data folder with its lock and secrets, `process` starts and stops one
//! server, `postgres` and `nats` configure each server and check its readiness, `demo` is the demo tenant. Servers are
//! started only on the main thread, because they get a signal when the thread that started them ends.

mod account;
pub mod demo;
mod error;
mod folder;
mod nats;
mod postgres;
mod process;
mod programs;
pub mod trust;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Instant;

pub use account::Account;
pub use error::SuperviseError;
pub use folder::{DataFolder, random_password};
pub use postgres::{DATABASE, SUPERUSER};
pub use programs::{Options, Programs};
pub use trust::Untrusted;

use error::{RESTART_WINDOW, RESTARTS_MAX};
use nats::NatsServer;
use postgres::PostgresServer;

/// Files and account with which the product connects to the private NATS.
pub struct NatsFiles {
    /// The credentials file of the application's account.
    pub application: PathBuf,
    /// The credentials file of the system account.
    pub system: PathBuf,
    /// The seed that signs accounts.
    pub operator_signing: PathBuf,
    /// The seed that signs integrators' credentials.
    pub edge_signing: PathBuf,
    /// The public key of the integrators' account.
    pub edge_account: String,
}

impl NatsFiles {
    /// Writes the files again from the keys in the folder.
    ///
    /// # Errors
    /// [`SuperviseError::NatsKey`] when a key in the folder is malformed. [`SuperviseError::File`] when a file cannot
    /// be read or written.
    pub fn write(folder: &DataFolder) -> Result<Self, SuperviseError> {
        let keys = nats::keys(folder)?;
        let seed = |name: &str| folder.path().join("secrets").join(nats::key_file(name));
        Ok(Self {
            application: folder.write("secrets/nats-application.creds", &keys.application_credentials())?,
            system: folder.write("secrets/nats-system.creds", &keys.system_credentials())?,
            operator_signing: seed("operator-signing"),
            edge_signing: seed("edge-signing"),
            edge_account: keys.edge_account(),
        })
    }
}

/// Both running servers.
pub struct Servers {
    postgres: PostgresServer,
    nats: NatsServer,
    ended: VecDeque<Instant>,
}

impl Servers {
    /// Finds the programs, stops servers of an earlier run, and starts both servers.
    ///
    /// # Errors
    /// As [`Programs::find`] when a program cannot be used. [`SuperviseError::Start`] when a server does not start,
    /// [`SuperviseError::Database`] when PostgreSQL cannot be prepared, [`SuperviseError::NatsKey`] when a key of NATS
    /// is malformed. [`SuperviseError::File`] when a file cannot be read or written, or a program cannot be run.
    pub async fn start(folder: &DataFolder, options: &Options) -> Result<Self, SuperviseError> {
        let programs = Programs::find(options, folder.postgres_major()?)?;
        let (postgres, nats) = tokio::join!(
            PostgresServer::start(folder, &programs, options.random_ports),
            NatsServer::start(folder, &programs, options.random_ports),
        );
        match (postgres, nats) {
            (Ok(postgres), Ok(nats)) => Ok(Self { postgres, nats, ended: VecDeque::new() }),
            (Err(error), Ok(mut nats)) => {
                nats.stop().await;
                Err(error)
            }
            (Ok(mut postgres), Err(error)) => {
                postgres.stop().await;
                Err(error)
            }
            (Err(error), Err(_)) => Err(error),
        }
    }

    /// The port of PostgreSQL on 127.0.0.1.
    pub fn postgres_port(&self) -> u16 {
        self.postgres.port()
    }

    /// The address of NATS.
    pub fn nats_url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.nats.port())
    }

    /// Waits for a server to end and restarts it on its port. Returns only when the restart limit is reached.
    pub async fn keep_running(&mut self) -> SuperviseError {
        loop {
            let failed = tokio::select! {
                status = self.postgres.ended() => {
                    tracing::warn!(%status, "PostgreSQL ended unexpectedly, starting it again");
                    match self.count_restart("PostgreSQL", self.postgres.log()) {
                        Ok(()) => self.postgres.restart().await,
                        Err(error) => Err(error),
                    }
                }
                status = self.nats.ended() => {
                    tracing::warn!(%status, "nats-server ended unexpectedly, starting it again");
                    match self.count_restart("nats-server", self.nats.log()) {
                        Ok(()) => self.nats.restart().await,
                        Err(error) => Err(error),
                    }
                }
            };
            if let Err(error) = failed {
                return error;
            }
        }
    }

    fn count_restart(&mut self, server: &'static str, log: PathBuf) -> Result<(), SuperviseError> {
        let now = Instant::now();
        self.ended.push_back(now);
        self.ended.retain(|at| now.duration_since(*at) < RESTART_WINDOW);
        if self.ended.len() >= RESTARTS_MAX {
            return Err(SuperviseError::RestartLimit { server, log });
        }
        Ok(())
    }

    /// Stops NATS, then PostgreSQL, within three seconds even when they do not respond.
    pub async fn stop(&mut self) {
        self.nats.stop().await;
        self.postgres.stop().await;
    }

    /// Kills both at once, for a second Ctrl-C.
    pub fn kill(&mut self) {
        self.nats.kill();
        self.postgres.kill();
    }
}
