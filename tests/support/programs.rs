//! Where the server programs and the auditors' verifier are, and how processes end with the tests.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

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

/// The program `annals-verify`. Cargo makes it for the tests of its own package, which `cargo test --workspace` runs.
/// Where that has not happened since its sources changed, it is built here.
pub fn annals_verify() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let program = Path::new(env!("CARGO_BIN_EXE_annals")).with_file_name("annals-verify");
        let built_at = program.metadata().and_then(|metadata| metadata.modified());
        let sources = ["json_schema", "proofs", "schemas", "terminal", "verifier"];
        let changed_at = sources.iter().filter_map(|name| newest(&root.join(name).join("src"))).max();
        if built_at.ok() < changed_at {
            let mut build = Command::new(env!("CARGO"));
            let built = build.args(["build", "--locked", "--package", "verifier"]).current_dir(root).output();
            let built = built.expect("cargo runs");
            assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        }
        program
    })
}

/// When a file of a folder was changed last.
fn newest(folder: &Path) -> Option<SystemTime> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let changed = files.filter_map(|path| {
        if path.is_dir() {
            newest(&path)
        } else {
            path.metadata().and_then(|metadata| metadata.modified()).ok()
        }
    });
    changed.max()
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
