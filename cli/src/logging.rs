//! Logging to standard error, as JSON or as text. Standard output is for data.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use settings::LogFormat;

/// Starts logging. Call it once in a process.
pub fn start(level: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(level).context("log.level is no log filter")?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("logging cannot start: {error}"))
}
