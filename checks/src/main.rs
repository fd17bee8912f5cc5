//! Checks of the repository itself, for `make check`.
//!
//! - `checks compatibility`: what outsiders use is compared with the last release (`surface`).
//! - `checks baseline VERSION`: makes the present state the one of the last release.
//! - `checks names`: words and names that the style forbids (`names`).
//! - `checks circles`: files that use each other in a circle (`circles`).
//! - `checks limits [--write]`: `docs/limits.md` lists every limit of the source (`limits`).

mod circles;
mod folders;
mod limits;
mod names;
mod surface;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};

const USAGE: &str = "usage: checks compatibility | baseline VERSION | names | circles | limits [--write]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
        Ok(problems) => {
            for problem in problems {
                eprintln!("{problem}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("checks: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The problems that the check found.
fn run(arguments: &[&str]) -> anyhow::Result<Vec<String>> {
    let root = root()?;
    match arguments {
        ["compatibility"] => surface::check(&root),
        ["baseline", version] => surface::write_baseline(&root, version).map(|()| Vec::new()),
        ["names"] => names::check(&root),
        ["circles"] => circles::check(&root),
        ["limits"] => limits::check(&root),
        ["limits", "--write"] => limits::write(&root).map(|()| Vec::new()),
        _ => bail!(USAGE),
    }
}

/// The root of the repository, above this crate.
fn root() -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the crate is in the repository")?;
    Ok(root.to_owned())
}
