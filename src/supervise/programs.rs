//! Finding the installed server programs: where a flag or the environment says, then `PATH`, then `.tools/bin` of the
//! checkout, then the folders of the distributions, highest version first.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Options, SuperviseError};
use crate::config::places;

const OLDEST_POSTGRES: Version = (15, 0);
const OLDEST_NATS: Version = (2, 12);

/// Major and minor number.
type Version = (u32, u32);

/// The server programs to use.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The folder with `postgres` and `initdb`.
    pub postgres_bin: PathBuf,
    /// The `nats-server` program.
    pub nats_server: PathBuf,
}

impl Programs {
    /// The best installed programs; `made_by` is the PostgreSQL major version of the data that exist already.
    pub fn find(options: &Options, made_by: Option<(PathBuf, u32)>) -> Result<Self, SuperviseError> {
        Ok(Self {
            postgres_bin: find_postgres(options.postgres_bin.as_deref(), made_by)?,
            nats_server: find_nats(options.nats_server.as_deref())?,
        })
    }
}

fn find_postgres(given: Option<&Path>, made_by: Option<(PathBuf, u32)>) -> Result<PathBuf, SuperviseError> {
    let what = "a folder of PostgreSQL programs";
    let mut candidates = Vec::new();
    if let Some(folder) = given {
        let unusable =
            |problem| SuperviseError::ProgramUnusable { program: folder.to_owned(), what, problem };
        if !folder.join("initdb").is_file() {
            return Err(unusable("it has no initdb".to_owned()));
        }
        let version = version_of(&folder.join("postgres")).map_err(unusable)?;
        candidates.push((folder.to_owned(), version));
    } else {
        let in_path = places::search_path().into_iter().map(|folder| folder.join("postgres"));
        // What stands in PATH is often a link; initdb lies beside the program itself.
        let folders = in_path
            .filter_map(|program| Some(program.canonicalize().ok()?.parent()?.to_owned()))
            .chain(distribution_folders())
            .filter(|folder| folder.join("postgres").is_file() && folder.join("initdb").is_file());
        for folder in folders {
            if let Ok(version) = version_of(&folder.join("postgres")) {
                candidates.push((folder, version));
            }
        }
    }
    let wanted = |version: Version| match &made_by {
        Some((_, major)) => version.0 == *major,
        None => version >= OLDEST_POSTGRES,
    };
    if let Some((folder, _)) = candidates.iter().find(|(_, version)| wanted(*version)) {
        return Ok(folder.clone());
    }
    let remedy = "install it with: sudo apt-get install postgresql (or run scripts/bootstrap), or name its folder with \
                  --postgres-bin";
    match (made_by, candidates.into_iter().next()) {
        (Some((folder, made_by)), _) => Err(SuperviseError::OtherMajor { folder, made_by }),
        (None, Some((folder, version))) => Err(SuperviseError::ProgramTooOld {
            program: folder.join("postgres"),
            found: format!("{}.{}", version.0, version.1),
            wanted: OLDEST_POSTGRES.0.to_string(),
            remedy: remedy.to_owned(),
        }),
        (None, None) => Err(SuperviseError::ProgramMissing {
            what: "PostgreSQL (the server programs, 15 or later)",
            remedy: remedy.to_owned(),
        }),
    }
}

fn find_nats(given: Option<&Path>) -> Result<PathBuf, SuperviseError> {
    let what = "nats-server";
    let remedy = "install it by running scripts/bootstrap in the checkout, or name one with --nats-server";
    if let Some(program) = given {
        let version = version_of(program).map_err(|problem| SuperviseError::ProgramUnusable {
            program: program.to_owned(),
            what,
            problem,
        })?;
        return new_enough(program.to_owned(), version, remedy);
    }
    let usual = ["/usr/local/bin", "/usr/bin", "/usr/sbin", "/opt/homebrew/bin"].map(PathBuf::from);
    let candidates: Vec<(PathBuf, Version)> = places::search_path()
        .into_iter()
        .chain(places::tool_folders())
        .chain(usual)
        .map(|folder| folder.join("nats-server"))
        .filter(|program| program.is_file())
        .filter_map(|program| version_of(&program).ok().map(|version| (program, version)))
        .collect();
    let best = candidates.iter().find(|(_, version)| *version >= OLDEST_NATS).or(candidates.first());
    match best {
        Some((program, version)) => new_enough(program.clone(), *version, remedy),
        None => Err(SuperviseError::ProgramMissing {
            what: "nats-server (2.12 or later)",
            remedy: remedy.to_owned(),
        }),
    }
}

fn new_enough(program: PathBuf, version: Version, remedy: &str) -> Result<PathBuf, SuperviseError> {
    if version >= OLDEST_NATS {
        return Ok(program);
    }
    Err(SuperviseError::ProgramTooOld {
        program,
        found: format!("{}.{}", version.0, version.1),
        wanted: format!("{}.{}", OLDEST_NATS.0, OLDEST_NATS.1),
        remedy: remedy.to_owned(),
    })
}

/// Where distributions put PostgreSQL, highest major version first.
fn distribution_folders() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, prefix) in [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql@"),
        ("/usr/local/opt", "postgresql@"),
    ] {
        let Ok(entries) = std::fs::read_dir(parent) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let major = name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse().ok());
            if let Some(major) = major {
                found.push((major, entry.path().join("bin")));
            }
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, folder)| folder).collect()
}

/// Runs `program --version`.
fn version_of(program: &Path) -> Result<Version, String> {
    let output = Command::new(program).arg("--version").output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_version(&text).ok_or_else(|| format!("it does not tell its version ({})", text.trim()))
}

/// The first number with a dot in it, or the first number.
fn parse_version(text: &str) -> Option<Version> {
    let word = text
        .split_whitespace()
        .map(|word| word.trim_start_matches('v'))
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let mut numbers = word.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    Some((numbers.next()?, numbers.next().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_the_programs_print() {
        assert_eq!(parse_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some((15, 18)));
        assert_eq!(parse_version("postgres (PostgreSQL) 18beta1"), Some((18, 0)));
        assert_eq!(parse_version("nats-server: v2.12.8"), Some((2, 12)));
        assert_eq!(parse_version("nonsense"), None);
    }

    #[test]
    fn a_prescribed_program_that_is_not_there_is_named() {
        let options = Options { nats_server: Some("/nowhere/nats-server".into()), ..Options::default() };
        let error = find_nats(options.nats_server.as_deref()).expect_err("there is none").to_string();
        assert!(error.contains("/nowhere/nats-server"), "{error}");
    }
}
