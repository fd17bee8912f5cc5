//! Files that are created once: complete or not at all, readable by this user only, never overwritten.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::failure::Failure;
use devserver::trust;
use settings::Secret;
use terminal::Exit;

/// The permission bits of other users.
const OTHER_USERS_MODE: u32 = 0o077;

/// The state of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    /// It was missing and was created.
    Made,
    /// It existed and was not changed.
    Kept,
    /// It is missing and was not created.
    Missing,
}

/// The folder, and the files found or created in it.
pub struct Files {
    folder: PathBuf,
    /// If true, files are listed and none is created.
    pub read_only: bool,
    entries: Vec<(PathBuf, &'static str, FileState)>,
}

impl Files {
    /// Opens the folder and creates it if it is missing.
    ///
    /// # Errors
    /// Another user can write to the folder, or this user cannot create it.
    pub fn open(folder: &Path) -> Result<Self, Failure> {
        let given = std::path::absolute(folder).map_err(|error| file_failure("cannot use", folder, error))?;
        let untrusted =
            |problem| Failure::usage(anyhow::anyhow!("keys are not made in {}: {problem}", given.display()));
        trust::parents(&given).map_err(untrusted)?;
        make_folder(&given).map_err(|error| file_failure("cannot make the folder", &given, error))?;
        let folder = trust::resolved(&given).map_err(untrusted)?;
        Ok(Self { folder, read_only: false, entries: Vec::new() })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the folder has an entry of this name.
    pub fn has(&self, name: &str) -> bool {
        self.folder.join(name).symlink_metadata().is_ok()
    }

    /// The contents of the file `name`. `generate` creates a missing one. `None` when it is missing in read-only mode.
    pub fn secret(
        &mut self,
        name: &str,
        purpose: &'static str,
        generate: impl FnOnce() -> Result<Secret, Failure>,
    ) -> Result<Option<Secret>, Failure> {
        let file = self.folder.join(name);
        let unreadable = |error| file_failure("cannot read", &file, error);
        let found = match std::fs::read_to_string(&file) {
            Ok(text) => Some((Secret::new(text.trim_end()), FileState::Kept)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unreadable(error)),
            Err(_) if self.read_only => None,
            Err(_) => {
                let secret = generate()?;
                self.create_private_folder(&file)?;
                match create_file(&file, &format!("{}\n", secret.reveal().trim_end())) {
                    Ok(()) => Some((secret, FileState::Made)),
                    // Another run created the file first, or it is a broken link.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        let text = std::fs::read_to_string(&file).map_err(unreadable)?;
                        Some((Secret::new(text.trim_end()), FileState::Kept))
                    }
                    Err(error) => return Err(file_failure("cannot write", &file, error)),
                }
            }
        };
        let state = found.as_ref().map_or(FileState::Missing, |(_, state)| *state);
        self.entries.push((file, purpose, state));
        Ok(found.map(|(secret, _)| secret))
    }

    /// Replaces the file `name` atomically. A link in its place is replaced and not followed.
    pub fn replace(&self, name: &str, text: &str) -> Result<(), Failure> {
        let file = self.folder.join(name);
        write_beside(&file, text, |partial| std::fs::rename(partial, &file))
            .map_err(|error| file_failure("cannot write", &file, error))
    }

    /// The requested files in order.
    pub fn into_entries(self) -> Vec<(PathBuf, &'static str, FileState)> {
        self.entries
    }

