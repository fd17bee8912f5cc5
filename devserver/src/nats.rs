//! The private nats-server: JetStream in the data folder, on 127.0.0.1 only, in operator mode as in production.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::nats::accounts::OperatorKeys;
use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::process::{LaunchOptions, Process, end_stale, free_port};
use crate::account::Account;
use crate::error::SuperviseError;
use crate::folder::DataFolder;
use crate::programs::Programs;
use settings::Secret;

/// The preferred port. Not 4222, which a NATS server of the system may use.
const DEFAULT_PORT: u16 = 4223;
/// Maximum time for a start: JetStream reads its store before the server answers.
const STARTUP_TIMEOUT: Duration = Duration::from_mins(2);

const STOP_SIGNALS: [(Signal, Duration); 1] = [(Signal::SIGTERM, Duration::from_millis(600))];

/// The keys of the operator and its accounts. Missing ones are generated.
pub(super) fn keys(folder: &DataFolder) -> Result<OperatorKeys, SuperviseError> {
    OperatorKeys::load_or_create(|name, fresh| {
        let (_, kept) = folder.secret(&key_file(name), || Secret::new(fresh))?;
        Ok(kept.reveal().to_owned())
    })
}

/// The file in the folder `secrets` that holds a key's seed.
pub(super) fn key_file(name: &str) -> String {
    format!("nats-{name}.seed")
}

/// A running nats-server.
pub(super) struct NatsServer {
    process: Process,
    port: u16,
    program: PathBuf,
    account: Account,
    settings: PathBuf,
    folder: PathBuf,
    log: PathBuf,
}

impl NatsServer {
    pub(super) async fn start(
        folder: &DataFolder,
        programs: &Programs,
        random_port: bool,
    ) -> Result<Self, SuperviseError> {
        let own = folder.servers_folder("nats")?;
        let settings = folder.path().join("nats.conf");
        let pid_file = own.join("nats.pid");
        end_stale("nats-server", &pid_file, &settings, &STOP_SIGNALS).await;
        let program = accessible_program(folder, &programs.nats_server)?;
        let log = folder.path().join("nats.log");
        let accounts = keys(folder)?.server_settings(&own.join("jwt"));
        let mut tries = 0;
        loop {
            let port = free_port((!random_port && tries == 0).then_some(DEFAULT_PORT));
            let text = format!(
                "server_name: annals-dev\nlisten: \"127.0.0.1:{port}\"\npid_file: {}\njetstream {{ store_dir: {} }}\n{accounts}",
                quoted(&pid_file),
                quoted(&own),
            );
            folder.write_for_servers("nats.conf", &text)?;
            let account = folder.account().clone();
            let process = launch(&program, &account, &settings, &own, &log)?;
            let mut server = Self {
                process,
                port,
                program: program.clone(),
                account,
                settings: settings.clone(),
                folder: own.clone(),
                log: log.clone(),
            };
            match server.ready().await {
                Ok(()) => return Ok(server),
                Err(_) if tries < 5 && server.process.output().contains("address already in use") => {
                    tries += 1;
                }
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
        self.process = launch(&self.program, &self.account, &self.settings, &self.folder, &self.log)?;
        self.ready().await
    }

    pub(super) async fn stop(&mut self) {
        self.process.stop(&STOP_SIGNALS).await;
    }

    pub(super) fn kill(&mut self) {
        self.process.send(Signal::SIGKILL);
    }

    async fn ready(&mut self) -> Result<(), SuperviseError> {
        let deadline = Instant::now() + STARTUP_TIMEOUT;
        loop {
            if is_ready(self.port).await {
                return Ok(());
            }
            if self.process.has_ended() || Instant::now() > deadline {
                return Err(self.process.failure());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn launch(
    program: &Path,
    account: &Account,
    settings: &Path,
    folder: &Path,
    log: &Path,
) -> Result<Process, SuperviseError> {
    Process::start(&LaunchOptions {
        name: "nats-server",
        program,
        arguments: vec!["--config".to_owned(), settings.display().to_string()],
        account,
        folder,
        log,
        death_signal: Signal::SIGTERM,
    })
}

/// A path as a value of the settings file, in JSON syntax.
fn quoted(path: &Path) -> serde_json::Value {
    path.display().to_string().into()
}

/// Whether a NATS server with JetStream sends its greeting. It listens only after its store is read.
async fn is_ready(port: u16) -> bool {
    let greeting = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let mut bytes = vec![0; 4096];
        let length = stream.read(&mut bytes).await.ok()?;
        let text = String::from_utf8_lossy(&bytes[..length]);
        Some(text.starts_with("INFO ") && text.contains("\"jetstream\":true"))
    };
    timeout(Duration::from_secs(2), greeting).await.ok().flatten().unwrap_or(false)
}

/// A program that the servers' account can run: the program itself, or a copy in the data folder if its folder is
/// closed, such as root's home.
fn accessible_program(folder: &DataFolder, program: &Path) -> Result<PathBuf, SuperviseError> {
    if folder.account().barrier(program).is_none() {
        return Ok(program.to_owned());
    }
    folder.readable_folder("bin")?;
    folder.copy_program("bin/nats-server", program)
}
