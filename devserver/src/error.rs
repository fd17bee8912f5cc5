//! Why private servers cannot be started.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::trust::Untrusted;

/// This many restarts within [`RESTART_WINDOW`] mean that the server cannot run.
pub(crate) const RESTARTS_MAX: usize = 5;
pub(crate) const RESTART_WINDOW: Duration = Duration::from_mins(1);

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
    pub(crate) fn file(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::File { action, path: path.to_owned(), source }
    }
}
