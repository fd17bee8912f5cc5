//! `annals migrate`: brings the database up to date. Several may run at once.

use std::time::Duration;

use indicatif::ProgressBar;

use super::{Exit, Failure};
use crate::config::Settings;
use crate::wiring;

/// Runs the migrations; a spinner shows where standard error is a terminal.
pub async fn run(settings: &Settings) -> Result<Exit, Failure> {
    let spinner = ProgressBar::new_spinner().with_message("bringing the database up to date");
    spinner.enable_steady_tick(Duration::from_millis(100));
    let migrated = wiring::migrate(settings).await;
    spinner.finish_and_clear();
    migrated?;
    eprintln!("the database {} is up to date", settings.database.name);
    Ok(Exit::Ok)
}
