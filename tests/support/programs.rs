//! Where the server programs and the auditors' verifier are, and how processes end with the tests.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

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

/// The program `annals-verify`. It is built once, alone as auditors build it, because Cargo builds programs of other
/// packages for no test.
pub fn annals_verify() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let output = Command::new(env!("CARGO"))
            .args([
                "build",
                "--locked",
                "--package",
                "verifier",
                "--message-format",
                "json-render-diagnostics",
            ])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let messages = String::from_utf8(output.stdout).expect("text");
        let mut programs = messages.lines().filter_map(|message| {
            let message: Value = serde_json::from_str(message).expect("JSON");
            message["executable"].as_str().map(PathBuf::from)
        });
        programs.next().expect("the program is built")
    })
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
