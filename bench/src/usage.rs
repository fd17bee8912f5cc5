//! What processes cost: processor time and memory, as the kernel counts them.

use std::time::Duration;

/// The kernel's ticks a second in `/proc`.
const TICKS: f64 = 100.0;

/// Processor time of this process, from the kernel's own clock rather than its ticks.
pub fn own_processor_time() -> anyhow::Result<Duration> {
    let clock = nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID;
    Ok(nix::time::clock_gettime(clock)?.into())
}

/// Processor time of a process without its children, in seconds, from the kernel's own clock.
pub fn process_seconds(pid: u32) -> anyhow::Result<f64> {
    let clock = nix::time::clock_getcpuclockid(nix::unistd::Pid::from_raw(pid as i32))?;
    Ok(Duration::from(clock.now()?).as_secs_f64())
}

/// Processor time of this process's children that have ended, in seconds.
pub fn ended_children_seconds() -> f64 {
    fields(std::process::id()).map_or(0.0, |(_, fields)| sum(fields.get(13..15)) / TICKS)
}

/// The child of a process that runs the program with this name.
pub fn child_named(parent: u32, name: &str) -> Option<u32> {
    processes().find(|pid| {
        fields(*pid).is_some_and(|(program, fields)| program == name && parent_of(&fields) == Some(parent))
    })
}

/// Processor time of a process and of all its children, in seconds. Children that have ended are included.
pub fn processor_seconds(pid: u32) -> f64 {
    let is_counted = |one: u32, fields: &[String]| one == pid || parent_of(fields) == Some(pid);
    let all = processes().filter_map(|one| {
        let (_, fields) = fields(one)?;
        is_counted(one, &fields).then(|| sum(fields.get(11..15)))
    });
    all.sum::<f64>() / TICKS
}

/// The ids of all processes.
fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The name of a process's program, and the fields of its `stat` after the name: the state is the first one.
fn fields(pid: u32) -> Option<(String, Vec<String>)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in brackets and may contain anything.
    let (start, fields) = stat.rsplit_once(") ")?;
    let (_, name) = start.split_once('(')?;
    Some((name.to_owned(), fields.split_whitespace().map(str::to_owned).collect()))
}

fn parent_of(fields: &[String]) -> Option<u32> {
    fields.get(1)?.parse().ok()
}

fn sum(ticks: Option<&[String]>) -> f64 {
    ticks.into_iter().flatten().filter_map(|field| field.parse::<f64>().ok()).sum()
}

/// Resident memory of a process in MiB.
pub fn memory_mib(pid: u32) -> f64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: f64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(f64::NAN);
    pages * 4096.0 / 1024.0 / 1024.0
}

/// A number with so many digits behind the point.
pub fn rounded(number: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (number * scale).round() / scale
}
