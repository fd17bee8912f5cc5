//! `annals credential`: credentials with which integrators read a tenant's events on NATS.

use std::io::{self, Write};
use std::path::PathBuf;

use chrono::{DateTime, TimeDelta, Utc};
use clap::{ArgGroup, Args, Subcommand};
use nats::accounts::{KeyError, OperatorKeys};
use nats::integrators::registry::{self, IntegratorCredential};
use nats::integrators::{Integrators, IssuedCredential, NewIntegrator, ResetPoint};
use schemas::engine::recorded::timestamp;
use schemas::engine::{TenantSlug, TypePattern};
use serde::Serialize;
use serde_json::json;
use store::{Store, TenantRecord};

use super::init::Files;
use super::{operator_audit, tenant};
use crate::failure::Failure;
use settings::{Secret, Settings};
use terminal::{Exit, Output};
use terminal::{ignore_broken_pipe, json_line};

/// `annals credential ...`
#[derive(Debug, Subcommand)]
pub enum Credential {
    /// Issue a credential; as a table, standard output gets the credentials file alone
    Create(Create),
    /// List a tenant's credentials
    Ls(TenantArgument),
    /// Issue a new file for a credential; its consumer and position stay
    Rotate(Rotate),
    /// Revoke a credential: its connections are closed and its consumer is deleted
    Revoke(CredentialArgument),
    /// Reset a credential's consumer to a position or a time
    Reset(Reset),
    /// Make the keys of a NATS in operator mode, and the settings of its server and of annals
    Setup(Setup),
}

/// The tenant of the credentials.
#[derive(Debug, Args)]
pub struct TenantArgument {
    /// The tenant
    #[arg(long, value_parser = |text: &str| TenantSlug::parse(text))]
    tenant: TenantSlug,
}

/// One credential.
#[derive(Debug, Args)]
pub struct CredentialArgument {
    #[command(flatten)]
    of: TenantArgument,
    /// The credential's name
    #[arg(long)]
    name: String,
}

/// `annals credential create ...`
#[derive(Debug, Args)]
pub struct Create {
    #[command(flatten)]
    named: CredentialArgument,
    /// Only these event types: names or patterns such as crm.> [default: all]
    #[arg(long, value_delimiter = ',', value_name = "PATTERN", value_parser = |text: &str| text.parse::<TypePattern>())]
    types: Vec<TypePattern>,
    /// Only events after this position of the log
    #[arg(long, default_value_t = 0, value_name = "POSITION")]
    after: u64,
    /// How long the file is valid
    #[arg(long, default_value_t = 90, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..=90))]
    expires: u16,
}

/// `annals credential rotate ...`
#[derive(Debug, Args)]
pub struct Rotate {
    #[command(flatten)]
    named: CredentialArgument,
    /// How long the new file is valid
    #[arg(long, default_value_t = 90, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..=90))]
    expires: u16,
    /// How long earlier files stay valid
    #[arg(long, default_value_t = 0, value_name = "HOURS", value_parser = clap::value_parser!(u16).range(0..=168))]
    overlap: u16,
}

/// `annals credential reset ...`
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("place").required(true).args(["after", "time"])))]
pub struct Reset {
    #[command(flatten)]
    named: CredentialArgument,
    /// Start after this position of the log
    #[arg(long, value_name = "POSITION")]
    after: Option<u64>,
    /// Start with events recorded at this time or later (RFC 3339)
    #[arg(long, value_name = "TIME")]
    time: Option<DateTime<Utc>>,
}

/// `annals credential setup ...`
#[derive(Debug, Args)]
pub struct Setup {
    /// The folder to write to; keys that are there already are kept
    folder: PathBuf,
    /// Where nats-server will keep the accounts' JWTs
    #[arg(long, value_name = "DIR", default_value = "/var/lib/nats/jwt")]
    jwt_dir: PathBuf,
}

const COLUMNS: [&str; 6] = ["name", "consumer", "types", "acked_position", "expires_at", "in_effect"];

#[derive(Serialize)]
struct CredentialLine {
    name: String,
    consumer: String,
    types: String,
    created_at: String,
    expires_at: String,
    acked_position: u64,
    in_effect: bool,
}

impl From<IntegratorCredential> for CredentialLine {
    fn from(credential: IntegratorCredential) -> Self {
        Self {
            name: credential.name,
            consumer: credential.consumer,
            types: credential.types.join(","),
            created_at: timestamp(credential.created_at),
            expires_at: credential.expires_at.map(timestamp).unwrap_or_default(),
            acked_position: credential.acked.position,
            in_effect: credential.applied,
        }
    }
}

impl Credential {
    /// Runs it.
    pub async fn run(self, settings: &Settings, output: Output) -> Result<Exit, Failure> {
        let store = wiring::connect(settings).await?;
        let done = self.run_with(settings, &store, output).await;
        store.shutdown().await;
        done
    }

