//! `annals config`: checks the configuration.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::key;
use crate::failure::Failure;
use settings::Settings;
use terminal::{Exit, Output};
use wiring::{self, ProcessRole};

/// `annals config ...`
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Check the configuration; exit code 9 when it has problems
    Check(Check),
}

/// `annals config check ...`
#[derive(Debug, Args)]
pub struct Check {
    /// The roles that are to run with it
    #[arg(long, value_delimiter = ',', value_name = "ROLE", value_enum, default_values_t = ProcessRole::ALL)]
    roles: Vec<ProcessRole>,
}

#[derive(Serialize)]
struct ProblemLine {
    problem: String,
}

impl Check {
    /// Prints all problems, or that there are none.
    pub async fn run(self, settings: Result<Settings, Failure>, output: Output) -> Result<Exit, Failure> {
        let (source, problems) = match settings {
            Ok(settings) => {
                let problems = problems(&settings, &self.roles).await;
                (settings.file.map_or("the defaults".to_owned(), |file| file.display().to_string()), problems)
            }
            Err(failure) => ("the configuration".to_owned(), vec![failure.to_string()]),
        };
        if problems.is_empty() {
            eprintln!("{source} and the environment hold a complete configuration");
            return Ok(Exit::Ok);
        }
        let rows: Vec<ProblemLine> = problems.into_iter().map(|problem| ProblemLine { problem }).collect();
        output.rows(&["problem"], &rows)?;
        Ok(Exit::CheckFailed)
    }
}

/// The problems that prevent a process with these roles from starting.
pub async fn problems(settings: &Settings, roles: &[ProcessRole]) -> Vec<String> {
    let mut problems = settings.problems(ProcessRole::required_settings(roles));
    problems.extend(wiring::malformed_keys(settings));
    let mut problems: Vec<String> =
        problems.into_iter().map(|error| Failure::usage(error).to_string()).collect();
    if problems.is_empty() {
        problems.extend(key::root_key_status(settings).await.err().map(|failure| failure.to_string()));
    }
    problems
}
