//! The data folder under attack, and as it is used.

use super::*;

#[test]
fn a_folder_is_held_by_one_process_at_a_time() {
    let parent = tempfile::tempdir().expect("a temporary folder can be made");
    let path = parent.path().join("data");
    if Account::choose().is_ok_and(|account| account.barrier(&path).is_some()) {
        // The parent is closed to the servers' account when this runs as root.
        let account = Account::choose().expect("there is an account");
        account.grant_access(parent.path()).expect("the parent is ours");
    }
    let first = DataFolder::open(Some(&path)).expect("it is free");
    let error = DataFolder::open(Some(&path)).err().expect("it is held").to_string();
    let own = format!("another annals dev (process {}) already runs on the data folder", std::process::id());
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

/// Another user's link or pipe in a folder that the servers' account owns, or in one that this user shares with others.
mod attacked {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::Duration;

    use nix::sys::stat::Mode;
    use nix::unistd::{User, mkfifo};

    use super::*;

    /// A file that an attack is after.
    fn victim(parent: &Path) -> PathBuf {
        let victim = parent.join("victim");
        std::fs::write(&victim, "precious").expect("it can be written");
        victim
    }

    fn unharmed(victim: &Path) {
        assert_eq!(std::fs::read_to_string(victim).expect("it is there"), "precious");
        let own = victim.metadata().expect("it is there");
        assert_eq!(own.uid(), geteuid().as_raw(), "it was not given away");
        assert_eq!(own.permissions().mode() & 0o022, 0, "nobody else may write to it");
    }

    #[test]
    fn links_at_the_places_of_files_are_replaced_and_not_followed() {
        let parent = tempfile::tempdir().expect("a temporary folder can be made");
        let victim = victim(parent.path());
        let folder = DataFolder::temporary().expect("a temporary folder can be made");
        let names =
            ["nats.conf", "nats.conf.new", "postgres.password.new", "bin/nats-server.new", "annals.toml"];
        folder.readable_folder("bin").expect("made");
        for name in names {
            symlink(&victim, folder.path().join(name)).expect("the folder is ours");
        }
        folder.write_for_servers("nats.conf", "listen: 1").expect("written");
        folder.write_for_servers("postgres.password", "secret").expect("written");
        folder.write("annals.toml", "[log]").expect("written");
        folder.copy_program("bin/nats-server", Path::new("/bin/sh")).expect("copied");
        unharmed(&victim);
        for name in ["nats.conf", "postgres.password", "bin/nats-server", "annals.toml"] {
            let written = folder.path().join(name).symlink_metadata().expect("it is there");
            assert!(written.is_file(), "{name}");
        }
    }

    #[test]
    fn a_link_at_the_place_of_a_servers_folder_is_refused() {
        if !geteuid().is_root() {
            eprintln!("not root: folders are not given to another account, so there is nothing to attack");
            return;
        }
        let parent = tempfile::tempdir().expect("a temporary folder can be made");
        let folder = DataFolder::temporary().expect("a temporary folder can be made");
        symlink(parent.path(), folder.path().join("nats")).expect("the folder is ours");
        assert!(folder.servers_folder("nats").is_err());
        assert_eq!(parent.path().metadata().expect("it is there").uid(), 0, "it was not given away");
    }

    #[test]
    fn a_program_for_the_servers_cannot_be_changed_by_their_account() {
        let folder = DataFolder::temporary().expect("a temporary folder can be made");
        let bin = folder.readable_folder("bin").expect("made");
        let copy = folder.copy_program("bin/nats-server", Path::new("/bin/sh")).expect("copied");
        for path in [bin, copy] {
            let metadata = path.metadata().expect("it is there");
            assert_eq!(
                (metadata.uid(), metadata.mode() & 0o022),
                (geteuid().as_raw(), 0),
                "{}",
                path.display()
            );
        }
    }

    #[test]
    fn a_link_or_a_pipe_in_the_place_of_a_servers_file_is_not_read() {
        let parent = tempfile::tempdir().expect("a temporary folder can be made");
        let (link, pipe) = (parent.path().join("link"), parent.path().join("pipe"));
        symlink(victim(parent.path()), &link).expect("the folder is ours");
        mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).expect("the folder is ours");
        assert!(read_file(&link).is_err());
        assert!(read_file(&pipe).is_err(), "and it does not wait for a writer");
    }

    #[test]
    fn what_other_users_leave_in_the_folder_for_temporary_files_is_neither_deleted_nor_waited_for() {
        let parent = tempfile::tempdir().expect("a temporary folder can be made");
        let entry = |name: &str| {
            let path = parent.path().join(format!("{TEMPORARY_PREFIX}{name}"));
            std::fs::create_dir(&path).expect("the folder is ours");
            path
        };
        let (piped, linked, foreign, stale) =
            (entry("piped"), entry("linked"), entry("foreign"), entry("stale"));
        mkfifo(&piped.join("lock"), Mode::S_IRUSR | Mode::S_IWUSR).expect("the folder is ours");
        symlink(victim(parent.path()), linked.join("lock")).expect("the folder is ours");
        for folder in [&foreign, &stale] {
            let lock = File::create(folder.join("lock")).expect("the folder is ours");
            lock.set_modified(std::time::SystemTime::now() - Duration::from_hours(1)).expect("it is ours");
        }
        let other = User::from_name("nobody").ok().flatten().filter(|_| geteuid().is_root());
        if let Some(other) = &other {
            let (uid, gid) = (Some(other.uid.as_raw()), Some(other.gid.as_raw()));
            std::os::unix::fs::lchown(&foreign, uid, gid).expect("root may");
        }
        remove_stale_folders(parent.path());
        assert!(piped.exists() && linked.exists());
        assert_eq!(foreign.exists(), other.is_some(), "another user's stays; this user's goes");
        assert!(!stale.exists(), "what a killed process left behind goes");
    }

    #[test]
    fn a_data_folder_that_others_may_write_to_is_refused() {
        let parent = tempfile::tempdir().expect("a temporary folder can be made");
        std::fs::set_permissions(parent.path(), std::fs::Permissions::from_mode(0o755)).expect("it is ours");
        let path = parent.path().join("shared");
        std::fs::create_dir(&path).expect("the folder is ours");
        for (mode, data) in [(0o777, path.clone()), (0o1777, path.clone()), (0o777, path.join("data"))] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
            let error = DataFolder::open(Some(&data)).err().expect("others may write").to_string();
            assert!(error.contains(&format!("other users may write to {}", path.display())), "{error}");
            assert!(!path.join("lock").exists() && !path.join("data").exists(), "nothing was written");
        }
        let Some(other) = User::from_name("nobody").ok().flatten().filter(|_| geteuid().is_root()) else {
            eprintln!("not root: folders cannot be given to another user, so ownership is not tried");
            return;
        };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
        std::os::unix::fs::lchown(&path, Some(other.uid.as_raw()), None).expect("root may");
        let error = DataFolder::open(Some(&path)).err().expect("it is not ours").to_string();
        assert!(error.contains("belongs to user nobody"), "{error}");
    }
}
