//! A user as REST shows it.

use commands::User;
use schemas::engine::TenantSlug;
use schemas::identity::role::Role;
use schemas::identity::tenant::Tier;
use serde::Serialize;
use uuid::Uuid;

/// A user, as registration answers.
#[derive(Debug, Serialize)]
pub struct UserBody {
    id: Uuid,
    tenant_id: TenantSlug,
    email: String,
    name: String,
    roles: Vec<Role>,
}

impl UserBody {
    /// The user `id` of the tenant, as its events have made it.
    pub fn new(id: Uuid, tenant: &TenantSlug, user: &User) -> Self {
        Self {
            id,
            tenant_id: tenant.clone(),
            email: user.email.clone(),
            name: user.name.clone(),
            roles: user.roles.clone(),
        }
    }
}

/// A signed-in user, as login and `me` answer.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the public contract")]
pub struct SignedInBody {
    pub id: Uuid,
    pub tenant_id: TenantSlug,
    pub email: String,
    pub name: String,
    pub roles: Vec<Role>,
    pub scopes: Vec<String>,
    pub subscription_tier: Tier,
}
