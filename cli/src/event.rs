//! `annals event`: follows and replays events, as CloudEvents or as readable lines, from the database or over the API.

mod follow;
mod printer;
mod replay;
mod source;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use schemas::engine::{LogId, TenantSlug, TypePattern};
use store::Store;
use uuid::Uuid;

use super::remote::{Access, Api};
use super::{Exit, Failure, Output, operator_audit, tenant};
use crate::signals;
use printer::{PrintError, Printer};
use replay::ResumePosition;
use settings::Settings;
use source::{Source, StreamArgument};

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

/// The source of events.
enum EventBackend {
    Api(Api),
    Database(Store),
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
        let (tenant, access) = match &self {
            Self::Tail(tail) => (tail.tenant.as_ref(), &tail.access),
            Self::Replay(replay) => (replay.tenant.as_ref(), &replay.access),
        };
        let backend = match access.api(tenant)? {
            Some(api) => EventBackend::Api(api),
            None => EventBackend::Database(wiring::connect(&settings()?).await?),
        };
        let resume = ResumePosition::default();
        let work = async {
            match (self, &backend) {
                (Self::Tail(tail), EventBackend::Api(api)) => {
                    follow::over_api(api, &tail.types, tail.after, &mut printer).await
                }
                (Self::Tail(tail), EventBackend::Database(store)) => {
                    follow::in_database(store, tail.tenant, tail.types, tail.after, &mut printer).await
                }
                (Self::Replay(replay), EventBackend::Api(api)) => {
                    replay.run(&Source::Api(api), &mut printer, &resume).await
                }
                (Self::Replay(replay), EventBackend::Database(store)) => {
                    let slug = replay.tenant.as_ref().expect("the command line requires it");
                    let record = tenant::find(store, slug).await?;
                    operator_audit::record_access(store, [record.id]).await?;
                    let source = Source::Database(store.tenant(record.id), record);
                    replay.run(&source, &mut printer, &resume).await
                }
            }
        };
        let (done, interrupted) = tokio::select! {
            done = work => (done, false),
            () = stop.requested() => (Ok(()), true),
        };
        if let EventBackend::Database(store) = backend {
            store.shutdown().await;
        }
        if interrupted || matches!(done, Err(PrintError::Failed(_))) {
            resume.print_hint();
        }
        match done {
            Ok(()) | Err(PrintError::OutputClosed) => Ok(Exit::Ok),
            Err(PrintError::Failed(failure)) => Err(failure),
        }
    }
}

impl Replay {
    fn log(&self) -> Option<LogId> {
        self.log.map(LogId)
    }
}
