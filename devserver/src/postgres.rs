//! The private PostgreSQL server: created with initdb, listens on 127.0.0.1 only, and is as durable as in production.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use database::{ConnectError, Connection, DatabaseConfig, TlsConfig};
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;

use super::process::{LaunchOptions, Process, command, end_stale, free_port};
use crate::account::Account;
use crate::error::SuperviseError;
use crate::folder;
use crate::folder::DataFolder;
use crate::programs::Programs;
use settings::Secret;

/// The preferred port.
const DEFAULT_PORT: u16 = 5433;
/// The superuser, who also owns the database.
pub const SUPERUSER: &str = "postgres";
/// The product's database.
pub const DATABASE: &str = "annals";
/// Maximum time for a start: after a crash the server first replays its write-ahead log.
const STARTUP_TIMEOUT: Duration = Duration::from_mins(2);

/// A fast shutdown, then an immediate one. After an immediate one the next start replays the write-ahead log.
const STOP_SIGNALS: [(Signal, Duration); 2] =
    [(Signal::SIGINT, Duration::from_millis(1800)), (Signal::SIGQUIT, Duration::from_millis(300))];

/// A running PostgreSQL server.
pub(super) struct PostgresServer {
    process: Process,
    port: u16,
    program: PathBuf,
    account: Account,
    data: PathBuf,
    log: PathBuf,
    password: Secret,
}

impl PostgresServer {
    /// Creates the cluster if there is none, starts the server and creates the product's database.
    pub(super) async fn start(
        folder: &DataFolder,
        programs: &Programs,
        random_port: bool,
    ) -> Result<Self, SuperviseError> {
        let data = folder.path().join("postgres");
        let (_, password) = folder.secret("superuser.password", folder::random_password)?;
        end_stale("PostgreSQL", &data.join("postmaster.pid"), &data, &STOP_SIGNALS).await;
        if !data.join("PG_VERSION").exists() {
            initialise(folder, programs, &data, &password).await?;
        }
        let program = programs.postgres_bin.join("postgres");
        let log = folder.path().join("postgres.log");
        let account = folder.account().clone();
        let mut tries = 0;
        loop {
            let port = free_port((!random_port && tries == 0).then_some(DEFAULT_PORT));
            let process = launch(&program, &account, &data, &log, port)?;
            let mut server = Self {
                process,
                port,
                program: program.clone(),
                account: account.clone(),
                data: data.clone(),
                log: log.clone(),
                password: password.clone(),
            };
            match server.ready().await {
                Ok(()) => {
                    server.make_database().await?;
                    return Ok(server);
                }
                // Another process may have taken the port since it was found free.
                Err(_) if tries < 5 && server.process.output().contains("could not bind") => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn log(&self) -> PathBuf {
        self.log.clone()
    }

    pub(super) async fn ended(&mut self) -> String {
        self.process.ended().await
    }

    /// Restarts it on its port.
    pub(super) async fn restart(&mut self) -> Result<(), SuperviseError> {
        let deadline = Instant::now() + STARTUP_TIMEOUT;
        loop {
            self.process = launch(&self.program, &self.account, &self.data, &self.log, self.port)?;
            match self.ready().await {
                Ok(()) => return Ok(()),
                // Server processes outlive a killed postmaster for a moment and hold its shared memory.
                Err(_)
                    if self.process.output().contains("shared memory block") && Instant::now() < deadline =>
                {
                    sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) async fn stop(&mut self) {
        self.process.stop(&STOP_SIGNALS).await;
    }

    /// Immediate shutdown: the server ends its child processes and replays its write-ahead log at the next start.
    pub(super) fn kill(&mut self) {
        self.process.send(Signal::SIGQUIT);
    }

    async fn ready(&mut self) -> Result<(), SuperviseError> {
        let deadline = Instant::now() + STARTUP_TIMEOUT;
        loop {
            if self.connect("postgres").await.is_ok() {
                return Ok(());
            }
            if self.process.has_ended() || Instant::now() > deadline {
                return Err(self.process.failure());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn connect(&self, name: &str) -> Result<Connection, ConnectError> {
        let config = DatabaseConfig {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            name: name.to_owned(),
            user: SUPERUSER.to_owned(),
            password: self.password.reveal().into(),
            application_name: "annals_dev".to_owned(),
            options: String::new(),
            tls: TlsConfig::default(),
        };
        database::connect(&config).await
    }

    async fn make_database(&self) -> Result<(), SuperviseError> {
        let connection = self.connect("postgres").await?;
        match connection.client.batch_execute(&format!("create database {DATABASE}")).await {
            Err(error) if error.code() == Some(&SqlState::DUPLICATE_DATABASE) => Ok(()),
            made => Ok(made.map_err(ConnectError::from)?),
        }
    }
}

fn launch(
    program: &Path,
    account: &Account,
    data: &Path,
    log: &Path,
    port: u16,
) -> Result<Process, SuperviseError> {
    let mut arguments = vec!["-D".to_owned(), data.display().to_string()];
    for setting in [
        &format!("port={port}"),
        "listen_addresses=127.0.0.1",
        // No socket in the file system: its path may be too long, or the server's user may not enter its folder.
        "unix_socket_directories=",
        "max_connections=300",
        "fsync=on",
        "synchronous_commit=on",
        "full_page_writes=on",
        "logging_collector=off",
        "log_line_prefix=%m [%p] ",
    ] {
        arguments.extend(["-c".to_owned(), setting.to_owned()]);
    }
    Process::start(&LaunchOptions {
        name: "PostgreSQL",
        program,
        arguments,
        account,
        folder: data,
        log,
        death_signal: Signal::SIGINT,
    })
}

/// Runs initdb in a temporary folder and renames it, so that a cluster is never incomplete.
async fn initialise(
    folder: &DataFolder,
    programs: &Programs,
    data: &Path,
    password: &Secret,
) -> Result<(), SuperviseError> {
    let partial = folder.path().join("postgres.new");
    if partial.exists() {
        std::fs::remove_dir_all(&partial).map_err(|e| SuperviseError::file("cannot delete", &partial, e))?;
    }
    folder.servers_folder("postgres.new")?;
    let password_file = folder.write_for_servers("postgres.password", password.reveal())?;
    let initdb = programs.postgres_bin.join("initdb");
    let output = command(&initdb, folder.account(), folder.path(), None)
        .args(["--username", SUPERUSER, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"])
        .args(["--no-sync", "--no-instructions", "--pgdata"])
        .arg(&partial)
        .arg("--pwfile")
        .arg(&password_file)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|e| SuperviseError::file("cannot run", &initdb, e));
    let removed = std::fs::remove_file(&password_file);
    let output = output?;
    removed.map_err(|e| SuperviseError::file("cannot delete", &password_file, e))?;
    if !output.status.success() {
        let log = folder.write("initdb.log", &String::from_utf8_lossy(&output.stderr))?;
        let said = String::from_utf8_lossy(&output.stderr);
        let problem = said.lines().find(|line| line.contains("error")).unwrap_or("initdb failed").to_owned();
        return Err(SuperviseError::Start { server: "PostgreSQL", problem, log });
    }
    let close = std::fs::set_permissions(&partial, std::fs::Permissions::from_mode(0o700));
    close.map_err(|e| SuperviseError::file("cannot change the permissions of", &partial, e))?;
    std::fs::rename(&partial, data).map_err(|e| SuperviseError::file("cannot rename", &partial, e))
}
