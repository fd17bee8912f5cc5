//! The data folder of `annals dev`: its lock, its secrets, its settings file, and the folders of the servers.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use store::Causes;
use tempfile::TempDir;

use crate::account::Account;
use crate::error::SuperviseError;
use crate::trust;
use settings::{Secret, paths};

const TEMPORARY_PREFIX: &str = "annals-dev-";

/// The folder, locked for this process.
pub struct DataFolder {
    path: PathBuf,
    account: Account,
    /// Held until the process ends; the lock is released with it.
    _lock: File,
    /// A temporary folder, deleted at the end.
    temporary: Option<TempDir>,
}

impl DataFolder {
    /// Opens `path`, or the default folder, and locks it.
    ///
    /// # Errors
    /// [`SuperviseError::NoDefaultFolder`] without `path` and home folder. [`SuperviseError::AlreadyRunning`] when
    /// another process has locked the folder. [`SuperviseError::Unreachable`] when the servers' account may not enter
    /// it. [`SuperviseError::UntrustedFolder`] when another user could change it. [`SuperviseError::File`] when it
    /// cannot be created or written to. Others as [`Account::choose`].
    pub fn open(path: Option<&Path>) -> Result<Self, SuperviseError> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => paths::development_folder().ok_or(SuperviseError::NoDefaultFolder)?,
        };
        let path = std::path::absolute(&path).map_err(|e| SuperviseError::file("cannot use", &path, e))?;
        let account = Account::choose()?;
        if let Some(barrier) = account.barrier(&path) {
            return Err(SuperviseError::Unreachable { folder: path, user: account.name, barrier });
        }
        let untrusted = |problem| SuperviseError::UntrustedFolder { folder: path.clone(), problem };
        trust::parents(&path).map_err(untrusted)?;
        make_folder(&path)?;
        // Resolve links first, so that files are written where the folder was checked.
        let path = trust::resolved(&path).map_err(untrusted)?;
        Self::locked(path, account, None)
    }

    /// Creates a folder that is deleted at the end. Deletes such folders of processes that were killed.
    ///
    /// # Errors
    /// [`SuperviseError::UntrustedFolder`] when another user could change the folder. [`SuperviseError::File`] when it
    /// cannot be created or written to. Others as [`Account::choose`].
    pub fn temporary() -> Result<Self, SuperviseError> {
        let parent = paths::temporary_folder();
        remove_stale_folders(&parent);
        let failed = |e| SuperviseError::file("cannot make a folder in", &parent, e);
        let temporary = tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempdir().map_err(failed)?;
        let account = Account::choose()?;
        let path = trust::resolved(temporary.path()).map_err(|problem| SuperviseError::UntrustedFolder {
            folder: temporary.path().to_owned(),
            problem,
        })?;
        Self::locked(path, account, Some(temporary))
    }

    fn locked(path: PathBuf, account: Account, temporary: Option<TempDir>) -> Result<Self, SuperviseError> {
        account.grant_access(&path)?;
        let file = path.join("lock");
        let failed = |e| SuperviseError::file("cannot write", &file, e);
        let options = &mut OpenOptions::new();
        options.create(true).read(true).write(true).truncate(false);
        let mut lock = open_lock(&file, options).map_err(failed)?;
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

    /// The path and the PostgreSQL major version of existing data.
    pub(super) fn postgres_major(&self) -> Result<Option<(PathBuf, u32)>, SuperviseError> {
        let file = self.path.join("postgres/PG_VERSION");
        match read_file(&file) {
            Ok(text) => Ok(text.trim().parse().ok().map(|major| (self.path.clone(), major))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(SuperviseError::file("cannot read", &file, e)),
        }
    }

    /// The folder `name`, created for the servers' account if it is missing. This process writes nothing into it,
    /// because the account could have put links there.
    pub(super) fn servers_folder(&self, name: &str) -> Result<PathBuf, SuperviseError> {
        let path = self.path.join(name);
        make_folder(&path)?;
        self.account.change_owner(&path)?;
        Ok(path)
    }

    /// The folder `name`, which the servers' account may enter and only this user may write to.
    pub(super) fn readable_folder(&self, name: &str) -> Result<PathBuf, SuperviseError> {
        let path = self.path.join(name);
        make_folder(&path)?;
        self.account.grant_access(&path)?;
        Ok(path)
    }

    /// The file of the secret `name`. `generate` creates the secret if the file is missing.
    ///
    /// # Errors
    /// [`SuperviseError::File`] when the file cannot be read, or a new one cannot be written.
    pub fn secret(
        &self,
        name: &str,
        generate: impl FnOnce() -> Secret,
    ) -> Result<(PathBuf, Secret), SuperviseError> {
        let file = self.path.join("secrets").join(name);
        match read_file(&file) {
            Ok(text) if !text.is_empty() => return Ok((file, Secret::new(text.trim_end()))),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(SuperviseError::file("cannot read", &file, e)),
        }
        let secret = generate();
        self.write(&format!("secrets/{name}"), &format!("{}\n", secret.reveal().trim_end()))?;
        Ok((file, secret))
    }

    /// Writes a file that only this user may read, atomically.
    ///
    /// # Errors
    /// [`SuperviseError::File`] when the file cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, SuperviseError> {
        self.replace_file(name, 0o600, |file| file.write_all(text.as_bytes()))
    }

    /// Writes a file that the servers' account owns, atomically. The owner changes after the contents are written.
    pub(super) fn write_for_servers(&self, name: &str, text: &str) -> Result<PathBuf, SuperviseError> {
        let owner = self.account.change_to;
        self.replace_file(name, 0o600, |file| {
            file.write_all(text.as_bytes())?;
            match owner {
                Some((uid, gid)) => fchown(&*file, Some(uid), Some(gid)),
                None => Ok(()),
            }
        })
    }

    /// Copies a program to a place where the servers' account can run but not change it.
    pub(super) fn copy_program(&self, name: &str, program: &Path) -> Result<PathBuf, SuperviseError> {
        self.replace_file(name, 0o755, |file| std::io::copy(&mut File::open(program)?, file).map(drop))
    }

    /// Writes a new file and renames it. So a link or an incomplete file in its place is replaced and never written to.
    fn replace_file(
        &self,
        name: &str,
        mode: u32,
        fill: impl FnOnce(&mut File) -> std::io::Result<()>,
    ) -> Result<PathBuf, SuperviseError> {
        let file = self.path.join(name);
        let partial = self.path.join(format!("{name}.new"));
        let write = || -> std::io::Result<()> {
            match std::fs::remove_file(&partial) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut target = OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial)?;
            fill(&mut target)?;
            target.sync_all()?;
            std::fs::rename(&partial, &file)
        };
        write().map_err(|e| SuperviseError::file("cannot write", &file, e))?;
        Ok(file)
    }

    /// Deletes the folder if it is temporary.
    pub fn close(mut self) {
        if let Some(folder) = self.temporary.take()
            && let Err(error) = folder.close()
        {
            tracing::warn!(error = %Causes(&error), "the temporary folder could not be deleted");
        }
    }
}

