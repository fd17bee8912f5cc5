//! The location of the key store, as configured.

use std::path::PathBuf;
use std::time::Duration;

use crate::{Epoch, KeyDatabase, Keyring, KeyringError, RewrapResult, RootKeys, file, postgres};

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
    ///
    /// # Errors
    /// [`KeyringError::Config`] when the file or the TLS settings cannot be used.
    /// [`KeyringError::Database`] when the database cannot be reached or is not migrated.
    /// [`KeyringError::Unavailable`] when the file cannot be read, or the database accepts no writes.
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
    ///
    /// # Errors
    /// [`KeyringError::Config`] when there is no key store, or when this process lacks a root key of its epochs.
    /// [`KeyringError::Unavailable`] when keys do not decrypt, or when another run uses another root key.
    /// [`KeyringError::Database`] when the database cannot be reached or is not migrated.
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
