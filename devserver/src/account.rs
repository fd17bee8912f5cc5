//! The user that the servers run as: PostgreSQL refuses root, so root drops to `postgres`, else to `nobody`.

use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};

use crate::error::SuperviseError;

/// The user of the server processes.
#[derive(Debug, Clone)]
pub struct Account {
    /// The name in the password file.
    pub name: String,
    /// The ids of the user and the group to change to; `None` for the present user.
    pub change_to: Option<(u32, u32)>,
}

impl Account {
    /// The account for servers that this process starts.
    ///
    /// # Errors
    /// [`SuperviseError::NoPasswordEntry`] when this user is not in the password file.
    /// [`SuperviseError::NoUnprivilegedUser`] when this user is root, and neither `postgres` nor `nobody` exists.
    pub fn choose() -> Result<Self, SuperviseError> {
        let own = geteuid();
        if !own.is_root() {
            return match User::from_uid(own) {
                Ok(Some(user)) => Ok(Self { name: user.name, change_to: None }),
                _ => Err(SuperviseError::NoPasswordEntry(own.as_raw())),
            };
        }
        let user = ["postgres", "nobody"].into_iter().find_map(|name| User::from_name(name).ok().flatten());
        let user = user.ok_or(SuperviseError::NoUnprivilegedUser)?;
        Ok(Self { name: user.name, change_to: Some((user.uid.as_raw(), user.gid.as_raw())) })
    }

    /// Changes the owner of a folder to this account. A link in its place is not followed.
    ///
    /// # Errors
    /// [`SuperviseError::File`] when `folder` is not a folder or its owner cannot be changed.
    pub fn change_owner(&self, folder: &Path) -> Result<(), SuperviseError> {
        let Some((uid, gid)) = self.change_to else { return Ok(()) };
        let give = || {
            if !folder.symlink_metadata()?.is_dir() {
                return Err(std::io::Error::other("it is not a folder"));
            }
            lchown(folder, Some(uid), Some(gid))
        };
        give().map_err(|e| SuperviseError::file("cannot change the owner of", folder, e))
    }

    /// Allows this account to enter `folder`; the owner does not change.
    ///
    /// # Errors
    /// [`SuperviseError::File`] when the permissions of `folder` cannot be read or changed.
    pub fn grant_access(&self, folder: &Path) -> Result<(), SuperviseError> {
        if self.change_to.is_none() || self.may_enter(folder) {
            return Ok(());
        }
        let failed = |e| SuperviseError::file("cannot change the permissions of", folder, e);
        let mode = folder.metadata().map_err(failed)?.permissions().mode();
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode | 0o011)).map_err(failed)
    }

    /// The first folder on the path that this account may not enter. Folders that do not exist are skipped.
    pub fn barrier(&self, path: &Path) -> Option<PathBuf> {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mut folders: Vec<&Path> = path.ancestors().skip(1).collect();
        folders.reverse();
        folders.into_iter().find(|folder| !self.may_enter(folder)).map(Path::to_owned)
    }

    fn may_enter(&self, folder: &Path) -> bool {
        let Some((uid, gid)) = self.change_to else { return true };
        let Ok(metadata) = folder.metadata() else { return true };
        let bit = if metadata.uid() == uid {
            0o100
        } else if metadata.gid() == gid {
            0o010
        } else {
            0o001
        };
        metadata.mode() & bit != 0
    }
}
