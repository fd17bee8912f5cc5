//! One private PostgreSQL for all tests of the run, and a fresh database for each test, cloned from a migrated template.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, mpsc};

use keyring::{Keyring, RootKey, RootKeys};
use schemas::engine::{Actor, EventType, Metadata, StreamName, TenantId, TenantSlug, ids};
use schemas::identity::tenant::{Registration, Tier};
use store::append::NewTenant;
use store::{
    DeploymentKey, ExpectedVersion, NewEvent, OwnerConfig, Reservation, Store, StoreConfig, StreamAppend,
    TenantStore,
};
use tokio_postgres::NoTls;

use super::key_stores::{KeyStoreKind, TestKeys};
use super::{eventually, programs};

pub const PASSWORD: &str = "tests";
const FOLDER: &str = "annals-tests-";
const TEMPLATE: &str = "annals_template";
const PORTS: std::ops::Range<u32> = 10_000..32_000;

static SERVER: LazyLock<Server> = LazyLock::new(Server::start);
static TEMPLATE_READY: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();

struct Server {
    port: u16,
    /// What it writes: the statements of a database that logs them, among others.
    log: PathBuf,
}

impl Server {
    /// Starts the server from a thread that lives as long as the process: the server ends with it.
    fn start() -> Self {
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let folder =
                tempfile::Builder::new().prefix("annals-tests-").tempdir().expect("a temporary folder");
            let port = free_port();
            let child = spawn(folder.path(), port);
            sender.send((port, folder.path().join("log"))).expect("the test waits");
            // The folder and the child stay until the process ends.
            std::mem::forget((folder, child));
            loop {
                std::thread::park();
            }
        });
        let (port, log) = receiver.recv().expect("PostgreSQL starts");
        Self { port, log }
    }
}

/// Removes the folders of earlier runs whose server has ended: a process cannot remove its own as it exits.
fn remove_leftovers() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with(FOLDER);
        let pid = std::fs::read_to_string(path.join("data/postmaster.pid")).unwrap_or_default();
        let pid: Option<u32> = pid.lines().next().and_then(|line| line.parse().ok());
        if ours && pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // Another run may be at the same folder; whoever is second finds it gone.
            drop(std::fs::remove_dir_all(path));
        }
    }
}

fn spawn(folder: &Path, port: u16) -> std::process::Child {
    let programs = programs::postgres();
    let password_file = folder.join("password");
    std::fs::write(&password_file, PASSWORD).expect("the password file is written");
    for path in [folder, &password_file] {
        give_to_postgres(path);
    }
    let data = folder.join("data");
    let initdb = programs::command(&programs.join("initdb"), true, "KILL")
        .arg("-D")
        .arg(&data)
        .args(["-U", "postgres", "-A", "scram-sha-256", "--no-sync", "--encoding=UTF8", "--locale=C"])
        .arg(format!("--pwfile={}", password_file.display()))
        .stdout(Stdio::null())
        .status()
        .expect("initdb runs");
    assert!(initdb.success(), "initdb failed");
    let log = std::fs::File::create(folder.join("log")).expect("the log is created");
    let mut postgres = programs::command(&programs.join("postgres"), true, "QUIT");
    postgres.arg("-D").arg(&data).arg("-k").arg(folder).args(["-p", &port.to_string()]);
    // Durability is for the product's own servers; these live for one run.
    for setting in [
        "listen_addresses=127.0.0.1",
        "fsync=off",
        "full_page_writes=off",
        "max_connections=2000",
        "log_line_prefix=%d|%u|",
    ] {
        postgres.args(["-c", setting]);
    }
    postgres.stdout(log.try_clone().expect("the log")).stderr(log).spawn().expect("postgres starts")
}

/// Gives a path to the account that the servers run as, where the tests run as root.
pub fn give_to_postgres(path: &Path) {
    if nix::unistd::Uid::effective().is_root() {
        let user = nix::unistd::User::from_name("postgres").expect("accounts").expect("the account postgres");
        std::os::unix::fs::chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("chown");
    }
}

/// A port that is free, and that this run hands out once. It lies below those that the system takes for outgoing connections:
/// one of these could have it before the server that it is meant for listens.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Runs at the same time begin in different places.
    let first = std::process::id() * 16;
    let ports = PORTS.end - PORTS.start;
    let next = || first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % ports;
    (0..ports)
        .map(|_| (PORTS.start + next()) as u16)
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// A migrated database of one test.
pub struct Database {
    pub name: String,
    pub port: u16,
    pub key: DeploymentKey,
    keys: TestKeys,
    root: RootKey,
    /// Removed with the value.
    _folder: tempfile::TempDir,
}

/// How long a process keeps a key.
const KEY_LEASE: std::time::Duration = std::time::Duration::from_millis(300);

impl Database {
    /// A fresh database.
    pub async fn create() -> Self {
        Self::with_keys(KeyStoreKind::File).await
    }

    /// A fresh database and its keys.
    pub async fn with_keys(kind: KeyStoreKind) -> Self {
        let port = SERVER.port;
        TEMPLATE_READY.get_or_init(|| prepare_template(port)).await;
        let name = format!("t{}", ids::random_id().simple());
        let cluster = connect(port, "postgres", "postgres").await;
        cluster.batch_execute(&format!("create database {name} template {TEMPLATE}")).await.expect("clones");
        let folder = tempfile::tempdir().expect("a folder");
        let keys = TestKeys::create(kind, folder.path()).await;
        Self { name, port, key: DeploymentKey::generate(), keys, root: RootKey::generate(), _folder: folder }
    }

