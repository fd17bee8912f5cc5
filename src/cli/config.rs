//! `annals config`: what is wrong with the configuration.

use clap::Subcommand;
use serde::Serialize;

use super::{Exit, Failure, Output, key};
use crate::config::Settings;

/// `annals config ...`
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Check the configuration; exit code 9 when it has problems
    Check,
}

#[derive(Serialize)]
struct Problem {
    problem: String,
}

/// Prints every problem, or says that there is none.
pub async fn check(settings: Result<Settings, Failure>, output: Output) -> Result<Exit, Failure> {
    let (source, problems) = match settings {
        Ok(settings) => {
            let mut problems: Vec<String> =
                settings.problems(true).into_iter().map(|error| Failure::usage(error).to_string()).collect();
            if problems.is_empty() {
                problems.extend(key::standing(&settings).await.err().map(|failure| failure.to_string()));
            }
            (settings.file.map_or("the defaults".to_owned(), |file| file.display().to_string()), problems)
        }
        Err(failure) => ("the configuration".to_owned(), vec![failure.to_string()]),
    };
    if problems.is_empty() {
        eprintln!("{source} and the environment hold a complete configuration");
        return Ok(Exit::Ok);
    }
    let rows: Vec<Problem> = problems.into_iter().map(|problem| Problem { problem }).collect();
    output.rows(&["problem"], &rows)?;
    Ok(Exit::Problems)
}
