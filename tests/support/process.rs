//! The binary as a child process.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::unique;

/// The binary under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_annals");

/// Settings under which a password costs next to nothing and the hashing pool is never full by accident.
pub const CHEAP_PASSWORDS: [(&str, &str); 4] = [
    ("ANNALS__IDENTITY__ARGON2_MEMORY_KIB", "64"),
    ("ANNALS__IDENTITY__ARGON2_ITERATIONS", "1"),
    ("ANNALS__IDENTITY__ARGON2_THREADS", "2"),
    ("ANNALS__IDENTITY__ARGON2_MAX_QUEUED_PER_TENANT", "1000"),
];

/// A command of the binary in a clean environment: settings of the developer's shell must not reach the tests.
pub fn command() -> Command {
    command_of(Path::new(PROGRAM))
}

/// The same for a copy of the binary.
pub fn command_of(program: &Path) -> Command {
    let mut command = Command::new(program);
    clean(&mut command);
    command
}

/// Keeps the developer's settings away from a command, and makes passwords cheap.
pub fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("ANNALS__") || name == "ANNALS_CONFIG") {
            command.env_remove(name);
        }
    }
    command.envs(CHEAP_PASSWORDS);
}

/// Runs a command to its end.
pub fn run(arguments: &[&str]) -> Output {
    command().args(arguments).stdin(Stdio::null()).output().expect("the binary runs")
}

/// Standard output of a command that must succeed.
pub fn output_of(arguments: &[&str]) -> String {
    let output = run(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "annals {} failed: {errors}", arguments.join(" "));
    String::from_utf8(output.stdout).expect("standard output is text")
}

/// A running `annals dev`. Dropped it is told to stop and waited for.
pub struct Annals {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<std::process::ChildStdout>,
    /// What it printed when it was ready.
    pub ready: Value,
    log: PathBuf,
}

impl Annals {
    /// Starts `annals dev` with these arguments besides `--json` and `--random-ports`, and waits until it is ready.
    pub fn start(arguments: &[&str]) -> Self {
        let mut command = command();
        command.arg("dev").args(arguments);
        Self::spawn(command)
    }

    /// Starts a command of `annals dev` and waits until it is ready.
    pub fn spawn(mut command: Command) -> Self {
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.log", unique("annals")));
        let errors = File::create(&log).expect("the log can be written");
        let mut child = command
            .args(["--json", "--random-ports", "--stop-with-stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .expect("the binary runs");
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        // A test binary that runs as the product prints lines of its own before.
        loop {
            line.clear();
            let read = stdout.read_line(&mut line).expect("it prints text");
            if read == 0 || line.starts_with('{') {
                break;
            }
        }
        let ready = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("annals dev did not start: {line}{}", read(&log)));
        Self { child, stdin, stdout, ready, log }
    }

    /// A text of the line that it printed when it was ready.
    pub fn text(&self, key: &str) -> &str {
        self.ready[key].as_str().unwrap_or_else(|| panic!("{key} is a text in {}", self.ready))
    }

    /// The data folder.
    pub fn data_dir(&self) -> PathBuf {
        PathBuf::from(self.text("data_dir"))
    }

    /// The settings file with which other commands reach it.
    pub fn settings(&self) -> String {
        self.data_dir().join("annals.toml").display().to_string()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process ids of its PostgreSQL and its nats-server.
    pub fn servers(&self) -> [u32; 2] {
        let folder = self.data_dir();
        ["postgres/postmaster.pid", "nats/nats.pid"].map(|file| {
            let text = std::fs::read_to_string(folder.join(file)).expect("a running server has a pid file");
            text.lines().next().and_then(|line| line.trim().parse().ok()).expect("it holds a number")
        })
    }

    /// Sends a signal and waits for the end; returns how it ended, after how long, and what else it printed.
    pub fn end(mut self, signal: Signal) -> (ExitStatus, Duration, String) {
        let begun = Instant::now();
        send(self.child.id(), signal);
        let status = self.child.wait().expect("it is our child");
        let took = begun.elapsed();
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("it prints text");
        self.stdin = None;
        (status, took, rest)
    }

    /// What it logged.
    pub fn logged(&self) -> String {
        read(&self.log)
    }
}

impl Drop for Annals {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // Fails only for a child that `end` has waited for.
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process.
pub fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).expect("the process is there");
}

/// Whether a process runs. An orphan that has ended and that nobody waits for (a zombie) does not.
pub fn is_running(pid: u32) -> bool {
    if kill(Pid::from_raw(pid as i32), None).is_err() {
        return false;
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
