//! The two stores of keys: a file, and a database on the tests' server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use keyring::{KeyDatabase, KeyDatabaseOwner, KeyStoreConfig, Keyring, RootKeys, TlsConfig};
use schemas::engine::ids;
use tempfile::TempDir;

use super::postgres::{PASSWORD, cluster_port, connect};

/// Where the keys of a test are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStoreKind {
    File,
    Postgres,
}

/// A store of keys of one test.
pub struct TestKeys {
    folder: PathBuf,
    database: Option<String>,
}

/// What a store was when it was copied.
pub enum KeysBackup {
    Folder(TempDir),
    Database(String),
}

impl TestKeys {
    /// A store in a folder, which need not be there.
    pub fn in_folder(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), database: None }
    }

    /// A store in the folder, or an empty database of keys that is migrated.
    pub async fn create(kind: KeyStoreKind, folder: &Path) -> Self {
        if kind == KeyStoreKind::File {
            return Self::in_folder(folder);
        }
        let name = format!("keys_{}", ids::random_id().simple());
        server().await.batch_execute(&format!("create database {name}")).await.expect("creates");
        let keys = Self { folder: folder.to_owned(), database: Some(name) };
        let KeyStoreConfig::Database(database) = keys.config() else { unreachable!("it has a database") };
        let owner = KeyDatabaseOwner { user: "postgres".to_owned(), password: PASSWORD.into() };
        keyring::migrate(&database, &owner).await.expect("migrates");
        keys
    }

    pub fn config(&self) -> KeyStoreConfig {
        match &self.database {
            None => KeyStoreConfig::Folder(self.folder.clone()),
            Some(name) => {
                let database = KeyDatabase::new(&url(name), PASSWORD, TlsConfig::default());
                KeyStoreConfig::Database(database.expect("the URL reads"))
            }
        }
    }

    /// Lines of the section `[privacy]`.
    pub fn settings(&self) -> String {
        match &self.database {
            None => format!("keys_folder = \"{}\"\n", self.folder.display()),
            Some(name) => format!("keys_url = \"{}\"\nkeys_password = \"{PASSWORD}\"\n", url(name)),
        }
    }

    /// The keys as one process opens them, from a test with several threads.
    pub fn open(&self, roots: RootKeys, lease: Duration) -> Keyring {
        match self.config() {
            KeyStoreConfig::Folder(folder) => Keyring::open(&folder, roots, lease).expect("the keys open"),
            config @ KeyStoreConfig::Database(_) => tokio::task::block_in_place(|| {
                let opening = config.open(roots, lease);
                tokio::runtime::Handle::current().block_on(opening).expect("the keys open")
            }),
        }
    }

    /// A connection of the superuser to the database of keys.
    pub async fn connect(&self) -> tokio_postgres::Client {
        self.connect_as("postgres").await
    }

    /// A connection of a role to the database of keys.
    pub async fn connect_as(&self, role: &str) -> tokio_postgres::Client {
        connect(cluster_port(), self.database.as_deref().expect("keys in a database"), role).await
    }

    /// Ends every connection to the database of keys.
    pub async fn cut(&self) {
        let Some(name) = &self.database else { return };
        let sql = format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'");
        server().await.batch_execute(&sql).await.expect("ends connections");
    }

    /// Copies the keys as they are. No process may use them meanwhile.
    pub async fn back_up(&self) -> KeysBackup {
        let Some(name) = &self.database else {
            let backup = tempfile::tempdir().expect("a folder");
            copy(&self.folder, backup.path());
            return KeysBackup::Folder(backup);
        };
        let copy = format!("{name}_{}", ids::random_id().simple());
        self.clone_database(name, &copy).await;
        KeysBackup::Database(copy)
    }

    /// Puts the keys back to what they were.
    pub async fn restore(&self, backup: &KeysBackup) {
        match (backup, &self.database) {
            (KeysBackup::Folder(backup), _) => {
                std::fs::remove_dir_all(&self.folder).expect("the keys go");
                std::fs::create_dir(&self.folder).expect("a folder");
                copy(backup.path(), &self.folder);
            }
            (KeysBackup::Database(backup), Some(name)) => {
                let drop = format!("drop database {name} with (force)");
                server().await.batch_execute(&drop).await.expect("the keys go");
                self.clone_database(backup, name).await;
            }
            (KeysBackup::Database(_), None) => panic!("a copy of another store"),
        }
    }

    async fn clone_database(&self, from: &str, to: &str) {
        let others =
            format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{from}'");
        let clone = format!("create database {to} template {from}");
        super::eventually("the database is copied", || async {
            let server = server().await;
            server.batch_execute(&others).await.expect("ends connections");
            // A connection may take a moment to go.
            server.batch_execute(&clone).await.ok()
        })
        .await;
    }
}

/// The superuser at the server of all tests, which may just be starting.
async fn server() -> tokio_postgres::Client {
    let url = format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/postgres", cluster_port());
    super::eventually("PostgreSQL answers", || async {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.ok()?;
        tokio::spawn(connection);
        Some(client)
    })
    .await
}

fn url(name: &str) -> String {
    format!("postgres://127.0.0.1:{}/{name}", cluster_port())
}

fn copy(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).expect("a folder").flatten() {
        std::fs::copy(file.path(), to.join(file.file_name())).expect("copied");
    }
}

/// Runs a test over both stores of keys: `name::over_a_file` and `name::over_postgresql`.
macro_rules! over_both_key_stores {
    ($($name:ident),+ $(,)?) => { $(
        mod $name {
            use crate::support::key_stores::KeyStoreKind;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn over_a_file() {
                super::$name(KeyStoreKind::File).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn over_postgresql() {
                super::$name(KeyStoreKind::Postgres).await;
            }
        }
    )+ };
}
pub(crate) use over_both_key_stores;
