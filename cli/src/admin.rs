//! `annals admin`: creates administrators without another administrator.

use access::Principal;
use clap::{Args, Subcommand};
use commands::{CommandContext, ExecuteError, register_user};
use schemas::engine::{Email, Name, TenantSlug, ids};
use schemas::identity::role::Role;
use serde::Serialize;
use store::Store;
use uuid::Uuid;

use super::password::PasswordSource;
use super::{operator_audit, tenant};
use crate::failure::Failure;
use settings::Settings;
use terminal::{Exit, Output};

/// The reserved tenant whose users operate the platform.
const PLATFORM_SLUG: &str = "platform";

/// `annals admin ...`
#[derive(Debug, Subcommand)]
pub enum Admin {
    /// Create an administrator of a tenant, or an operator of the platform, who creates tenants
    Create(Create),
}

/// `annals admin create ...`
#[derive(Debug, Args)]
pub struct Create {
    /// The tenant [default: platform, whose administrators operate the platform]
    #[arg(long, value_name = "SLUG", value_parser = |text: &str| TenantSlug::parse(text))]
    tenant: Option<TenantSlug>,
    /// The address to sign in with
    #[arg(long, value_parser = |text: &str| Email::parse(text))]
    email: Email,
    /// The name for people
    #[arg(long, default_value = "Administrator", value_parser = |text: &str| Name::parse(text))]
    name: Name,
    #[command(flatten)]
    password: PasswordSource,
}

const COLUMNS: [&str; 5] = ["id", "tenant", "email", "name", "roles"];

#[derive(Serialize)]
struct AdminLine {
    id: Uuid,
    tenant: TenantSlug,
    email: String,
    name: String,
    roles: String,
}

impl Admin {
    /// Runs it. Errors of the command line are reported before any connection is opened.
    pub async fn run(
        self,
        load: impl FnOnce() -> Result<Settings, Failure>,
        output: Output,
    ) -> Result<Exit, Failure> {
        let Self::Create(create) = self;
        let settings = load()?;
        let hash = wiring::passwords(&settings)?.hash(ids::PLATFORM, create.password.read().await?).await;
        let hash = hash.map_err(anyhow::Error::from)?;
        let store = wiring::connect(&settings).await?;
        let done = create.run(&store, hash, output).await;
        store.shutdown().await;
        done
    }
}

impl Create {
    async fn run(self, store: &Store, hash: bytes::Bytes, output: Output) -> Result<Exit, Failure> {
        let slug = match self.tenant {
            Some(slug) => slug,
            None => TenantSlug::parse(PLATFORM_SLUG).map_err(Failure::usage)?,
        };
        let record = tenant::find(store, &slug).await?;
        let role = if record.id == ids::PLATFORM { Role::PlatformAdmin } else { Role::TenantAdmin };
        operator_audit::record_access(store, [record.id]).await?;
        let executor = wiring::executor(store);
        let context = CommandContext::new(record.id, Principal::system("cli"));
        // One append writes the user, the reservation of the address and the password, so none of them exists alone.
        let registered = register_user(&executor, &context, self.email, self.name, vec![role], hash).await;
        let registered = registered.map_err(|error| match error {
            ExecuteError::Reserved { .. } => Failure::new(
                Exit::Conflict,
                anyhow::anyhow!("the e-mail address is taken in the tenant {slug}; nothing was changed"),
            ),
            error => Failure::rejected_command(error),
        })?;
        let user = registered.state;
        let roles: Vec<&str> = user.roles.iter().map(|role| role.as_str()).collect();
        let row = AdminLine {
            id: registered.id,
            tenant: slug,
            email: user.email,
            name: user.name,
            roles: roles.join(","),
        };
        output.object(&COLUMNS, &row)?;
        Ok(Exit::Ok)
    }
}
