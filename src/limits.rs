//! What the operating system grants this process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of open files to the hard one: each follower of a stream takes a file, and the usual soft limit
/// is 1,024. Says so where even the hard limit is too low for so many followers.
pub fn raise_open_files(followers: usize) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    if hard < followers as u64 + SPARE {
        tracing::warn!(hard, followers, "the limit of open files is below `gateway.streams`");
    }
}

/// Turns core files off for this process and for what it starts: they would hold keys of personal data that are erased since.
pub fn forbid_core_files() -> nix::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
}

/// Keeps other processes of the same account from reading this one's memory, and the kernel from handing it to a program that
/// takes core dumps through a pipe, whatever the limit of core files says.
#[cfg(target_os = "linux")]
pub fn close_memory() -> nix::Result<()> {
    nix::sys::prctl::set_dumpable(false)
}

/// Linux alone knows this.
#[cfg(not(target_os = "linux"))]
pub fn close_memory() -> nix::Result<()> {
    Ok(())
}

/// Files for everything that is no follower: connections to PostgreSQL and NATS, other requests, logs.
const SPARE: u64 = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_keys_is_not_dumped() {
        forbid_core_files().expect("are turned off");
        assert_eq!(getrlimit(Resource::RLIMIT_CORE), Ok((0, 0)));
        close_memory().expect("is closed");
        #[cfg(target_os = "linux")]
        assert_eq!(nix::sys::prctl::get_dumpable(), Ok(false));
    }
}
