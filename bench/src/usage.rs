//! What processes cost: processor time and memory, as the kernel counts them.

use std::time::Duration;

/// The kernel's ticks a second in `/proc`.
const TICKS: f64 = 100.0;

/// Processor time of this process, from the kernel's own clock rather than its ticks.
pub fn own_processor_time() -> anyhow::Result<Duration> {
    let clock = nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID;
    Ok(nix::time::clock_gettime(clock)?.into())
}

/// Processor time of a process and of all its children, in seconds.
pub fn processor_seconds(pid: u32) -> f64 {
    let mut all = ticks(pid).map_or(0.0, |(_, ticks)| ticks);
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for child in entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        if let Some((parent, ticks)) = ticks(child)
            && parent == pid
        {
            all += ticks;
        }
    }
    all / TICKS
}

/// The parent of a process and its processor time in ticks, that of ended children included.
fn ticks(pid: u32) -> Option<(u32, f64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in brackets and may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = fields.get(11..15)?.iter().filter_map(|field| field.parse::<f64>().ok()).sum();
    Some((fields.get(1)?.parse().ok()?, ticks))
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
