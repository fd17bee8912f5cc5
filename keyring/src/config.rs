//! The location of the key store, as configured.

use std::path::PathBuf;
use std::time::Duration;

use database::{DatabaseConfig, Password, TlsConfig};

use crate::{Epoch, Keyring, KeyringError, RewrapResult, RootKeys, file, postgres};

/// The default role, if the URL names none.
const USER_DEFAULT: &str = "annals_keys";

/// A PostgreSQL database for keys only.
#[derive(Debug, Clone)]
pub struct KeyDatabase {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) name: String,
    pub(crate) user: String,
    pub(crate) password: Password,
    pub(crate) tls: TlsConfig,
}

impl KeyDatabase {
    /// Parses `postgres://[user@]host[:port]/database`. Password and TLS settings are given apart.
    ///
    /// # Errors
    /// [`KeyringError::Config`] when the URL has another form, parameters or a password.
    pub fn new(url: &str, password: &str, tls: TlsConfig) -> Result<Self, KeyringError> {
        let wrong = |problem: &str| KeyringError::Config(problem.to_owned());
        let has_scheme = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
        if !has_scheme || url.contains('?') {
            return Err(wrong("must be postgres://[user@]host[:port]/database, without parameters"));
        }
        let config: tokio_postgres::Config =
            url.parse().map_err(|_| wrong("must be a URL of a PostgreSQL database"))?;
        if config.get_password().is_some() {
            return Err(wrong("must not hold a password; it belongs into privacy.keys_password"));
        }
        let [tokio_postgres::config::Host::Tcp(host)] = config.get_hosts() else {
            return Err(wrong("must name one host"));
        };
        let name = config.get_dbname().filter(|name| !name.is_empty());
        Ok(Self {
            host: host.clone(),
            port: config.get_ports().first().copied().unwrap_or(5432),
            name: name.ok_or_else(|| wrong("must name a database"))?.to_owned(),
            user: config.get_user().filter(|user| !user.is_empty()).unwrap_or(USER_DEFAULT).to_owned(),
            password: password.into(),
            tls,
        })
    }

    /// The connection settings of a role.
    pub(crate) fn login(&self, user: &str, password: &str, options: &str) -> DatabaseConfig {
        DatabaseConfig {
            host: self.host.clone(),
            port: self.port,
            name: self.name.clone(),
            user: user.to_owned(),
            password: password.into(),
            application_name: "annals_keys".to_owned(),
            options: options.to_owned(),
            tls: self.tls.clone(),
        }
    }
}

impl std::fmt::Display for KeyDatabase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}:{}", self.name, self.host, self.port)
    }
}

/// The location of the key store.
#[derive(Debug, Clone)]
pub enum KeyStoreConfig {
    /// A file in this folder, shared by the processes of one machine.
    Folder(PathBuf),
    /// A database, shared by processes of all machines.
    Database(KeyDatabase),
}

impl KeyStoreConfig {
    /// Opens the key store. A missing folder and file are created; a database must be migrated before.
    ///
    /// # Errors
    /// [`KeyringError::Config`] when it cannot be used, or when this process lacks a root key of its epochs.
    /// [`KeyringError::Database`] when the database cannot be reached.
    pub async fn open(&self, roots: RootKeys, lease: Duration) -> Result<Keyring, KeyringError> {
        match self {
            Self::Folder(folder) => Keyring::open(folder, roots, lease),
            Self::Database(database) => Keyring::connect(database, roots, lease).await,
        }
    }

    /// The epochs, oldest first; `None` when there is no key store yet.
    pub async fn epochs(&self, roots: &RootKeys) -> Result<Option<Vec<Epoch>>, KeyringError> {
        match self {
            Self::Folder(folder) => file::epochs(folder, roots),
            Self::Database(database) => postgres::epochs(database, roots).await.map(Some),
        }
    }

    /// Encrypts every data key with the current root key, and ends earlier epochs.
    /// Processes may use the keys meanwhile.
    ///
    /// `on_progress` is called with the number of finished keys and of all keys.
    /// It does nothing if all keys are up to date. An interrupted run is completed by the next one.
    pub async fn rewrap(
        &self,
        roots: &RootKeys,
        mut on_progress: impl FnMut(u64, u64) + Send + 'static,
    ) -> Result<RewrapResult, KeyringError> {
        match self {
            Self::Folder(folder) => {
                let (folder, roots) = (folder.clone(), roots.clone());
                let rewrapping =
                    tokio::task::spawn_blocking(move || file::rewrap(&folder, &roots, on_progress));
                rewrapping.await.map_err(|error| KeyringError::Unavailable(error.to_string()))?
            }
            Self::Database(database) => postgres::rewrap(database, roots, &mut on_progress).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_one_host_one_database_and_no_password() {
        let read = |url: &str| KeyDatabase::new(url, "secret", TlsConfig::default());
        let full = read("postgres://keeper@keys.internal:5433/keys").expect("reads");
        assert_eq!(full.to_string(), "keys at keys.internal:5433");
        assert_eq!(full.user, "keeper");
        let short = read("postgresql://keys.internal/keys").expect("reads");
        assert_eq!((short.port, short.user.as_str()), (5432, USER_DEFAULT));
        for wrong in [
            "",
            "keys",
            "mysql://a/b",
            "postgres://a",
            "postgres:///keys",
            "postgres://a,b/keys",
            "postgres://user:word@a/keys",
            "postgres://a/keys?sslmode=disable",
            "host=a dbname=keys",
        ] {
            let error = read(wrong).expect_err(wrong).to_string();
            assert!(error.starts_with("must ") && !error.contains("word@"), "{error}");
        }
        assert!(!format!("{full:?}").contains("secret"));
    }
}
