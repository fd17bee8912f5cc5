//! A private nats-server with JetStream for one test; it ends with the value, or with the thread that started it.

use std::path::PathBuf;
use std::process::{Child, Stdio};

use nats::accounts::{KeyError, OperatorKeys};

use super::{eventually, postgres::free_port, programs};

pub struct NatsServer {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
    operator: Option<Box<OperatorKeys>>,
    tls: bool,
}

impl NatsServer {
    /// Starts a server without users and waits until it answers.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts a server in operator mode and waits until it answers.
    pub async fn start_in_operator_mode() -> Self {
        let keys = OperatorKeys::load_or_create(|_, fresh| Ok::<_, KeyError>(fresh));
        Self::start_with(Some(Box::new(keys.expect("fresh seeds read")))).await
    }

    /// Starts a server that speaks TLS alone, with this certificate of `tests/support/tls`, and asks clients for theirs.
    pub async fn start_over_tls(certificate: &str) -> Self {
        let file = |name: &str| {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/tls").join(name);
            format!("{:?}", path.display().to_string())
        };
        let tls = format!(
            "tls {{ cert_file: {}, key_file: {}, ca_file: {}, verify: true }}\n",
            file(&format!("{certificate}.pem")),
            file(&format!("{certificate}.key")),
            file("client-authority.pem")
        );
        Self::start_as(None, &tls).await
    }

    async fn start_with(operator: Option<Box<OperatorKeys>>) -> Self {
        Self::start_as(operator, "").await
    }

    async fn start_as(operator: Option<Box<OperatorKeys>>, more: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("annals-nats-").tempdir().expect("a temporary folder");
        let mut settings = format!("jetstream: enabled\n{more}");
        if let Some(keys) = &operator {
            settings += &keys.server_settings(&folder.path().join("jwt"));
            let files =
                [("application", keys.application_credentials()), ("system", keys.system_credentials())];
            for (name, text) in files {
                std::fs::write(folder.path().join(format!("{name}.creds")), text).expect("it can be written");
            }
        }
        std::fs::write(folder.path().join("nats.conf"), settings).expect("it can be written");
        let port = free_port();
        let child = spawn(&folder, port);
        let server = Self { child, port, folder, operator, tls: !more.is_empty() };
        Box::pin(server.wait_until_ready()).await;
        server
    }

    /// The keys of a server in operator mode.
    pub fn keys(&self) -> &OperatorKeys {
        self.operator.as_deref().expect("the server is in operator mode")
    }

    /// The credentials file `application` or `system` of a server in operator mode.
    pub fn credentials(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.creds"))
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        let (scheme, host) = if self.tls { ("tls", "localhost") } else { ("nats", "127.0.0.1") };
        format!("{scheme}://{host}:{}", self.port)
    }

    /// The port of [`NatsServer::url`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills the server with SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("the server is killed");
        self.child.wait().expect("the server has ended");
    }

    /// Starts the server again on the same port and data.
    pub async fn restart(&mut self) {
        self.child = spawn(&self.folder, self.port);
        self.wait_until_ready().await;
    }

    /// Removes what JetStream has stored; the server must be down.
    pub fn wipe(&self) {
        std::fs::remove_dir_all(self.folder.path().join("jetstream")).expect("the data is removed");
    }

    /// Removes the accounts that a server in operator mode was given; it must be down.
    pub fn wipe_accounts(&self) {
        std::fs::remove_dir_all(self.folder.path().join("jwt")).expect("the accounts' JWTs are removed");
    }

    /// Copies what JetStream has stored to a place of its own; the server must be down.
    pub fn back_up(&self) -> tempfile::TempDir {
        let backup = tempfile::Builder::new().prefix("annals-nats-").tempdir().expect("a temporary folder");
        copy(&self.folder.path().join("jetstream"), &backup.path().join("jetstream"));
        backup
    }

    /// Puts a backup in the place of what JetStream has stored; the server must be down.
    pub fn restore(&self, backup: &tempfile::TempDir) {
        self.wipe();
        copy(&backup.path().join("jetstream"), &self.folder.path().join("jetstream"));
    }

    async fn wait_until_ready(&self) {
        eventually("nats-server answers", || async {
            if self.tls {
                return tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.ok().map(drop);
            }
            let mut options = async_nats::ConnectOptions::new();
            if self.operator.is_some() {
                options = options.credentials_file(self.credentials("application")).await.ok()?;
            }
            Box::pin(options.connect(self.url())).await.ok().map(drop)
        })
        .await;
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        // It may have been killed by the test already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("a folder is made");
    for entry in std::fs::read_dir(from).expect("the folder reads") {
        let entry = entry.expect("the folder reads");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a file is copied");
        }
    }
}

fn spawn(folder: &tempfile::TempDir, port: u16) -> Child {
    programs::command(&programs::nats_server(), false, "KILL")
        .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-sd"])
        .arg(folder.path())
        .arg("-c")
        .arg(folder.path().join("nats.conf"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nats-server starts: run scripts/bootstrap")
}
