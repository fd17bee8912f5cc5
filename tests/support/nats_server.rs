//! A private nats-server with JetStream for one test; it ends with the value, or with the thread that started it.

use std::process::{Child, Stdio};

use super::{eventually, postgres::free_port, programs};

pub struct NatsServer {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl NatsServer {
    /// Starts a server and waits until it answers.
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("annals-nats-").tempdir().expect("a temporary folder");
        let port = free_port();
        let child = spawn(&folder, port);
        let server = Self { child, port, folder };
        server.wait_until_ready().await;
        server
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
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
        eventually("nats-server answers", || async { async_nats::connect(self.url()).await.ok().map(drop) })
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
        .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"])
        .arg(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nats-server starts: run scripts/bootstrap")
}
