//! The command line: `annals <noun> <verb>`. Data go to standard output, progress and logs to standard error.
//!
//! Layout: one file for each subcommand. `failure` maps errors to exit codes, `remote` opens a client of the API,
//! `source` is the database or the API where a command works on both, `password` reads a new password.

mod admin;
mod audit;
mod config;
mod credential;
mod deadletter;
mod dev;
mod doctor;
mod erasure;
mod event;
mod failure;
mod init;
mod key;
mod log;
mod logging;
mod migrate;
mod operator_audit;
mod password;
mod progress;
mod projection;
mod remote;
mod saga;
mod serve;
mod signals;
mod source;
mod tenant;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use terminal::{Exit, Output};

use failure::Failure;

use settings::{LogFormat, Settings};

/// A multi-tenant, event-sourced business backend whose history you can prove.
#[derive(Debug, Parser)]
#[command(name = "annals", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 denied, 5 conflict, 6 rejected, 7 timed out, \
                          8 unavailable, 9 check found problems.";

/// The options of every subcommand.
#[derive(Debug, Args)]
struct Global {
    /// The settings file [default: ./annals.toml, else the one of `annals dev`'s default data folder]
    #[arg(long, global = true, value_name = "FILE", env = "ANNALS_CONFIG")]
    config: Option<PathBuf>,
    /// The format of the output
    #[arg(long, global = true, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything on this machine, with a private PostgreSQL and NATS
    Dev(dev::Dev),
    /// Make the keys and the settings file of a production deployment
    Init(Box<init::Init>),
    /// Run roles against the configured PostgreSQL and NATS
    Serve(serve::Serve),
    /// Bring the database up to date
    Migrate,
    /// Check connections and versions
    Doctor,
    /// The configuration
    #[command(subcommand)]
    Config(config::Config),
    /// Administrators
    #[command(subcommand)]
    Admin(admin::Admin),
    /// Tenants
    #[command(subcommand)]
    Tenant(tenant::Tenant),
    /// A tenant's history
    #[command(subcommand)]
    Event(Box<event::Event>),
    /// The tenants' logs and their ids
    #[command(subcommand)]
    Log(log::Log),
    /// Erasures of people
    #[command(subcommand)]
    Erasure(erasure::Erasure),
    /// The keys of personal data
    #[command(subcommand)]
    Key(key::Key),
    /// Credentials with which integrators read a tenant's events on NATS
    #[command(subcommand)]
    Credential(credential::Credential),
    /// Dead letters of sagas and projections
    #[command(subcommand)]
    Deadletter(deadletter::Deadletter),
    /// Proofs of a tenant's history
    #[command(subcommand)]
    Audit(Box<audit::Audit>),
    /// Read models
    #[command(subcommand)]
    Projection(Box<projection::Projection>),
    /// Instances of sagas
    #[command(subcommand)]
    Saga(saga::Saga),
}

impl Arguments {
    /// The command line of this process. The process ends here if it is malformed or asks for help.
    pub fn from_command_line() -> Self {
        Self::parse()
    }

    /// The command line with these words, the program's name first. The process ends here as above.
    pub fn of(words: impl IntoIterator<Item = String>) -> Self {
        Self::parse_from(words)
    }
}

/// Runs the command. An error is printed on standard error as one line.
pub async fn run(arguments: Arguments) -> ExitCode {
    match Box::pin(dispatch(arguments)).await {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit.into()
        }
    }
}

async fn dispatch(Arguments { global, command }: Arguments) -> Result<Exit, Failure> {
    let output = global.output;
    let load = || Settings::load(global.config.as_deref()).map_err(Failure::usage);
    // `serve` and `dev` log as configured. For other commands only the error itself is useful.
    if !matches!(command, Command::Serve(_) | Command::Dev(_)) {
        logging::start("warn,nats=error", LogFormat::Text)?;
    }
    match command {
        Command::Dev(command) => Box::pin(command.run(global.config.as_deref())).await,
        // Creates the settings file, so it needs none.
        Command::Init(command) => command.run(output),
        Command::Serve(command) => command.run(&load()?).await,
        Command::Migrate => migrate::run(&load()?).await,
        Command::Doctor => doctor::run(&load()?, output).await,
        Command::Config(config::Config::Check(check)) => check.run(load(), output).await,
        Command::Erasure(command) => command.run(&load()?, output).await,
        Command::Key(command) => command.run(&load()?, output).await,
        Command::Admin(command) => Box::pin(command.run(load, output)).await,
        Command::Tenant(command) => command.run(&load()?, output).await,
        Command::Event(command) => Box::pin(command.run(load, output)).await,
        Command::Log(command) => command.run(&load()?, output).await,
        // Creates the keys that a settings file names, so it needs none.
        Command::Credential(credential::Credential::Setup(setup)) => setup.run(),
        Command::Credential(command) => command.run(&load()?, output).await,
        Command::Deadletter(command) => command.run(&load()?, output).await,
        Command::Audit(command) => command.run(output).await,
        Command::Projection(command) => Box::pin(command.run(load, output)).await,
        Command::Saga(command) => command.run(&load()?, output).await,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::path::Path;

    use clap::{Command, CommandFactory};

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    /// Every command with its arguments, one line each.
    fn render(command: &Command, path: &str, page: &mut String) {
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            let value = argument.get_value_names().filter(|_| argument.get_action().takes_values());
            let value = value.map(|names| format!(" <{}>", names.join("> <"))).unwrap_or_default();
            let name = match argument.get_long() {
                Some(long) => format!("--{long}{value}"),
                None => value.trim_start().to_owned(),
            };
            let needed = if argument.is_required_set() { " (required)" } else { "" };
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            // Writing to a string cannot fail.
            let _ = writeln!(page, "- `{name}`{needed}: {}", help.lines().next().unwrap_or_default());
        }
        for child in command.get_subcommands().filter(|child| child.get_name() != "help") {
            let path = format!("{path} {}", child.get_name());
            let about = child.get_about().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(page, "\n## `{path}`\n\n{about}.\n");
            render(child, &path, page);
        }
    }

    #[test]
    fn the_page_of_commands_is_the_command_line() {
        let mut page = String::from(
            "# Commands\n\n\
             The command line makes this page.\n\
             `UPDATE_DOCS=1 cargo test -p cli` writes it.\n\n\
             Every command takes:\n\n",
        );
        render(&Arguments::command(), "annals", &mut page);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/commands.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &page).expect("the page can be written");
        }
        let written = std::fs::read_to_string(path).expect("the page is there");
        assert_eq!(written, page, "run UPDATE_DOCS=1 cargo test -p cli");
    }
}
