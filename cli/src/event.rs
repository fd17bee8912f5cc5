//! `annals event`: follows and replays events, as CloudEvents or as readable lines, from the database or over the API.

mod follow;
mod printer;
mod replay;

use clap::Subcommand;

use super::signals;
use super::source::Source;
use crate::failure::Failure;
use printer::{PrintError, Printer};
use replay::ResumePosition;
use settings::Settings;
use terminal::{Exit, Output};

/// `annals event ...`
#[derive(Debug, Subcommand)]
pub enum Event {
    /// Follow events as they come, until Ctrl-C
    Tail(follow::Tail),
    /// Print a tenant's history
    Replay(replay::Replay),
}

impl Event {
    /// Runs it. Over the API it needs no settings.
    pub async fn run(
        self,
        settings: impl Fn() -> Result<Settings, Failure>,
        output: Output,
    ) -> Result<Exit, Failure> {
        let mut printer = Printer::new(output);
        let mut stop = signals::StopSignal::listen()?;
        let resume = ResumePosition::default();
        let printed = match &self {
            Self::Tail(tail) if tail.tenant.is_none() && !tail.access.is_remote() => {
                let store = wiring::connect(&settings()?).await?;
                let printed = stop.or(tail.print_all(&store, &mut printer)).await;
                store.shutdown().await;
                printed
            }
            Self::Tail(tail) => {
                let source = Source::open(&tail.access, tail.tenant.as_ref(), settings).await?;
                let printed = stop.or(tail.print(&source, &mut printer)).await;
                source.close().await;
                printed
            }
            Self::Replay(replay) => {
                let source = Source::open(&replay.access, replay.tenant.as_ref(), settings).await?;
                let printed = stop.or(replay.print(&source, &mut printer, &resume)).await;
                source.close().await;
                printed
            }
        };
        if matches!(printed, None | Some(Err(PrintError::Failed(_)))) {
            resume.print_hint();
        }
        match printed {
            None | Some(Ok(()) | Err(PrintError::OutputClosed)) => Ok(Exit::Ok),
            Some(Err(PrintError::Failed(failure))) => Err(failure),
        }
    }
}
