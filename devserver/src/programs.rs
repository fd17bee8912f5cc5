//! Finds the installed server programs. Order: flag or environment, `PATH`, the folder of this program, `.tools/bin` of
//! its project, the folders of the distributions with the highest version first. A program that another user can change
//! is not run, not even to read its version.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::trust::{self, Untrusted};
use crate::error::SuperviseError;
use settings::paths;

const POSTGRES_VERSION_MIN: Version = (15, 0);
const NATS_VERSION_MIN: Version = (2, 12);

/// The options of [`Servers::start`].
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The folder of the PostgreSQL programs. `None`: search for it.
    pub postgres_bin: Option<PathBuf>,
    /// The nats-server program. `None`: search for it.
    pub nats_server: Option<PathBuf>,
    /// Use any free ports instead of the usual ones.
    pub random_ports: bool,
}

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
    /// The best installed programs. `made_by` is the PostgreSQL major version of existing data.
    ///
    /// # Errors
    /// [`SuperviseError::ProgramMissing`] and [`SuperviseError::ProgramTooOld`] without a usable version.
    /// [`SuperviseError::ProgramUnusable`] when a program of the options does not run.
    /// [`SuperviseError::UntrustedProgram`] when another user could change it. [`SuperviseError::OtherMajor`] when the
    /// version in `made_by` is not installed.
    pub fn find(options: &Options, made_by: Option<(PathBuf, u32)>) -> Result<Self, SuperviseError> {
        Ok(Self {
            postgres_bin: find_postgres(options.postgres_bin.as_deref(), made_by)?,
            nats_server: find_nats(options.nats_server.as_deref())?,
        })
    }
}

/// A program in `PATH`, with links resolved, that only root and this user can change.
pub(super) fn find_in_path(name: &str) -> Option<PathBuf> {
    paths::search_path()
        .into_iter()
        .map(|folder| folder.join(name))
        .filter(|program| program.is_file())
        .find_map(|program| trust::resolved(&program).ok())
}

/// Usable programs, and the first one that is not trusted.
#[derive(Default)]
struct Candidates {
    accepted: Vec<(PathBuf, Version)>,
    refused: Option<(PathBuf, Untrusted)>,
}

impl Candidates {
    /// Adds `found` with the version of the program `versioned`.
    fn add(&mut self, found: PathBuf, versioned: &Path, programs: &[&Path]) {
        if let Some((program, problem)) =
            programs.iter().find_map(|it| Some((*it, trust::resolved(it).err()?)))
        {
            tracing::debug!(program = %program.display(), %problem, "a program is passed over");
            self.refused.get_or_insert_with(|| (program.to_owned(), problem));
        } else if let Ok(version) = version_of(versioned) {
            self.accepted.push((found, version));
        }
    }

    /// The error when there is no usable program.
    fn refusal(&self) -> Option<SuperviseError> {
        let (program, problem) = self.refused.clone()?;
        Some(SuperviseError::UntrustedProgram { program, problem })
    }
}

/// Resolves links and checks the program. A missing program is reported later.
fn refuse_untrusted(program: &Path) -> Result<PathBuf, SuperviseError> {
    if !program.exists() {
        return Ok(program.to_owned());
    }
    let untrusted = |problem| SuperviseError::UntrustedProgram { program: program.to_owned(), problem };
    trust::resolved(program).map_err(untrusted)
}

fn find_postgres(given: Option<&Path>, made_by: Option<(PathBuf, u32)>) -> Result<PathBuf, SuperviseError> {
    let what = "a folder of PostgreSQL programs";
    let mut candidates = Candidates::default();
    if let Some(folder) = given {
        let unusable =
            |problem| SuperviseError::ProgramUnusable { program: folder.to_owned(), what, problem };
        if !folder.join("initdb").is_file() {
            return Err(unusable("it has no initdb".to_owned()));
        }
        for program in ["initdb", "postgres"] {
            refuse_untrusted(&folder.join(program))?;
        }
        let version = version_of(&folder.join("postgres")).map_err(unusable)?;
        candidates.accepted.push((refuse_untrusted(folder)?, version));
    } else {
        let find_in_path = paths::search_path().into_iter().map(|folder| folder.join("postgres"));
        // Entries of PATH are often links; initdb is in the folder of the program itself.
        let folders = find_in_path
            .filter_map(|program| Some(program.canonicalize().ok()?.parent()?.to_owned()))
            .chain(distribution_folders());
        for folder in folders {
            let (postgres, initdb) = (folder.join("postgres"), folder.join("initdb"));
            if postgres.is_file() && initdb.is_file() {
                candidates.add(folder, &postgres, &[&postgres, &initdb]);
            }
        }
    }
    let wanted = |version: Version| match &made_by {
        Some((_, major)) => version.0 == *major,
        None => version >= POSTGRES_VERSION_MIN,
    };
    if let Some((folder, _)) = candidates.accepted.iter().find(|(_, version)| wanted(*version)) {
        return Ok(folder.clone());
    }
    let remedy = "install it with: sudo apt-get install postgresql (or run scripts/bootstrap), or name its folder with \
                  --postgres-bin";
    let refusal = candidates.refusal();
    match (made_by, candidates.accepted.into_iter().next(), refusal) {
        (_, None, Some(refusal)) => Err(refusal),
        (Some((folder, made_by)), _, _) => Err(SuperviseError::OtherMajor { folder, made_by }),
        (None, Some((folder, version)), _) => Err(SuperviseError::ProgramTooOld {
            program: folder.join("postgres"),
            found: format!("{}.{}", version.0, version.1),
            wanted: POSTGRES_VERSION_MIN.0.to_string(),
            remedy: remedy.to_owned(),
        }),
        (None, None, None) => Err(SuperviseError::ProgramMissing {
            what: "PostgreSQL (the server programs, 15 or later)",
            remedy: remedy.to_owned(),
        }),
    }
}