    /// How the product reaches this database.
    pub fn store_config(&self) -> StoreConfig {
        StoreConfig {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            database: self.name.clone(),
            runtime_password: PASSWORD.to_owned(),
            key: self.key.clone(),
            keyring: Some(self.keyring()),
            append_workers: 2,
            pool_size: 8,
            tls: store::TlsConfig::default(),
            idle_timeout: std::time::Duration::from_mins(1),
        }
    }

    /// The keys of personal data, as one process opens them.
    pub fn keyring(&self) -> Keyring {
        self.keys.open(self.roots(), KEY_LEASE)
    }

    /// The store of the keys.
    pub fn keys(&self) -> &TestKeys {
        &self.keys
    }

    /// What wraps the keys.
    pub fn roots(&self) -> RootKeys {
        self.root.clone().into()
    }

    /// A store over this database: one process of the product.
    pub async fn store(&self) -> Store {
        Store::connect(self.store_config()).await.expect("the store connects")
    }

    /// Has the server log every statement of this database, for [`Self::statements`]. For sessions that begin later.
    pub async fn log_statements(&self) {
        let sql = format!("alter database {} set log_statement = 'all'", self.name);
        self.connect("postgres").await.batch_execute(&sql).await.expect("alters");
    }

    /// The statements that were logged so far: role and text, the first line of it.
    pub fn statements(&self) -> Vec<(String, String)> {
        let log = std::fs::read(&SERVER.log).expect("the log of the server");
        let statement = |line: &str| {
            let (role, message) = line.strip_prefix(&self.name)?.strip_prefix('|')?.split_once('|')?;
            let (_, text) = message.strip_prefix("LOG:  ")?.split_once(": ")?;
            Some((role.to_owned(), text.to_owned()))
        };
        String::from_utf8_lossy(&log).lines().filter_map(statement).collect()
    }

    /// A connection as a role of the database: a runtime role, or `postgres`.
    pub async fn connect(&self, role: &str) -> tokio_postgres::Client {
        connect(self.port, &self.name, role).await
    }
}

async fn prepare_template(port: u16) {
    eventually("PostgreSQL answers", || async {
        tokio_postgres::connect(&url(port, "postgres", "postgres"), NoTls).await.ok().map(drop)
    })
    .await;
    let cluster = connect(port, "postgres", "postgres").await;
    cluster.batch_execute(&format!("create database {TEMPLATE}")).await.expect("the template is created");
    let owner = OwnerConfig {
        host: "127.0.0.1".to_owned(),
        port,
        database: TEMPLATE.to_owned(),
        user: "postgres".to_owned(),
        password: PASSWORD.to_owned(),
        tls: store::TlsConfig::default(),
    };
    store::migrate::run(&owner, PASSWORD, &projections::tables()).await.expect("the template migrates");
    // The migration's own connection may take a moment to go; a template must have none.
    let others = "select count(*) from pg_stat_activity where datname = $1";
    while cluster.query_one(others, &[&TEMPLATE]).await.expect("counts").get::<_, i64>(0) > 0 {
        tokio::task::yield_now().await;
    }
}

fn url(port: u16, database: &str, role: &str) -> String {
    format!("postgres://{role}:{}@127.0.0.1:{port}/{database}", password_of(role))
}

/// The password of a role: a runtime role, that of the database of keys, or `postgres`.
pub fn password_of(role: &str) -> String {
    if ["postgres", "annals_keys"].contains(&role) {
        PASSWORD.to_owned()
    } else {
        store::role_password(PASSWORD, role)
    }
}

/// Where the server of all tests listens.
pub fn cluster_port() -> u16 {
    SERVER.port
}

/// A connection to a database of the server of all tests.
pub async fn connect(port: u16, database: &str, role: &str) -> tokio_postgres::Client {
    let (client, connection) =
        tokio_postgres::connect(&url(port, database, role), NoTls).await.expect("connects");
    tokio::spawn(connection);
    client
}

/// Opens a tenant as the product does: by an append to the platform's log.
pub async fn open_tenant(store: &Store, slug: &str) -> TenantStore {
    let id = TenantId(ids::new_id());
    let slug = TenantSlug::parse(slug).expect("a slug");
    let mut append = StreamAppend::new(
        StreamName::new("identity.tenant", id.0),
        ExpectedVersion::NoStream,
        vec![event("identity.tenant.registered.v1", "{}")],
        metadata(),
    );
    append.reservations = vec![Reservation { kind: "slug", value: slug.to_string() }];
    append.new_tenant = Some(NewTenant {
        id,
        slug: slug.clone(),
        name: slug.to_string(),
        tier: Tier::Free,
        registration: Registration::Open,
    });
    store.tenant(ids::PLATFORM).append(append).await.expect("the tenant opens");
    store.tenant(id)
}

/// Metadata of a test's own append.
pub fn metadata() -> Metadata {
    Metadata::new(Actor::system("test"), ids::new_id())
}

/// An event of any type and payload.
pub fn event(event_type: &str, payload: &str) -> NewEvent {
    NewEvent {
        event_id: None,
        event_type: EventType::parse(event_type).expect("an event type"),
        payload: payload.as_bytes().to_vec().into(),
        subject_keys: Vec::new(),
    }
}
