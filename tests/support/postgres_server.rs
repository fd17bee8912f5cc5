//! A PostgreSQL server of one test, to be stopped, frozen and broken; it ends with the value, or with the thread that
//! started it. Its data are a copy of one migrated template, so that a start takes well below a second.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use store::OwnerConfig;
use tokio_postgres::NoTls;

use super::postgres::{PASSWORD, free_port};
use super::{eventually, folder, process, programs};

/// The database that is migrated.
pub const DATABASE: &str = "annals";

const TEMPLATES: &str = "annals-template-";

static TEMPLATE: tokio::sync::OnceCell<PathBuf> = tokio::sync::OnceCell::const_new();

pub struct PostgresServer {
    child: Option<Child>,
    port: u16,
    settings: Vec<String>,
    data: PathBuf,
    /// Removed with the value, where it is ours.
    folder: Option<tempfile::TempDir>,
}

impl PostgresServer {
    /// Starts a migrated server with these settings (`name=value`) and waits until it answers.
    pub async fn start(settings: &[&str]) -> Self {
        let home = folder();
        let mut server = Self::start_in(home.path(), settings).await;
        server.folder = Some(home);
        server
    }

    /// The same in a folder of the caller's.
    pub async fn start_in(folder: &Path, settings: &[&str]) -> Self {
        let template = TEMPLATE.get_or_init(prepare_template).await;
        let data = folder.join("data");
        copy(template, &data);
        let settings = settings.iter().map(ToString::to_string).collect();
        let mut server = Self { child: None, port: free_port(), settings, data, folder: None };
        server.restart().await;
        server
    }

    /// Starts a server without the product's database and roles, as durable as one in production, and waits until it
    /// answers.
    pub async fn empty() -> Self {
        let home = folder();
        super::postgres::give_to_postgres(home.path());
        let data = make_cluster(home.path());
        let port = free_port();
        let settings = vec!["fsync=on".to_owned()];
        let child = Some(spawn(&data, port, &settings));
        let server = Self { child, port, settings, data, folder: Some(home) };
        eventually("PostgreSQL answers", || async { try_superuser(port).await.map(drop) }).await;
        server
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Ends the server: SIGINT is a fast stop, SIGQUIT an immediate one, which leaves recovery to the next start.
    pub fn stop(&mut self, signal: Signal) {
        let Some(mut child) = self.child.take() else { return };
        if process::is_running(child.id()) {
            process::send(child.id(), signal);
        }
        child.wait().expect("the server has ended");
    }

    /// Starts a server that is down, and waits until it answers.
    pub async fn restart(&mut self) {
        self.spawn();
        eventually("PostgreSQL answers", || async { self.try_connect().await.map(drop) }).await;
    }

    /// Copies its data to a place beside them; the server must be down.
    pub fn back_up(&self) -> PathBuf {
        let backup = self.data.with_extension("backup");
        copy(&self.data, &backup);
        backup
    }

    /// Puts a backup in the place of its data; the server must be down.
    pub fn restore(&self, backup: &Path) {
        std::fs::remove_dir_all(&self.data).expect("the data are removed");
        copy(backup, &self.data);
    }

    /// Starts a server that is down.
    pub fn spawn(&mut self) {
        self.child = Some(spawn(&self.data, self.port, &self.settings));
    }

    /// Lets a server that is down come up as a standby, which takes no writes until it is promoted.
    pub fn stand_by(&self) {
        let signal = self.data.join("standby.signal");
        std::fs::write(&signal, "").expect("the file is written");
        super::postgres::give_to_postgres(&signal);
    }

    /// Whether the server's main process runs.
    pub fn is_running(&self) -> bool {
        self.child.as_ref().is_some_and(|child| process::is_running(child.id()))
    }

    /// Its main process and all of its children.
    pub fn processes(&self) -> Vec<u32> {
        let Some(main) = self.child.as_ref().map(Child::id) else { return Vec::new() };
        let mut found = vec![main];
        for entry in std::fs::read_dir("/proc").expect("/proc is there").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let parent =
                stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
            if parent == Some(main) {
                found.push(pid);
            }
        }
        found
    }

