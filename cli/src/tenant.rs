//! `annals tenant`: creates, lists, suspends and resumes tenants.

use access::Principal;
use bytes::Bytes;
use clap::{Args, Subcommand};
use commands::identity::registration::{TenantAdmin, TenantRegistration};
use commands::{
    CommandContext, ExecuteError, ExecutionOutcome, RegisterTenantError, register_tenant, resume_tenant,
    suspend_tenant,
};
use schemas::engine::{Email, Name, Reason, TenantSlug, ids, recorded::timestamp};
use schemas::identity::tenant::{Registration, TenantOrganisation, Tier};
use serde::Serialize;
use store::{Store, TenantRecord};

use super::operator_audit;
use super::password::PasswordSource;
use crate::failure::Failure;
use devserver::demo;
use settings::{Settings, SettingsError};
use terminal::{Exit, Output};

/// `annals tenant ...`
#[derive(Debug, Subcommand)]
pub enum Tenant {
    /// Create a tenant
    Create(Box<Create>),
    /// List the tenants
    Ls,
    /// Suspend a tenant: within five seconds all of its requests are refused; its data is kept
    Suspend(Suspend),
    /// Resume a suspended tenant
    Resume {
        /// Its public name
        #[arg(value_parser = |text: &str| TenantSlug::parse(text))]
        slug: TenantSlug,
    },
}

/// `annals tenant suspend ...`
#[derive(Debug, Args)]
pub struct Suspend {
    /// Its public name
    #[arg(value_parser = |text: &str| TenantSlug::parse(text))]
    slug: TenantSlug,
    /// The reason; it is recorded in the event
    #[arg(long, value_name = "TEXT", value_parser = |text: &str| Reason::parse(text))]
    reason: Option<Reason>,
}

/// `annals tenant create ...`
#[derive(Debug, Args)]
pub struct Create {
    /// Its public name: a letter, then letters, digits and dashes; it cannot be changed
    #[arg(value_parser = |text: &str| TenantSlug::parse(text))]
    slug: TenantSlug,
    /// Its name for people [default: the slug]
    #[arg(long, value_parser = |text: &str| Name::parse(text))]
    name: Option<Name>,
    /// The tier that the tenant pays for; it is recorded and has no effect yet
    #[arg(long, default_value = "free", value_parser = one_of(["free", "pro", "enterprise"]))]
    tier: String,
    /// Who may register as a user. Invitations do not exist yet: `invitation` means the same as `closed`, an
    /// administrator adds users
    #[arg(long, default_value = "invitation", value_parser = one_of(["open", "invitation", "closed"]))]
    registration: String,
    /// The address of its first administrator, who is created with it
    #[arg(long, value_name = "EMAIL", value_parser = |text: &str| Email::parse(text))]
    admin: Option<Email>,
    /// The administrator's name for people
    #[arg(
        long,
        value_name = "NAME",
        requires = "admin",
        default_value = "Administrator",
        value_parser = |text: &str| Name::parse(text)
    )]
    admin_name: Name,
    #[command(flatten)]
    password: PasswordSource,
}