fn find_nats(given: Option<&Path>) -> Result<PathBuf, SuperviseError> {
    let usual = ["/usr/local/bin", "/usr/bin", "/usr/sbin", "/opt/homebrew/bin"].map(PathBuf::from);
    let folders = paths::search_path().into_iter().chain(paths::tool_folders()).chain(usual);
    find_nats_in(given, folders)
}

fn find_nats_in(
    given: Option<&Path>,
    folders: impl Iterator<Item = PathBuf>,
) -> Result<PathBuf, SuperviseError> {
    let what = "nats-server";
    let remedy = "install it by running scripts/bootstrap in the checkout, or name one with --nats-server";
    if let Some(program) = given {
        let program = refuse_untrusted(program)?;
        let version = version_of(&program).map_err(|problem| SuperviseError::ProgramUnusable {
            program: program.clone(),
            what,
            problem,
        })?;
        return require_nats_version(program, version, remedy);
    }
    let mut candidates = Candidates::default();
    for program in folders.map(|folder| folder.join("nats-server")).filter(|program| program.is_file()) {
        candidates.add(program.canonicalize().unwrap_or_else(|_| program.clone()), &program, &[&program]);
    }
    let accepted = &candidates.accepted;
    let best = accepted.iter().find(|(_, version)| *version >= NATS_VERSION_MIN).or(accepted.first());
    match (best, candidates.refusal()) {
        (Some((program, version)), _) => require_nats_version(program.clone(), *version, remedy),
        (None, Some(refusal)) => Err(refusal),
        (None, None) => Err(SuperviseError::ProgramMissing {
            what: "nats-server (2.12 or later)",
            remedy: remedy.to_owned(),
        }),
    }
}

fn require_nats_version(program: PathBuf, version: Version, remedy: &str) -> Result<PathBuf, SuperviseError> {
    if version >= NATS_VERSION_MIN {
        return Ok(program);
    }
    Err(SuperviseError::ProgramTooOld {
        program,
        found: format!("{}.{}", version.0, version.1),
        wanted: format!("{}.{}", NATS_VERSION_MIN.0, NATS_VERSION_MIN.1),
        remedy: remedy.to_owned(),
    })
}

/// The PostgreSQL folders of distributions, highest major version first.
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

/// Runs `program --version` and parses the output.
fn version_of(program: &Path) -> Result<Version, String> {
    let output = Command::new(program).arg("--version").output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_version(&text).ok_or_else(|| format!("it does not tell its version ({})", text.trim()))
}

/// The first number with a dot, otherwise the first number.
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
    use std::os::unix::fs::PermissionsExt;

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

    /// A program that prints version 2.12 and writes a file when it runs.
    fn nats_server(mode: u32) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().expect("a temporary folder can be made");
        let program = root.path().join("nats-server");
        let script = "#!/bin/sh\ntouch \"$0.ran\"\necho nats-server: v2.12.8\n";
        std::fs::write(&program, script).expect("it can be written");
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&program, permissions).expect("it is ours");
        (root, program)
    }

    #[test]
    fn a_program_that_another_user_can_change_is_not_run_even_for_its_version() {
        let (root, program) = nats_server(0o777);
        for given in [Some(program.as_path()), None] {
            let folders = [root.path().to_owned()].into_iter();
            let error = find_nats_in(given, folders).expect_err("others may write to it").to_string();
            assert!(error.contains(&format!("other users may write to {}", program.display())), "{error}");
        }
        assert!(!program.with_extension("ran").exists(), "it was not run");

        let (good, accepted) = nats_server(0o755);
        let folders = [root.path().to_owned(), good.path().to_owned()].into_iter();
        assert_eq!(find_nats_in(None, folders).expect("the second one will do"), accepted);
    }

    #[test]
    fn programs_are_not_looked_for_around_the_current_folder() {
        let executable = std::env::current_exe().and_then(|path| path.canonicalize()).expect("it runs");
        for folder in paths::tool_folders() {
            let project = folder.ancestors().find(|folder| folder.join("Cargo.toml").is_file());
            let own = executable.parent() == Some(&folder)
                || project.is_some_and(|project| executable.starts_with(project));
            assert!(own, "{} has nothing to do with {}", folder.display(), executable.display());
        }
        assert!(paths::search_path().iter().all(|folder| folder.is_absolute()));
    }
}