    /// Sends a signal to all of its processes; those that end meanwhile are as good as reached.
    pub fn signal_all(&self, signal: Signal) {
        for pid in self.processes() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal);
        }
    }

    /// A connection of the superuser.
    pub async fn connect(&self) -> tokio_postgres::Client {
        self.try_connect().await.expect("PostgreSQL answers")
    }

    /// The same, where the server may be away.
    pub async fn try_connect(&self) -> Option<tokio_postgres::Client> {
        self.try_connect_as("postgres").await
    }

    /// A connection of any role, where the server may be away or full.
    pub async fn try_connect_as(&self, role: &str) -> Option<tokio_postgres::Client> {
        let password = super::postgres::password_of(role);
        let url = format!("postgres://{role}:{password}@127.0.0.1:{}/{DATABASE}", self.port);
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.ok()?;
        tokio::spawn(connection);
        Some(client)
    }

    /// A connection of the superuser to another database.
    pub async fn connect_to(&self, database: &str) -> tokio_postgres::Client {
        let url = format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/{database}", self.port);
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("PostgreSQL answers");
        tokio::spawn(connection);
        client
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(copied.success(), "the data are copied");
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // It may stand still; an immediate stop needs it awake.
        self.signal_all(Signal::SIGCONT);
        self.stop(Signal::SIGQUIT);
        drop(self.folder.take());
    }
}

/// Removes the templates of earlier runs: a process cannot remove its own as it exits.
fn remove_leftovers() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix(TEMPLATES)) else { continue };
        if !Path::new("/proc").join(pid).exists() {
            // Another run may be at the same folder; whoever is second finds it gone.
            drop(std::fs::remove_dir_all(entry.path()));
        }
    }
}

/// Makes the data folder that all are copied from: migrated, and stopped in good order.
async fn prepare_template() -> PathBuf {
    remove_leftovers();
    let home = std::env::temp_dir().join(format!("{TEMPLATES}{}", std::process::id()));
    std::fs::create_dir_all(&home).expect("the folder can be made");
    super::postgres::give_to_postgres(&home);
    let data = make_cluster(&home);
    let port = free_port();
    let mut child = spawn(&data, port, &[]);
    let client = eventually("PostgreSQL answers", || try_superuser(port)).await;
    client.batch_execute(&format!("create database {DATABASE}")).await.expect("the database is created");
    drop(client);
    let owner = OwnerConfig {
        host: "127.0.0.1".to_owned(),
        port,
        database: DATABASE.to_owned(),
        user: "postgres".to_owned(),
        password: PASSWORD.to_owned(),
        tls: store::TlsConfig::default(),
    };
    store::migrate::run(&owner, PASSWORD, &projections::tables()).await.expect("the template migrates");
    process::send(child.id(), Signal::SIGINT);
    assert!(child.wait().expect("the server has ended").success(), "the template stops in good order");
    data
}

/// A connection of the superuser to a server that may have no other database yet.
async fn try_superuser(port: u16) -> Option<tokio_postgres::Client> {
    let url = format!("postgres://postgres:{PASSWORD}@127.0.0.1:{port}/postgres");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.ok()?;
    tokio::spawn(connection);
    Some(client)
}

/// Makes an empty cluster in a folder that the servers' account owns.
fn make_cluster(home: &Path) -> PathBuf {
    let password = home.join("password");
    std::fs::write(&password, PASSWORD).expect("the password file is written");
    super::postgres::give_to_postgres(&password);
    let data = home.join("data");
    let initdb = programs::command(&programs::postgres().join("initdb"), true, "KILL")
        .arg("-D")
        .arg(&data)
        .args(["-U", "postgres", "-A", "scram-sha-256", "--no-sync", "--encoding=UTF8", "--locale=C"])
        .arg("--wal-segsize=1")
        .arg(format!("--pwfile={}", password.display()))
        .stdout(Stdio::null())
        .status()
        .expect("initdb runs");
    assert!(initdb.success(), "initdb failed");
    data
}

fn spawn(data: &Path, port: u16, settings: &[String]) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(data.with_extension("log"));
    let log = log.expect("the log is created");
    let mut postgres = programs::command(&programs::postgres().join("postgres"), true, "QUIT");
    postgres.arg("-D").arg(data).args(["-p", &port.to_string()]);
    // A server that is killed keeps what the system has taken; only a power failure needs fsync.
    let ours = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "max_connections=400"];
    for setting in ours.into_iter().chain(settings.iter().map(String::as_str)) {
        postgres.args(["-c", setting]);
    }
    postgres.stdout(log.try_clone().expect("the log")).stderr(log).spawn().expect("postgres starts")
}
