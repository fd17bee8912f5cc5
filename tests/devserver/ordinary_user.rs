//! `annals dev` as an ordinary user.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};

use crate::support::folder;
use crate::support::process::{Annals, PROGRAM, command_of};

/// A copy that every user can reach: the checkout may lie in a closed folder.
fn copy(program: &Path, folder: &Path) -> PathBuf {
    let copy = folder.join(program.file_name().expect("a program has a name"));
    std::fs::copy(program, &copy).expect("it can be copied");
    copy
}

/// Everywhere else the tests run as the user who runs them; here root becomes somebody else.
#[test]
fn an_ordinary_user_needs_no_rights() {
    let Some(nobody) = User::from_name("nobody").expect("the password file can be read") else { return };
    if !geteuid().is_root() {
        return;
    }
    let parent = folder();
    let program = copy(Path::new(PROGRAM), parent.path());
    let home = parent.path().join("home");
    std::fs::create_dir(&home).expect("the folder is ours");
    std::os::unix::fs::chown(&home, Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).expect("root may");

    let mut command = command_of(&program);
    let nats = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/nats-server");
    if nats.is_file() {
        command.env("ANNALS_NATS_SERVER", copy(&nats, parent.path()));
    }
    command.arg("dev").env_remove("XDG_DATA_HOME").env("HOME", &home).current_dir(&home);
    command.uid(nobody.uid.as_raw()).gid(nobody.gid.as_raw());
    let annals = Annals::spawn(command);
    assert_eq!(annals.data_dir(), home.join(".local/share/annals/dev"));
    let (status, _, _) = annals.end(Signal::SIGTERM);
    assert!(status.success(), "{status}");
}
