//! Finds settings files, data folders and programs.

use std::env;
use std::path::{Path, PathBuf};

/// The environment variables that begin with `prefix`. Variables that are not Unicode are skipped, because no setting
/// can be.
pub fn environment(prefix: &str) -> impl Iterator<Item = (String, String)> {
    env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(move |(name, _)| name.starts_with(prefix))
}

/// The settings file of a command without `--config`: `./annals.toml`, otherwise the one of `annals dev` in its default
/// data folder.
pub fn settings_file() -> Option<PathBuf> {
    let here = PathBuf::from("annals.toml");
    if here.is_file() {
        return Some(here);
    }
    development_folder().map(|folder| folder.join("annals.toml")).filter(|file| file.is_file())
}

/// The default data folder of `annals dev`. For root it is `/var/lib/annals/dev`, because the servers' user cannot
/// enter root's home. Otherwise it is `annals/dev` in the user's data folder.
pub fn development_folder() -> Option<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/annals/dev"));
    }
    let data = env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    Some(data.or_else(home)?.join("annals/dev"))
}

/// The system's folder for temporary files.
pub fn temporary_folder() -> PathBuf {
    env::temp_dir()
}

/// The absolute folders in `PATH`. Relative ones are skipped.
pub fn search_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    let folders: Vec<PathBuf> = path;
    folders.into_iter().filter(|folder| folder.is_absolute()).collect()
}

/// The folder of this program, and `.tools/bin` of the project that built it.
pub fn tool_folders() -> Vec<PathBuf> {
    let Some(program) = env::current_exe().ok().and_then(|program| program.canonicalize().ok()) else {
        return Vec::new();
    };
    let project = program.ancestors().skip(1).filter(|folder| folder.join("Cargo.toml").is_file());
    let tools = project.map(|folder| folder.join(".tools/bin"));
    program.parent().map(Path::to_owned).into_iter().chain(tools).filter(|folder| folder.is_dir()).collect()
}