/// A random password.
pub fn random_password() -> Secret {
    let mut bytes = [0; 24];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has randomness");
    Secret::new(hex::encode(bytes))
}

/// Reads a small file. A link or a pipe, which a server's account may have put in its place, is refused.
pub(super) fn read_file(path: &Path) -> std::io::Result<String> {
    const FILE_BYTES_MAX: u64 = 64 * 1024;
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Creates a folder that only this user may enter. Missing parent folders get the usual permissions.
fn make_folder(path: &Path) -> Result<(), SuperviseError> {
    let make = || {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    };
    make().map_err(|e| SuperviseError::file("cannot make the folder", path, e))
}

/// Deletes temporary folders of this user whose process has ended: their lock is free. New folders are kept, because
/// their process may be about to lock them.
fn remove_stale_folders(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let named = entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY_PREFIX));
        // Check the entry itself, not the target of a link.
        let own = entry.metadata().is_ok_and(|it| it.is_dir() && it.uid() == geteuid().as_raw());
        if !named || !own {
            continue;
        }
        let Ok(lock) = open_lock(&entry.path().join("lock"), OpenOptions::new().read(true)) else { continue };
        let age = || lock.metadata().ok()?.modified().ok()?.elapsed().ok();
        if age().is_some_and(|age| age > Duration::from_mins(1)) && lock.try_lock().is_ok() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Opens a lock file. Links and pipes in its place are refused.
fn open_lock(path: &Path, options: &mut OpenOptions) -> std::io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = options.custom_flags(flags.bits()).mode(0o600).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::Error::other("it is not a regular file")) }
}

#[cfg(test)]
mod tests;
