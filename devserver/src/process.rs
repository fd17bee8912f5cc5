//! One server process. It runs under its account, writes its output to a log file and is stopped by signals. Where the
//! system supports it, it ends with this process.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::folder::read_file;
use crate::account::Account;
use crate::error::SuperviseError;
use crate::programs;

/// Maximum size of a log in bytes. A larger one is truncated at the next start of its server.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The options of a start.
pub(super) struct LaunchOptions<'a> {
    /// The server's name in messages.
    pub name: &'static str,
    pub program: &'a Path,
    pub arguments: Vec<String>,
    pub account: &'a Account,
    /// The working directory.
    pub folder: &'a Path,
    pub log: &'a Path,
    /// The signal that it gets when this process dies.
    pub death_signal: Signal,
}

/// A running server.
pub(super) struct Process {
    child: Child,
    name: &'static str,
    log: PathBuf,
    log_start: u64,
}

impl Process {
    /// Starts it. Call it on the main thread: the death signal is sent when the starting thread ends.
    pub(super) fn start(launch: &LaunchOptions<'_>) -> Result<Self, SuperviseError> {
        let open = |e| SuperviseError::file("cannot write", launch.log, e);
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(launch.log).map_err(open)?;
        let mut log_start = log.metadata().map_err(open)?.len();
        if log_start > LOG_BYTES_MAX {
            log.set_len(0).map_err(open)?;
            log_start = 0;
        }
        let mut command = command(launch.program, launch.account, launch.folder, Some(launch.death_signal));
        command
            .args(&launch.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(open)?)
            .stderr(log)
            .process_group(0)
            // Only a failed start leaves a child process; all others are stopped and awaited.
            .kill_on_drop(true);
        let child = command.spawn().map_err(|e| SuperviseError::file("cannot run", launch.program, e))?;
        Ok(Self { child, name: launch.name, log: launch.log.to_owned(), log_start })
    }

    /// Waits for its end and describes it.
    pub(super) async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => describe_status(status),
            Err(error) => error.to_string(),
        }
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Its output since its start.
    pub(super) fn output(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            file.seek(SeekFrom::Start(self.log_start))?;
            let mut bytes = Vec::new();
            file.take(64 * 1024).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_default()
    }

    /// The error for a server that did not start.
    pub(super) fn failure(&self) -> SuperviseError {
        let output = self.output();
        let telling = ["FATAL", "[FTL]", "PANIC", "nats-server:", "rror"];
        let line = telling.iter().find_map(|word| output.lines().rev().find(|line| line.contains(word)));
        let problem = line.or(output.lines().last()).unwrap_or("it said nothing").trim().to_owned();
        SuperviseError::Start { server: self.name, problem, log: self.log.clone() }
    }

    /// Sends the signals one after the other, each with a time to take effect, until the server has ended. Then kills
    /// it.
    pub(super) async fn stop(&mut self, signals: &[(Signal, Duration)]) {
        for (signal, wait) in signals {
            if self.send(*signal) && timeout(*wait, self.child.wait()).await.is_err() {
                tracing::warn!(server = self.name, %signal, "did not stop in time");
                continue;
            }
            return;
        }
        self.send(Signal::SIGKILL);
        let _ = timeout(Duration::from_millis(300), self.child.wait()).await;
    }

    /// Sends a signal. False when the process has ended already.
    pub(super) fn send(&mut self, signal: Signal) -> bool {
        match self.child.id() {
            Some(pid) => kill(Pid::from_raw(pid as i32), signal).is_ok(),
            None => false,
        }
    }
}

/// A command that runs as `account` in `folder` with a clean environment.
pub(super) fn command(
    program: &Path,
    account: &Account,
    folder: &Path,
    death_signal: Option<Signal>,
) -> Command {
    let mut command = match (death_signal, setpriv()) {
        (Some(signal), Some(setpriv)) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", signal.as_str(), "--"]).arg(program);
            command
        }
        _ => Command::new(program),
    };
    command.current_dir(folder).env_clear().env("LC_ALL", "C").env("PATH", "/usr/local/bin:/usr/bin:/bin");
    if let Some((uid, gid)) = account.change_to {
        command.uid(uid).gid(gid);
    }
    command
}

/// `setpriv` of util-linux sends a signal to a process when its parent ends. Not every system has it.
fn setpriv() -> Option<&'static Path> {
    static SETPRIV: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let program = programs::find_in_path("setpriv")?;
        let works = std::process::Command::new(&program)
            .args(["--pdeathsig", "SIGTERM", "--", "true"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        works.is_ok_and(|status| status.success()).then_some(program)
    };
    SETPRIV.get_or_init(find).as_deref()
}

fn describe_status(status: ExitStatus) -> String {
    status.to_string()
}

/// Ends a process of an earlier run. `pid_file` starts with its process id. The process is ended only when its command
/// line contains `mark`, a path in the data folder.
pub(super) async fn end_stale(
    name: &'static str,
    pid_file: &Path,
    mark: &Path,
    signals: &[(Signal, Duration)],
) {
    let Some(pid) = read_pid(pid_file) else { return };
    if !is_ours(pid, mark) {
        return;
    }
    tracing::info!(server = name, pid, "ending what an earlier run left behind");
    for signal in signals.iter().map(|(signal, _)| *signal).chain([Signal::SIGKILL]) {
        if kill(Pid::from_raw(pid), signal).is_err() {
            return;
        }
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline {
            if !is_ours(pid, mark) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn read_pid(file: &Path) -> Option<i32> {
    let pid = read_file(file).ok()?.lines().next()?.trim().parse().ok()?;
    (pid > 1).then_some(pid)
}

/// Whether the process runs and `mark` is one of its arguments.
fn is_ours(pid: i32, mark: &Path) -> bool {
    let mark = mark.as_os_str().as_encoded_bytes();
    match std::fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(arguments) => arguments.split(|byte| *byte == 0).any(|argument| argument == mark),
        Err(_) if Path::new("/proc/self/cmdline").exists() => false,
        Err(_) => {
            let ps = std::process::Command::new("/bin/ps")
                .args(["-o", "command=", "-p", &pid.to_string()])
                .output();
            ps.is_ok_and(|output| output.stdout.windows(mark.len()).any(|window| window == mark))
        }
    }
}

/// A free port on 127.0.0.1. It is `usual` if that port is free.
pub(super) fn free_port(usual: Option<u16>) -> u16 {
    let port = |wanted: u16| {
        let listener = std::net::TcpListener::bind(("127.0.0.1", wanted)).ok()?;
        listener.local_addr().ok().map(|address| address.port())
    };
    usual.and_then(port).or_else(|| port(0)).unwrap_or(0)
}