    async fn run_with(self, settings: &Settings, store: &Store, output: Output) -> Result<Exit, Failure> {
        let integrators = wiring::integrators(settings, store)?;
        match self {
            Self::Create(create) => create.run(&integrators, store, output).await,
            Self::Ls(TenantArgument { tenant }) => list(store, &tenant, output).await,
            Self::Rotate(Rotate { named, expires, overlap }) => {
                let (tenant, name) = named.find(store).await?;
                let (lifetime, overlap) = (TimeDelta::days(expires.into()), TimeDelta::hours(overlap.into()));
                let issued = integrators.rotate(&tenant, &name, lifetime, overlap, None).await;
                show(&issued.map_err(Failure::rejected_credential)?, output)
            }
            Self::Revoke(named) => {
                let (tenant, name) = named.find(store).await?;
                integrators.revoke(&tenant, &name, None).await.map_err(Failure::rejected_credential)?;
                Ok(Exit::Ok)
            }
            Self::Reset(Reset { named, after, time }) => {
                let (tenant, name) = named.find(store).await?;
                let place = match (after, time) {
                    (Some(after), _) => ResetPoint::Position(after),
                    (None, time) => ResetPoint::Time(time.expect("one of both is required")),
                };
                let credential = integrators.reset(&tenant, &name, place, None).await;
                let credential = credential.map_err(Failure::rejected_credential)?;
                output.object(
                    &COLUMNS,
                    &CredentialLine { in_effect: true, ..CredentialLine::from(credential) },
                )?;
                Ok(Exit::Ok)
            }
            Self::Setup(setup) => setup.run(),
        }
    }
}

impl CredentialArgument {
    async fn find(self, store: &Store) -> Result<(std::sync::Arc<TenantRecord>, String), Failure> {
        let record = tenant::find(store, &self.of.tenant).await?;
        operator_audit::record_access(store, [record.id]).await?;
        Ok((record, self.name))
    }
}

impl Create {
    async fn run(self, integrators: &Integrators, store: &Store, output: Output) -> Result<Exit, Failure> {
        let (tenant, name) = self.named.find(store).await?;
        let lifetime = TimeDelta::days(self.expires.into());
        let new = NewIntegrator { name, types: self.types, after: self.after, lifetime };
        show(&integrators.create(&tenant, new, None).await.map_err(Failure::rejected_credential)?, output)
    }
}

async fn list(store: &Store, slug: &TenantSlug, output: Output) -> Result<Exit, Failure> {
    const PAGE_SIZE: u32 = 500;
    let handle = store.tenant(tenant::find(store, slug).await?.id);
    operator_audit::record_access(store, [handle.id()]).await?;
    let mut rows: Vec<CredentialLine> = Vec::new();
    loop {
        let after = rows.last().map(|row| row.name.clone()).unwrap_or_default();
        let page = registry::commands::page(&handle, &after, PAGE_SIZE).await?;
        let full = page.len() == PAGE_SIZE as usize;
        rows.extend(page.into_iter().map(CredentialLine::from));
        if !full {
            break;
        }
    }
    output.rows(&COLUMNS, &rows)?;
    Ok(Exit::Ok)
}

/// Prints a new credential. Without JSON, standard output gets only the credentials file, so that it can be redirected
/// into a file. The other values go to standard error.
fn show(issued: &IssuedCredential, output: Output) -> Result<Exit, Failure> {
    let connection = &issued.connection;
    let expires_at = timestamp(issued.expires_at);
    let mut out = io::stdout().lock();
    let printed = if output == Output::Table {
        eprintln!("servers       {}", connection.servers.join(","));
        eprintln!("stream        {}", connection.stream);
        eprintln!("consumer      {}", connection.consumer);
        eprintln!("API prefix    {}", connection.api_prefix);
        eprintln!("inbox prefix  {}", connection.inbox_prefix);
        eprintln!("expires at    {expires_at}");
        write!(out, "{}", connection.credentials)
    } else {
        let mut object = json!(connection);
        object["expires_at"] = expires_at.into();
        json_line(&mut out, &object)
    };
    printed.and_then(|()| out.flush()).or_else(ignore_broken_pipe)?;
    if !issued.in_effect {
        eprintln!("not in effect yet: NATS is away or the role relay does not run; it follows by itself");
    }
    Ok(Exit::Ok)
}

/// Why a key was not generated or is malformed.
struct SetupError(Failure);

impl From<Failure> for SetupError {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl From<KeyError> for SetupError {
    fn from(error: KeyError) -> Self {
        Self(Failure::new(Exit::Failed, error))
    }
}

impl Setup {
    /// Writes all files. It needs no settings, because it creates what they name.
    pub fn run(self) -> Result<Exit, Failure> {
        let mut files = Files::open(&self.folder)?;
        let keys = OperatorKeys::load_or_create(|name, fresh| {
            let kept =
                files.secret(&format!("{name}.seed"), "a key of NATS", || Ok(Secret::new(fresh.clone())))?;
            Ok::<_, SetupError>(kept.map_or(fresh, |kept| kept.reveal().to_owned()))
        });
        let keys = keys.map_err(|error| error.0)?;
        files.replace("application.creds", &keys.application_credentials())?;
        files.replace("system.creds", &keys.system_credentials())?;
        let server = format!(
            "# For nats-server: include this file, and add listen, server_name and jetstream {{ store_dir: ... }}.\n{}",
            keys.server_settings(&self.jwt_dir)
        );
        files.replace("nats-server.conf", &server)?;
        let quoted = |name: &str| toml::Value::from(files.folder().join(name).display().to_string());
        let settings = format!(
            "[nats]\ncredentials_file = {}\nedge_account = \"{}\"\nedge_signing_seed_file = {}\n\
             # For the role relay alone:\noperator_signing_seed_file = {}\nsystem_credentials_file = {}\n",
            quoted("application.creds"),
            keys.edge_account(),
            quoted("edge-signing.seed"),
            quoted("operator-signing.seed"),
            quoted("system.creds"),
        );
        files.replace("annals.toml", &settings)?;
        Ok(Exit::Ok)
    }
}
