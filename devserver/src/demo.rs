//! Prepares a fresh deployment for `annals dev`: the tenant `demo`, its administrator, a platform administrator, and
//! tokens of both. What exists already is kept.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use access::Principal;
use anyhow::Context;
use commands::identity::registration::TenantRegistration;
use commands::identity::user::{EMAIL, PASSWORD as PASSWORD_SECRET};
use commands::{CommandContext, Executor, User, register_tenant, register_user};
use gateway::auth::{Audience, Grant, Password, Passwords, Tokens};
use schemas::engine::{Email, Name, TenantSlug, ids};
use schemas::identity::role::Role;
use schemas::identity::tenant::{Registration, TenantOrganisation, Tier};
use schemas::identity::user::UserStatus;
use store::TenantRecord;

use crate::folder::{DataFolder, random_password};

/// The tenant's slug.
pub const TENANT_SLUG: &str = "demo";

/// The demo tenant's administrator.
pub const ADMIN_EMAIL: &str = "admin@demo.example";
/// The password of the demo tenant's administrator. It is public, because the tenant is for trying out. The platform
/// administrator's password is random.
pub const ADMIN_PASSWORD: &str = "try annals out";
/// The error when other machines could use that password.
pub const KNOWN_PASSWORD_PROBLEM: &str = "must be a loopback address, because the administrator of the tenant `demo` has the \
    password that everybody knows; put the tenant on hold (`annals tenant suspend demo`) or keep the listener on 127.0.0.1";
const PLATFORM_ADMIN_EMAIL: &str = "admin@platform.example";
const TOKEN_LIFETIME: Duration = Duration::from_hours(12);

/// What a developer needs to call the API.
pub struct Demo {
    /// A token of the tenant's administrator.
    pub access_token: String,
    /// A token of the platform administrator, valid for both listeners.
    pub admin_token: String,
}

/// The parts of the product that make the demo tenant.
pub struct DemoSetup<'a> {
    /// Executes the commands.
    pub executor: &'a Executor,
    /// Hashes the passwords.
    pub passwords: &'a Passwords,
    /// Issues the tokens.
    pub tokens: &'a Tokens,
}

impl DemoSetup<'_> {
    /// Creates what is missing and issues the tokens. The platform administrator's password is kept in the folder.
    ///
    /// # Errors
    /// When the folder cannot keep the password, when there is no tenant `platform`, or when the store, a command, the
    /// hash of a password or a token fails.
    pub async fn prepare(&self, folder: &DataFolder) -> anyhow::Result<Demo> {
        let (_, platform_password) = folder.secret("platform-admin.password", random_password)?;
        let demo = self.tenant().await.context("the demo tenant cannot be made")?;
        let platform = TenantSlug::parse("platform").expect("a valid slug");
        let platform = self.executor.store().tenant_by_slug(&platform).await?;
        let platform = platform.context("there is no tenant platform")?;
        let audiences = vec![Audience::Public];
        let access_token =
            self.token(&demo, ADMIN_EMAIL, Role::TenantAdmin, ADMIN_PASSWORD, audiences).await?;
        let audiences = vec![Audience::Public, Audience::Operations];
        let password = platform_password.reveal();
        let admin_token =
            self.token(&platform, PLATFORM_ADMIN_EMAIL, Role::PlatformAdmin, password, audiences).await?;
        Ok(Demo { access_token, admin_token })
    }

    async fn tenant(&self) -> anyhow::Result<Arc<TenantRecord>> {
        let store = self.executor.store();
        let slug = TenantSlug::parse(TENANT_SLUG).expect("a valid slug");
        if let Some(record) = store.tenant_by_slug(&slug).await? {
            return Ok(record);
        }
        let command = TenantRegistration {
            slug: slug.clone(),
            name: Name::parse("Demo").expect("a valid name"),
            tier: Tier::Pro,
            registration: Registration::Open,
            organisation: TenantOrganisation::default(),
        };
        register_tenant(self.executor, &context(ids::PLATFORM), command, None).await?;
        store.tenant_by_slug(&slug).await?.context("the tenant was registered and is not there")
    }

    /// A token of the user with this address. The user is registered first if it is missing.
    async fn token(
        &self,
        tenant: &TenantRecord,
        address: &str,
        role: Role,
        password: &str,
        audiences: Vec<Audience>,
    ) -> anyhow::Result<String> {
        let email = Email::parse(address).expect("a valid address");
        let name = Name::parse("Administrator").expect("a valid name");
        let known =
            self.executor.store().tenant(tenant.id).reserved_by(EMAIL.name, &email.normalised()).await?;
        let user_id = if let Some(id) = known.and_then(|stream| stream.uuid()) {
            id
        } else {
            let password = Password::parse(password).context("the demo password is not acceptable")?;
            let hash = self.passwords.hash(tenant.id, password).await?;
            register_user(self.executor, &context(tenant.id), email, name, vec![role], hash).await?.id
        };
        let user = self.executor.load::<User>(tenant.id, user_id).await?;
        let (user, _) = user.context("the demo user is not there")?;
        let grant = Grant {
            user_id,
            tenant: tenant.id,
            tenant_slug: tenant.slug.clone(),
            tier: tenant.tier,
            email: address.to_owned(),
            name: user.name.clone(),
            roles: user.roles.clone(),
            audiences,
        };
        Ok(self.tokens.issue_for(&grant, TOKEN_LIFETIME)?.access_token)
    }
}

/// Whether other machines can reach a listener on this address.
pub fn is_exposed(address: SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback()
}

/// Whether the demo tenant's administrator can sign in with the public password, or could if the tenant were not
/// suspended.
///
/// # Errors
/// When the store does not answer or the user cannot be read, or when password hashing is overloaded or cannot read the
/// stored hash.
pub async fn known_password(executor: &Executor, passwords: &Passwords) -> anyhow::Result<Option<Suspended>> {
    let store = executor.store();
    let slug = TenantSlug::parse(TENANT_SLUG).expect("a valid slug");
    let Some(record) = store.tenant_by_slug(&slug).await? else { return Ok(None) };
    let tenant = store.tenant(record.id);
    let email = Email::parse(ADMIN_EMAIL).expect("a valid address");
    let Some(stream) = tenant.reserved_by(EMAIL.name, &email.normalised()).await? else { return Ok(None) };
    let (Some(id), Some(hash)) = (stream.uuid(), tenant.secret(&stream, PASSWORD_SECRET).await?) else {
        return Ok(None);
    };
    let user = executor.load::<User>(record.id, id).await?;
    let active = user.is_some_and(|(user, _)| user.status != UserStatus::Deactivated);
    let works =
        active && passwords.verify(record.id, Password::for_sign_in(ADMIN_PASSWORD), Some(&hash)).await?;
    Ok(works.then_some(Suspended(record.suspended)))
}

/// Whether the demo tenant is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspended(pub bool);

fn context(tenant: schemas::engine::TenantId) -> CommandContext {
    CommandContext::new(tenant, Principal::system("dev"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_but_loopback_ones_is_exposed() {
        let exposed = |address: &str| is_exposed(address.parse().expect("an address"));
        for address in ["127.0.0.1:8080", "127.3.2.1:0", "[::1]:8080", "[::ffff:127.0.0.1]:80"] {
            assert!(!exposed(address), "{address}");
        }
        for address in
            ["0.0.0.0:8080", "[::]:8080", "192.0.2.7:80", "[2001:db8::1]:80", "[::ffff:192.0.2.7]:80"]
        {
            assert!(exposed(address), "{address}");
        }
    }
}
