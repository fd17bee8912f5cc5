//! Private PostgreSQL and NATS servers on one machine, and the demo tenant, for `annals dev`.
//!
//! Layout: `programs` finds the installed server programs, `trust` refuses those that other users can change, `account`
//! chooses the user they run as, `folder` is the data folder with its lock and secrets, `process` starts and stops one
//! server, `postgres` and `nats` configure each server and check its readiness, `demo` is the demo tenant. Servers are
//! started only on the main thread, because they get a signal when the thread that started them ends.

mod account;
pub mod demo;
mod folder;
mod nats;
mod postgres;
mod process;
mod programs;
pub mod trust;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use account::Account;
pub use folder::{DataFolder, random_password};
pub use postgres::{DATABASE, SUPERUSER};
pub use programs::Programs;
pub use trust::Untrusted;

use nats::NatsServer;
use postgres::PostgresServer;

/// This many restarts within [`RESTART_WINDOW`] mean that the server cannot run.
const RESTARTS_MAX: usize = 5;
const RESTART_WINDOW: Duration = Duration::from_mins(1);

/// Why private servers cannot be started. Every message is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// A server program is not installed.
    #[error("{what} was not found; {remedy}")]
    ProgramMissing {
        /// The program.
        what: &'static str,
        /// How to install it.
        remedy: String,
    },
    /// All installed versions are too old.
    #[error("{program} is version {found}, {wanted} or later is needed; {remedy}")]
    ProgramTooOld {
        /// The program found.
        program: PathBuf,
        /// Its version.
        found: String,
        /// The oldest supported version.
        wanted: String,
        /// How to install it.
        remedy: String,
    },
    /// A program that a flag or the environment names does not run.
    #[error("{program} cannot be used as {what}: {problem}")]
    ProgramUnusable {
        /// The program or folder.
        program: PathBuf,
        /// What it should be.
        what: &'static str,
        /// The problem.
        problem: String,
    },
    /// Another user could replace the program.
    #[error(
        "the program {program} is not run: {problem}; run as that user, install it where only root and you may write, \
         or correct the owner and the permissions"
    )]
    UntrustedProgram {
        /// The program.
        program: PathBuf,
        /// What another user could change.
        problem: Untrusted,
    },
    /// Another user could put links into the data folder.
    #[error(
        "the data folder {folder} is not used: {problem}; choose another with --data-dir, or correct the owner and the \
         permissions"
    )]
    UntrustedFolder {
        /// The folder.
        folder: PathBuf,
        /// What another user could change.
        problem: Untrusted,
    },
    /// The password file has no entry for the user id, and PostgreSQL refuses to run.
    #[error(
        "user id {0} has no entry in the password file, which PostgreSQL needs; run as a user that has one"
    )]
    NoPasswordEntry(u32),
    /// The process runs as root, and there is no unprivileged user for the servers.
    #[error(
        "PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody to run it as"
    )]
    NoUnprivilegedUser,
    /// There is no default place for the data folder.
    #[error("there is no home folder to keep data in; name a folder with --data-dir, or use --ephemeral")]
    NoDefaultFolder,
    /// The user that the servers run as cannot reach the data folder.
    #[error(
        "the data folder {folder} cannot be used: user {user} may not enter {barrier}; choose another with --data-dir"
    )]
    Unreachable {
        /// The data folder.
        folder: PathBuf,
        /// The user of the servers.
        user: String,
        /// The folder that the user may not enter.
        barrier: PathBuf,
    },
    /// Another `annals dev` has locked the data folder.
    #[error("another annals dev{} already runs on the data folder {folder}", describe_process(*.pid))]
    AlreadyRunning {
        /// The data folder.
        folder: PathBuf,
        /// The id of the other process, if its lock file contains it.
        pid: Option<u32>,
    },
    /// Another major version of PostgreSQL wrote the data.
    #[error(
        "the data folder {folder} was made by PostgreSQL {made_by}, which is not installed; install it, or choose another folder with --data-dir"
    )]
    OtherMajor {
        /// The data folder.
        folder: PathBuf,
        /// The major version that made it.
        made_by: u32,
    },
    /// A file operation in the data folder failed.
    #[error("{action} {path}: {source}")]
    File {
        /// The operation.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A server, or the program that prepares it, failed to start.
    #[error("{server} did not start: {problem}; its log is {log}")]
    Start {
        /// The server.
        server: &'static str,
        /// Its last output.
        problem: String,
        /// Its log.
        log: PathBuf,
    },
    /// A server ended again after each restart.
    #[error("{server} ended {RESTARTS_MAX} times within {} seconds; its log is {log}", RESTART_WINDOW.as_secs())]
    RestartLimit {
        /// The server.
        server: &'static str,
        /// Its log.
        log: PathBuf,
    },
    /// A key of NATS in the data folder is malformed.
    #[error("a key of NATS in the data folder does not read: {0}")]
    NatsKey(#[from] ::nats::accounts::KeyError),
    /// The fresh server does not answer as expected.
    #[error("the private PostgreSQL server cannot be prepared")]
    Database(#[from] database::ConnectError),
}

fn describe_process(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

impl SuperviseError {
    fn file(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::File { action, path: path.to_owned(), source }
    }
}

/// The options of [`Servers::start`].
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The folder of the PostgreSQL programs. `None`: search for it.
    pub postgres_bin: Option<PathBuf>,
    /// The nats-server program. `None`: search for it.
    pub nats_server: Option<PathBuf>,
    /// Use any free ports instead of the usual ones.
    pub random_ports: bool,
}

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
