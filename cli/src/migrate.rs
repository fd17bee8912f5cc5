//! `annals migrate`: migrates the database. Concurrent runs are safe.

use std::time::Duration;

use indicatif::ProgressBar;

use crate::failure::Failure;
use settings::Settings;
use terminal::Exit;

/// Runs the migrations, with a spinner on a terminal.
pub async fn run(settings: &Settings) -> Result<Exit, Failure> {
    let spinner = ProgressBar::new_spinner().with_message("bringing the database up to date");
    spinner.enable_steady_tick(Duration::from_millis(100));
    let migrated = wiring::migrate(settings).await;
    spinner.finish_and_clear();
    migrated?;
    eprintln!("the database {} is up to date", settings.database.name);
    Ok(Exit::Ok)
}