    /// Creates the parent folder of a file. Only this user may enter it.
    fn create_private_folder(&self, file: &Path) -> Result<(), Failure> {
        let Some(folder) = file.parent().filter(|folder| *folder != self.folder) else { return Ok(()) };
        make_folder(folder).map_err(|error| file_failure("cannot make the folder", folder, error))?;
        let metadata =
            folder.symlink_metadata().map_err(|error| file_failure("cannot look at", folder, error))?;
        let own = metadata.is_dir() && metadata.uid() == nix::unistd::geteuid().as_raw();
        if own && metadata.mode() & OTHER_USERS_MODE == 0 {
            return Ok(());
        }
        Err(Failure::usage(anyhow::anyhow!(
            "keys are not made in {}: it must be a folder that this user owns and nobody else may enter (mode 0700)",
            folder.display()
        )))
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Creates a file that only this user may read. It gets its name when it is complete. Fails when the name exists.
fn create_file(file: &Path, text: &str) -> io::Result<()> {
    write_beside(file, text, |partial| {
        // Unlike a rename, a hard link fails when the name exists.
        let linked = std::fs::hard_link(partial, file);
        std::fs::remove_file(partial)?;
        linked
    })
}

/// Writes a temporary file in the same folder; `publish` gives it its name.
fn write_beside(file: &Path, text: &str, publish: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let partial = file.with_file_name(format!(".{name}.{}.new", std::process::id()));
    let written = (|| {
        let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        target.write_all(text.as_bytes())?;
        target.sync_all()
    })();
    if let Err(error) = written {
        // The temporary file is useless, and the first error gives the reason.
        drop(std::fs::remove_file(&partial));
        return Err(error);
    }
    publish(&partial)?;
    // Sync the folder too, so that the name survives a loss of power.
    match file.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn file_failure(action: &str, path: &Path, error: io::Error) -> Failure {
    Failure::new(Exit::Failed, anyhow::Error::from(error).context(format!("{action} {}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn text(files: &mut Files, name: &str, text: &str) -> Result<Option<Secret>, Failure> {
        files.secret(name, "a test", || Ok(Secret::new(text)))
    }

    #[test]
    fn a_file_is_made_once_and_private() {
        let parent = tempfile::tempdir().expect("a temporary folder can be made");
        let path = parent.path().join("new/deployment");
        let mut files = Files::open(&path).expect("it can be made");
        text(&mut files, "secrets/a", "first").expect("made");
        let kept = text(&mut files, "secrets/a", "second").expect("kept").expect("there");
        assert_eq!(kept.reveal(), "first");
        let mode = |path: PathBuf| path.metadata().expect("it is there").permissions().mode() & 0o777;
        assert_eq!((mode(path.join("secrets/a")), mode(path.join("secrets"))), (0o600, 0o700));
        assert_eq!(mode(path.clone()), 0o700);
        let states: Vec<FileState> = files.into_entries().into_iter().map(|(_, _, state)| state).collect();
        assert_eq!(states, [FileState::Made, FileState::Kept]);
        let entries = std::fs::read_dir(path.join("secrets")).expect("a folder");
        assert_eq!(entries.count(), 1, "nothing else is left");
    }

    #[test]
    fn a_run_that_only_looks_makes_nothing() {
        let parent = tempfile::tempdir().expect("a temporary folder can be made");
        let mut files = Files::open(parent.path()).expect("it is ours");
        files.read_only = true;
        assert!(text(&mut files, "secrets/a", "first").expect("looked").is_none());
        assert!(!parent.path().join("secrets").exists());
        assert_eq!(files.into_entries()[0].2, FileState::Missing);
    }

    #[test]
    fn a_link_that_points_nowhere_is_not_written_through() {
        let parent = tempfile::tempdir().expect("a temporary folder can be made");
        let mut files = Files::open(parent.path()).expect("it is ours");
        text(&mut files, "secrets/a", "first").expect("made");
        let elsewhere = parent.path().join("elsewhere");
        symlink(&elsewhere, parent.path().join("secrets/b")).expect("the folder is ours");
        assert!(text(&mut files, "secrets/b", "second").is_err());
        assert!(!elsewhere.exists());
    }

    #[test]
    fn a_file_that_is_written_anew_does_not_follow_a_link() {
        let parent = tempfile::tempdir().expect("a temporary folder can be made");
        let files = Files::open(parent.path()).expect("it is ours");
        let elsewhere = parent.path().join("elsewhere");
        std::fs::write(&elsewhere, "precious").expect("it can be written");
        symlink(&elsewhere, parent.path().join("a")).expect("the folder is ours");
        files.replace("a", "new").expect("written");
        assert_eq!(std::fs::read_to_string(&elsewhere).expect("it is there"), "precious");
        assert_eq!(std::fs::read_to_string(parent.path().join("a")).expect("it is there"), "new");
    }

    #[test]
    fn keys_are_not_made_where_others_may_look_or_write() {
        let parent = tempfile::tempdir().expect("a temporary folder can be made");
        let permit = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
        };
        std::fs::create_dir(parent.path().join("secrets")).expect("the folder is ours");
        permit(&parent.path().join("secrets"), 0o755);
        let mut files = Files::open(parent.path()).expect("it is ours");
        let refused = text(&mut files, "secrets/a", "first").expect_err("others may enter").to_string();
        assert!(refused.contains("nobody else may enter"), "{refused}");
        permit(parent.path(), 0o777);
        assert!(Files::open(parent.path()).is_err());
        assert!(Files::open(&parent.path().join("below")).is_err());
    }
}
