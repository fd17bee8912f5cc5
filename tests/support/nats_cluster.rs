//! Three nats-servers with JetStream that form a cluster on the loopback interface; they end with the value, or with the
//! thread that started them.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use async_nats::jetstream::{self, context::ContextBuilder, stream::Info};

use super::{eventually, postgres::free_port, programs};

/// How many servers there are.
pub const NODES: usize = 3;
/// How long an answer of JetStream may take.
pub const ANSWER: Duration = Duration::from_millis(500);

pub struct NatsCluster {
    nodes: Vec<Node>,
    _folder: tempfile::TempDir,
}

struct Node {
    name: String,
    child: Option<Child>,
    port: u16,
    settings: PathBuf,
    store: PathBuf,
}

impl Node {
    fn spawn(&mut self) {
        let child = programs::command(&programs::nats_server(), false, "KILL")
            .arg("--config")
            .arg(&self.settings)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server starts: run scripts/bootstrap");
        self.child = Some(child);
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the server is killed");
            child.wait().expect("the server has ended");
        }
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

impl NatsCluster {
    /// Starts the servers and waits until they have a leader.
    pub async fn start() -> Self {
        let folder =
            tempfile::Builder::new().prefix("annals-nats-cluster-").tempdir().expect("a temporary folder");
        let routes: Vec<u16> = (0..NODES).map(|_| free_port()).collect();
        let others = routes.iter().map(|port| format!("\"nats://127.0.0.1:{port}\""));
        let others = others.collect::<Vec<_>>().join(", ");
        let mut nodes = Vec::new();
        for (number, route) in routes.iter().enumerate() {
            let (name, port) = (format!("node-{number}"), free_port());
            let (settings, store) = (folder.path().join(format!("{name}.conf")), folder.path().join(&name));
            let text = format!(
                "server_name: {name}\nlisten: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{}\" }}\n
                 cluster {{ name: tests, listen: \"127.0.0.1:{route}\", routes: [{others}] }}\n",
                store.display()
            );
            std::fs::write(&settings, text).expect("the settings are written");
            let mut node = Node { name, child: None, port, settings, store };
            node.spawn();
            nodes.push(node);
        }
        let cluster = Self { nodes, _folder: folder };
        cluster.wait_until_ready().await;
        cluster
    }

    /// The addresses of all servers, separated by commas.
    pub fn url(&self) -> String {
        self.nodes.iter().map(Node::url).collect::<Vec<_>>().join(",")
    }

    /// The addresses of all servers.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Node::url).collect()
    }

    /// Kills a server with SIGKILL.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].kill();
    }

    /// Starts a server that is down on what it has stored.
    pub fn restart(&mut self, node: usize) {
        self.nodes[node].spawn();
    }

    /// Removes what a server has stored; it must be down.
    pub fn wipe(&self, node: usize) {
        std::fs::remove_dir_all(&self.nodes[node].store).expect("the data are removed");
    }

    /// A stock client's way to JetStream. Without a leader nobody answers, so it waits a moment only and is to be asked
    /// again.
    pub async fn jetstream(&self) -> Option<jetstream::Context> {
        let client = async_nats::connect(self.urls()).await.ok()?;
        Some(ContextBuilder::new().timeout(ANSWER).build(client))
    }

    /// The stream `EVENTS` as its leader sees it, where it has one.
    pub async fn stream(&self) -> Option<Info> {
        let stream = self.jetstream().await?.get_stream("EVENTS").await.ok()?;
        Some(stream.cached_info().clone())
    }

    /// The server that leads `EVENTS`.
    pub async fn leader(&self) -> usize {
        eventually("the stream has a leader", || async {
            let leader = self.stream().await?.cluster?.leader?;
            let node = self.nodes.iter().position(|node| node.name == leader)?;
            self.nodes[node].child.is_some().then_some(node)
        })
        .await
    }

    /// Waits until every server holds all of `EVENTS`.
    pub async fn in_step(&self) {
        eventually("every server holds the stream", || async {
            let cluster = self.stream().await?.cluster?;
            let current = cluster.replicas.iter().filter(|peer| peer.current && !peer.offline).count();
            (current == NODES - 1).then_some(())
        })
        .await;
    }

    /// Waits until the servers have elected somebody who answers for JetStream.
    pub async fn wait_until_ready(&self) {
        eventually("the cluster has a leader", || async {
            self.jetstream().await?.query_account().await.ok().map(drop)
        })
        .await;
    }
}

impl Drop for NatsCluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.kill();
        }
    }
}