fn one_of<const N: usize>(names: [&'static str; N]) -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(names)
}

const COLUMNS: [&str; 6] = ["slug", "name", "tier", "registration", "suspended", "opened_at"];

#[derive(Serialize)]
struct TenantLine {
    id: schemas::engine::TenantId,
    slug: TenantSlug,
    name: String,
    tier: Tier,
    registration: Registration,
    suspended: bool,
    opened_at: String,
}

impl From<&TenantRecord> for TenantLine {
    fn from(record: &TenantRecord) -> Self {
        Self {
            id: record.id,
            slug: record.slug.clone(),
            name: record.name.clone(),
            tier: record.tier,
            registration: record.registration,
            suspended: record.suspended,
            opened_at: timestamp(record.opened_at),
        }
    }
}

impl Tenant {
    /// Runs it.
    pub async fn run(self, settings: &Settings, output: Output) -> Result<Exit, Failure> {
        // Read it before any connection is opened, because a person may take a while to type it.
        let hash = match &self {
            Self::Create(create) => create.password_hash(settings).await?,
            _ => None,
        };
        let store = wiring::connect(settings).await?;
        let done = match self {
            Self::Create(create) => create.run(&store, hash, output).await,
            Self::Ls => list(&store, output).await,
            Self::Suspend(Suspend { slug, reason }) => {
                change_status(&store, &slug, StatusChange::Suspend { reason }, output).await
            }
            Self::Resume { slug } => match refuse_known_password(settings, &store, &slug).await {
                Ok(()) => change_status(&store, &slug, StatusChange::Resume, output).await,
                Err(failure) => Err(failure),
            },
        };
        store.shutdown().await;
        done
    }
}

impl Create {
    async fn password_hash(&self, settings: &Settings) -> Result<Option<Bytes>, Failure> {
        if self.admin.is_none() {
            self.password.reject_without("--admin")?;
            return Ok(None);
        }
        let password = self.password.read().await?;
        let hashed = wiring::passwords(settings)?.hash(ids::PLATFORM, password).await;
        Ok(Some(hashed.map_err(anyhow::Error::from)?))
    }

    async fn run(self, store: &Store, hash: Option<Bytes>, output: Output) -> Result<Exit, Failure> {
        let slug = self.slug;
        let name = match self.name {
            Some(name) => name,
            None => Name::parse(slug.as_str()).map_err(Failure::usage)?,
        };
        let command = TenantRegistration {
            slug: slug.clone(),
            name,
            tier: parse_choice(&self.tier)?,
            registration: parse_choice(&self.registration)?,
            organisation: TenantOrganisation::default(),
        };
        let admin = self.admin.zip(hash);
        let admin =
            admin.map(|(email, password_hash)| TenantAdmin { email, name: self.admin_name, password_hash });
        let executor = wiring::executor(store);
        // The id is derived from the slug, which is never used again. After a crash between the tenant and its
        // administrator, the same command finds the tenant and creates the administrator.
        let command_id = ids::derived_id(ids::PLATFORM.0, &format!("annals tenant create {slug}"));
        let context =
            CommandContext::new(ids::PLATFORM, Principal::system("cli")).with_command_id(command_id);
        let registered = register_tenant(&executor, &context, command, admin).await;
        let registered = registered.map_err(|error| refused(error, &slug))?;
        let record = store.tenant_by_slug(&slug).await?;
        let record = record.ok_or_else(|| Failure::not_found("tenant", &slug))?;
        let was_there = registered.tenant.outcome == ExecutionOutcome::Duplicate;
        if was_there
            && registered.admin.as_ref().is_none_or(|admin| admin.outcome == ExecutionOutcome::Duplicate)
        {
            return Err(exists(&slug));
        }
        operator_audit::record_access(store, [record.id]).await?;
        output.object(&COLUMNS, &TenantLine::from(&*record))?;
        Ok(Exit::Ok)
    }
}

fn refused(error: RegisterTenantError, slug: &TenantSlug) -> Failure {
    match error {
        RegisterTenantError::Tenant(ExecuteError::CommandIdReused | ExecuteError::Reserved { .. })
        | RegisterTenantError::Admin(ExecuteError::CommandIdReused | ExecuteError::Reserved { .. }) => {
            exists(slug)
        }
        RegisterTenantError::Tenant(error) => Failure::rejected_command(error),
        RegisterTenantError::Admin(error) => Failure::rejected_command(error),
    }
}

fn exists(slug: &TenantSlug) -> Failure {
    Failure::new(
        Exit::Conflict,
        anyhow::anyhow!(
            "there is a tenant {slug} already; nothing was changed. `annals admin create --tenant {slug}` gives it \
             another administrator"
        ),
    )
}

/// Refuses to resume the demo tenant when other machines can reach the gateway and its administrator has the public
/// password.
async fn refuse_known_password(settings: &Settings, store: &Store, slug: &TenantSlug) -> Result<(), Failure> {
    if slug.as_str() != demo::TENANT_SLUG || !demo::is_exposed(settings.gateway.public_address) {
        return Ok(());
    }
    let (executor, passwords) = (wiring::executor(store), wiring::passwords(settings)?);
    match demo::known_password(&executor, &passwords).await? {
        Some(_) => {
            let problem = demo::KNOWN_PASSWORD_PROBLEM.to_owned();
            Err(SettingsError::Invalid { key: "gateway.public_address", problem }.into())
        }
        None => Ok(()),
    }
}

/// A change of a tenant.
enum StatusChange {
    Resume,
    Suspend { reason: Option<Reason> },
}

/// Suspends the tenant, or resumes it. If it is so already, no event is recorded.
async fn change_status(
    store: &Store,
    slug: &TenantSlug,
    change: StatusChange,
    output: Output,
) -> Result<Exit, Failure> {
    let record = find(store, slug).await?;
    operator_audit::record_access(store, [record.id]).await?;
    let (executor, context) =
        (wiring::executor(store), CommandContext::new(ids::PLATFORM, Principal::system("cli")));
    let done = match change {
        StatusChange::Suspend { reason } => suspend_tenant(&executor, &context, record.id, reason).await,
        StatusChange::Resume => resume_tenant(&executor, &context, record.id).await,
    };
    let suspended = done.map_err(Failure::rejected_command)?.state.suspended;
    output.object(&COLUMNS, &TenantLine { suspended, ..TenantLine::from(&*record) })?;
    Ok(Exit::Ok)
}

/// A value by its name in public, which is its name in JSON.
fn parse_choice<T: serde::de::DeserializeOwned>(name: &str) -> Result<T, Failure> {
    serde_json::from_value(name.into()).map_err(Failure::usage)
}

async fn list(store: &Store, output: Output) -> Result<Exit, Failure> {
    const PAGE_SIZE: u32 = 500;
    let mut rows = Vec::new();
    let mut after = None;
    loop {
        let page = store.tenants(after.as_ref(), PAGE_SIZE).await?;
        rows.extend(page.iter().map(TenantLine::from));
        match page.into_iter().last() {
            Some(last) if rows.len() % PAGE_SIZE as usize == 0 => after = Some(last.slug),
            _ => break,
        }
    }
    output.rows(&COLUMNS, &rows)?;
    Ok(Exit::Ok)
}

/// The tenant of a slug.
pub async fn find(store: &Store, slug: &TenantSlug) -> Result<std::sync::Arc<TenantRecord>, Failure> {
    store.tenant_by_slug(slug).await?.ok_or_else(|| Failure::not_found("tenant", slug))
}
