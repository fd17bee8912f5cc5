//! `annals event`: follows and replays events, as CloudEvents or as readable lines, from the database or over the API.

mod follow;
mod printer;
mod replay;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use schemas::engine::{TenantSlug, TypePattern};
use uuid::Uuid;

use super::remote::Access;
use super::signals;
use super::source::Source;
use super::{Exit, Failure, Output};
use printer::{PrintError, Printer};
use replay::{ResumePosition, StreamArgument};
use settings::Settings;

/// `annals event ...`
#[derive(Debug, Subcommand)]
pub enum Event {
    /// Follow events as they come, until Ctrl-C
    Tail(Tail),
    /// Print a tenant's history
    Replay(Replay),
}

/// `annals event tail ...`
#[derive(Debug, Args)]
pub struct Tail {
    /// Of this tenant [default: all tenants; over the API the token's]
    #[arg(long, value_parser = |text: &str| TenantSlug::parse(text))]
    tenant: Option<TenantSlug>,
    /// Types to show, with NATS wildcards: `crm.>`, `*.user.*.v1`
    #[arg(long = "type", value_name = "PATTERN", value_parser = |text: &str| text.parse::<TypePattern>())]
    types: Vec<TypePattern>,
    /// Start after this position [default: at the end]
    #[arg(long, value_name = "N")]
    after: Option<u64>,
    #[command(flatten)]
    access: Access,
}

/// `annals event replay ...`
#[derive(Debug, Args)]
pub struct Replay {
    /// The tenant [over the API: that of the token]
    #[arg(long, value_parser = |text: &str| TenantSlug::parse(text), required_unless_present = "token_file")]
    tenant: Option<TenantSlug>,
    /// Types to print, with NATS wildcards: `crm.>`, `*.user.*.v1`
    #[arg(long = "type", value_name = "PATTERN", value_parser = |text: &str| text.parse::<TypePattern>())]
    types: Vec<TypePattern>,
    /// One stream, `<category>/<id>`, or all of a category, `<category>/*`
    #[arg(long, value_name = "STREAM")]
    stream: Option<StreamArgument>,
    /// The first position
    #[arg(long, value_name = "N", default_value_t = 1)]
    from: u64,
    /// The last position [default: the end of the log]
    #[arg(long, value_name = "N")]
    to: Option<u64>,
    /// Only events recorded after this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    after_time: Option<DateTime<Utc>>,
    /// Only events recorded by this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    as_of: Option<DateTime<Utc>>,
    /// The log id that the positions belong to; an error when the tenant's log has another id
    #[arg(long, value_name = "ID")]
    log: Option<Uuid>,
    #[command(flatten)]
    access: Access,
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
