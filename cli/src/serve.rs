//! `annals serve`: runs roles until a stop signal.

use clap::Args;

use crate::failure::Failure;
use crate::{logging, signals};
use settings::Settings;
use terminal::Exit;
use wiring::{Addresses, Prepared, ProcessRole};

/// `annals serve ...`
#[derive(Debug, Args)]
pub struct Serve {
    /// The roles to run
    #[arg(long, value_delimiter = ',', value_name = "ROLE", value_enum, default_values_t = ProcessRole::ALL)]
    roles: Vec<ProcessRole>,
}

impl Serve {
    /// Runs until a signal or the first failure of a role.
    pub async fn run(self, settings: &Settings) -> Result<Exit, Failure> {
        logging::start(&settings.log.level, settings.log.format)?;
        if let Some(problem) =
            settings.problems(ProcessRole::required_settings(&self.roles)).into_iter().next()
        {
            return Err(problem.into());
        }
        wiring::limits::disable_memory_dumps().map_err(anyhow::Error::from)?;
        let mut stop = signals::StopSignal::listen()?;
        let mut running = Prepared::connect(settings, &self.roles).await?.start().await?;
        let Addresses { public, operations, admin } = running.addresses();
        tracing::info!(roles = %ProcessRole::list(&self.roles), %public, %operations, %admin, "running");
        tokio::select! {
            error = running.failed() => {
                running.stop().await;
                return Err(error.into());
            }
            () = stop.requested() => tracing::info!("stopping"),
        }
        tokio::select! {
            () = running.stop() => {}
            () = stop.requested() => tracing::warn!("stopped in the middle of the work"),
        }
        Ok(Exit::Ok)
    }
}
