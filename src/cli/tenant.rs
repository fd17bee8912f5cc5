//! `annals tenant`: creates and lists tenants, puts them on hold and takes them off it.

use access::Principal;
use clap::{Args, Subcommand};
use commands::{CommandContext, RegisterTenantError, register_tenant, resume_tenant, suspend_tenant};
use schemas::engine::{Name, Reason, TenantSlug, ids, recorded::timestamp};
use schemas::identity::tenant::{RegisterTenant, Registration, SuspendTenant, Tier};
use serde::Serialize;
use store::{Store, TenantRecord};

use super::{Exit, Failure, Output, operator};
use crate::config::Settings;
use crate::wiring;

/// `annals tenant ...`
#[derive(Debug, Subcommand)]
pub enum Tenant {
    /// Create a tenant
    Create(Create),
    /// List the tenants
    Ls,
    /// Put a tenant on hold: every door is closed to it within five seconds; nothing of it is lost
    Suspend(Suspend),
    /// Take a tenant off hold
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
    /// Why; recorded with the fact
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
    /// What it pays for
    #[arg(long, default_value = "free", value_parser = one_of(["free", "pro", "enterprise"]))]
    tier: String,
    /// Who may register as a user
    #[arg(long, default_value = "invitation", value_parser = one_of(["open", "invitation", "closed"]))]
    registration: String,
}

fn one_of<const N: usize>(names: [&'static str; N]) -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(names)
}

const COLUMNS: [&str; 6] = ["slug", "name", "tier", "registration", "suspended", "opened_at"];

#[derive(Serialize)]
struct Row {
    id: schemas::engine::TenantId,
    slug: TenantSlug,
    name: String,
    tier: Tier,
    registration: Registration,
    suspended: bool,
    opened_at: String,
}

impl From<&TenantRecord> for Row {
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
        let store = wiring::connect(settings).await?;
        let done = match self {
            Self::Create(create) => create.run(&store, output).await,
            Self::Ls => list(&store, output).await,
            Self::Suspend(Suspend { slug, reason }) => {
                stand(&store, &slug, Some(SuspendTenant { reason }), output).await
            }
            Self::Resume { slug } => stand(&store, &slug, None, output).await,
        };
        store.shutdown().await;
        done
    }
}

impl Create {
    async fn run(self, store: &Store, output: Output) -> Result<Exit, Failure> {
        let name = match self.name {
            Some(name) => name,
            None => Name::parse(self.slug.as_str()).map_err(Failure::usage)?,
        };
        let command = RegisterTenant {
            slug: self.slug.clone(),
            name,
            tier: named(&self.tier)?,
            registration: named(&self.registration)?,
            organisation: None,
            business_unit: None,
            country: None,
        };
        let executor = wiring::executor(store);
        let context = CommandContext::new(ids::PLATFORM, Principal::system("cli"));
        register_tenant(&executor, &context, command, None).await.map_err(|error| match error {
            RegisterTenantError::Tenant(error) => Failure::refused(error),
            RegisterTenantError::Admin(error) => Failure::refused(error),
        })?;
        let record = store.tenant_by_slug(&self.slug).await?;
        let record = record.ok_or_else(|| Failure::not_found("tenant", &self.slug))?;
        operator::touches(store, [record.id]).await?;
        output.object(&COLUMNS, &Row::from(&*record))?;
        Ok(Exit::Ok)
    }
}

/// Suspends the tenant, or resumes it. What is so already is so without a further fact.
async fn stand(
    store: &Store,
    slug: &TenantSlug,
    suspend: Option<SuspendTenant>,
    output: Output,
) -> Result<Exit, Failure> {
    let record = find(store, slug).await?;
    operator::touches(store, [record.id]).await?;
    let (executor, context) =
        (wiring::executor(store), CommandContext::new(ids::PLATFORM, Principal::system("cli")));
    let done = match suspend {
        Some(command) => suspend_tenant(&executor, &context, record.id, command).await,
        None => resume_tenant(&executor, &context, record.id).await,
    };
    let suspended = done.map_err(Failure::refused)?.state.suspended;
    output.object(&COLUMNS, &Row { suspended, ..Row::from(&*record) })?;
    Ok(Exit::Ok)
}

/// A value by its name in public, which is its name in JSON.
fn named<T: serde::de::DeserializeOwned>(name: &str) -> Result<T, Failure> {
    serde_json::from_value(name.into()).map_err(Failure::usage)
}

async fn list(store: &Store, output: Output) -> Result<Exit, Failure> {
    const PAGE: u32 = 500;
    let mut rows = Vec::new();
    let mut after = None;
    loop {
        let page = store.tenants(after.as_ref(), PAGE).await?;
        rows.extend(page.iter().map(Row::from));
        match page.into_iter().last() {
            Some(last) if rows.len() % PAGE as usize == 0 => after = Some(last.slug),
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
