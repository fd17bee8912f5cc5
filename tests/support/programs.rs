//! Where the server programs are, and how their processes end with the tests.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of PostgreSQL's server programs, newest version first.
pub fn postgres() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL is installed: run scripts/bootstrap")
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, programs)| programs.join("postgres").exists())
        .collect();
    found.sort();
    found.pop().expect("PostgreSQL's server programs are installed: run scripts/bootstrap").1
}

/// The nats-server program.
pub fn nats_server() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/nats-server");
    if own.exists() { own } else { PathBuf::from("nats-server") }
}

/// Node from 22.18 on, which runs TypeScript as it is; `None` where the machine has none.
pub fn node() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/node");
    [PathBuf::from("node"), own].into_iter().find(|program| {
        let Ok(output) = Command::new(program).arg("--version").output() else { return false };
        let version = String::from_utf8_lossy(&output.stdout);
        let mut parts = version.trim().trim_start_matches('v').split('.').map(str::parse::<u32>);
        matches!((parts.next(), parts.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (22, 18))
    })
}

/// A command that runs as `postgres` where the tests run as root, and whose process gets `signal` when the thread that
/// spawned it ends.
pub fn command(program: &Path, as_postgres: bool, signal: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", signal]);
    if as_postgres && nix::unistd::Uid::effective().is_root() {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
    }
    command.arg(program);
    command
}
