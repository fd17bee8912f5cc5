//! Resource limits of the operating system.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use store::Causes;

/// Files reserved for everything except public connections: PostgreSQL, NATS, the other listeners, webhooks, keys,
/// logs.
const FILES_RESERVED: usize = 500;

/// Raises the soft limit of open files to the hard limit and returns it. Each connection takes a file, and the usual
/// soft limit is 1,024. Logs a warning when the hard limit is too low for `followers` streams.
pub fn raise_open_files(followers: usize) -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return usize::MAX };
    let mut granted = hard;
    if soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!(error = %Causes(&error), "the limit of open files stays as it is");
        granted = soft;
    }
    let granted = usize::try_from(granted).unwrap_or(usize::MAX);
    if connections_max_within(granted) < followers {
        tracing::warn!(granted, followers, "the limit of open files is below `gateway.max_streams`");
    }
    granted
}

/// Maximum public connections that leave enough files for everything else; at least half of the files.
pub fn connections_max_within(open_files_max: usize) -> usize {
    open_files_max.saturating_sub(FILES_RESERVED).max(open_files_max / 2).max(1)
}

/// Disables core files for this process and its children. A core file could contain encryption keys that are destroyed
/// later.
///
/// # Errors
/// When the system refuses to change the limit.
pub fn disable_core_files() -> nix::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
}

/// Prevents other processes of the same account from reading this process's memory. It also prevents the kernel from
/// piping a core dump to a program, which the limit of core files does not cover.
///
/// # Errors
/// When the kernel refuses it.
#[cfg(target_os = "linux")]
pub fn disable_memory_dumps() -> nix::Result<()> {
    nix::sys::prctl::set_dumpable(false)
}

/// Only Linux supports this.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
pub fn disable_memory_dumps() -> nix::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_everything_else() {
        assert_eq!(connections_max_within(20_000), 19_500);
        assert_eq!(connections_max_within(1_024), 524);
        assert_eq!(connections_max_within(256), 128);
    }

    #[test]
    fn a_process_that_has_keys_is_not_dumped() {
        disable_core_files().expect("are turned off");
        assert_eq!(getrlimit(Resource::RLIMIT_CORE), Ok((0, 0)));
        disable_memory_dumps().expect("is closed");
        #[cfg(target_os = "linux")]
        assert_eq!(nix::sys::prctl::get_dumpable(), Ok(false));
    }
}
