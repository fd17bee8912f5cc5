//! The data folder of `annals dev`: its lock, its secrets, its settings file, and the servers' own folders in it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::{Account, SuperviseError};
use crate::config::{Secret, places};

const TEMPORARY_PREFIX: &str = "annals-dev-";

/// The folder, locked for this process.
pub struct DataFolder {
    path: PathBuf,
    account: Account,
    /// Held until the end: the lock goes with it.
    _lock: File,
    /// Deleted at the end.
    temporary: Option<TempDir>,
}

impl DataFolder {
    /// Opens `path`, or the default folder, and locks it.
    pub fn open(path: Option<&Path>) -> Result<Self, SuperviseError> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => places::development_folder().ok_or(SuperviseError::NoDefaultFolder)?,
        };
        let path = std::path::absolute(&path).map_err(|e| SuperviseError::file("cannot use", &path, e))?;
        let account = Account::choose()?;
        if let Some(barrier) = account.barrier(&path) {
            return Err(SuperviseError::Unreachable { folder: path, user: account.name, barrier });
        }
        make_folder(&path)?;
        Self::locked(path, account, None)
    }

    /// Makes a folder that is deleted at the end, and deletes those that killed processes left behind.
    pub fn temporary() -> Result<Self, SuperviseError> {
        let parent = places::temporary_folder();
        sweep(&parent);
        let failed = |e| SuperviseError::file("cannot make a folder in", &parent, e);
        let temporary = tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempdir().map_err(failed)?;
        let account = Account::choose()?;
        Self::locked(temporary.path().to_owned(), account, Some(temporary))
    }

    fn locked(path: PathBuf, account: Account, temporary: Option<TempDir>) -> Result<Self, SuperviseError> {
        account.admit(&path)?;
        let file = path.join("lock");
        let failed = |e| SuperviseError::file("cannot write", &file, e);
        let mut lock = private().read(true).open(&file).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let pid = lock.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(SuperviseError::AlreadyRunning { folder: path, pid });
            }
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        lock.set_len(0).and_then(|()| lock.rewind()).map_err(failed)?;
        write!(lock, "{}", std::process::id()).map_err(failed)?;
        make_folder(&path.join("secrets"))?;
        Ok(Self { path, account, _lock: lock, temporary })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The user that the servers run as.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The PostgreSQL major version that made the data, where there are data.
    pub(super) fn postgres_major(&self) -> Result<Option<(PathBuf, u32)>, SuperviseError> {
        let file = self.path.join("postgres/PG_VERSION");
        match std::fs::read_to_string(&file) {
            Ok(text) => Ok(text.trim().parse().ok().map(|major| (self.path.clone(), major))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(SuperviseError::file("cannot read", &file, e)),
        }
    }

    /// The folder `name` in it, made for the servers' account where it is missing.
    pub(super) fn servers_folder(&self, name: &str) -> Result<PathBuf, SuperviseError> {
        let path = self.path.join(name);
        make_folder(&path)?;
        self.account.give(&path)?;
        Ok(path)
    }

    /// The file of the secret `name`, made by `generate` where it is missing.
    pub fn secret(
        &self,
        name: &str,
        generate: impl FnOnce() -> Secret,
    ) -> Result<(PathBuf, Secret), SuperviseError> {
        let file = self.path.join("secrets").join(name);
        match std::fs::read_to_string(&file) {
            Ok(text) if !text.is_empty() => return Ok((file, Secret::new(text.trim_end()))),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(SuperviseError::file("cannot read", &file, e)),
        }
        let secret = generate();
        self.write(&format!("secrets/{name}"), &format!("{}\n", secret.reveal().trim_end()))?;
        Ok((file, secret))
    }

    /// Writes a file that only this user may read, in one step.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, SuperviseError> {
        let file = self.path.join(name);
        let partial = self.path.join(format!("{name}.new"));
        let write = || -> std::io::Result<()> {
            let mut target = private().truncate(true).open(&partial)?;
            target.write_all(text.as_bytes())?;
            target.sync_all()?;
            std::fs::rename(&partial, &file)
        };
        write().map_err(|e| SuperviseError::file("cannot write", &file, e))?;
        Ok(file)
    }

    /// Deletes a temporary folder; another stays.
    pub fn close(mut self) {
        if let Some(folder) = self.temporary.take()
            && let Err(error) = folder.close()
        {
            tracing::warn!(%error, "the temporary folder could not be deleted");
        }
    }
}

/// A random password.
pub fn random_password() -> Secret {
    let mut bytes = [0; 24];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has randomness");
    Secret::new(hex::encode(bytes))
}

/// Options for a file that only this user may read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).write(true).truncate(false).mode(0o600);
    options
}

/// Makes a folder that only this user may enter. Folders above it that are missing are made as usual.
fn make_folder(path: &Path) -> Result<(), SuperviseError> {
    let make = || {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    };
    make().map_err(|e| SuperviseError::file("cannot make the folder", path, e))
}

/// Deletes temporary folders whose process is gone: their lock can be had. Fresh ones are left alone, they may be about
/// to be locked.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let named = entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY_PREFIX));
        let age = |file: &Path| file.metadata().ok()?.modified().ok()?.elapsed().ok();
        let lock = entry.path().join("lock");
        if !named || age(&lock).is_none_or(|age| age < Duration::from_mins(1)) {
            continue;
        }
        if File::open(&lock).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_held_by_one_process_at_a_time() {
        let parent = tempfile::tempdir().expect("a temporary folder can be made");
        let path = parent.path().join("data");
        if Account::choose().is_ok_and(|account| account.barrier(&path).is_some()) {
            // The parent is closed to the servers' account when this runs as root.
            let account = Account::choose().expect("there is an account");
            account.admit(parent.path()).expect("the parent is ours");
        }
        let first = DataFolder::open(Some(&path)).expect("it is free");
        let error = DataFolder::open(Some(&path)).err().expect("it is held").to_string();
        let own =
            format!("another annals dev (process {}) already runs on the data folder", std::process::id());
        assert!(error.starts_with(&own), "{error}");
        first.close();
        DataFolder::open(Some(&path)).expect("it is free again").close();
        assert!(path.is_dir(), "a named folder stays");
    }

    #[test]
    fn a_secret_is_made_once_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = DataFolder::temporary().expect("a temporary folder can be made");
        let (file, first) = folder.secret("test", random_password).expect("made");
        let (_, second) = folder.secret("test", random_password).expect("read");
        assert_eq!(first.reveal(), second.reveal());
        assert_eq!(first.reveal().len(), 48);
        assert_eq!(file.metadata().expect("it is there").permissions().mode() & 0o777, 0o600);
        let path = folder.path().to_owned();
        folder.close();
        assert!(!path.exists());
    }
}
