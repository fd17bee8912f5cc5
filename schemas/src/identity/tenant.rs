//! A tenant: one business on the platform. Its events are in the log of the reserved tenant `platform`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::{Command, Name, Reason, TenantSlug};

/// What a tenant pays for. It is recorded and shown; nothing depends on it yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the plans' names")]
pub enum Tier {
    #[default]
    Free,
    Pro,
    Enterprise,
}

/// Who may register as a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Registration {
    /// Anybody.
    Open,
    /// Only those whom the tenant invites. Nobody can be invited yet, so this is the same as `closed`.
    #[default]
    Invitation,
    /// Nobody; a tenant administrator adds users.
    Closed,
}

impl Tier {
    /// The name of the tier in tokens, tables and responses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Pro => "pro",
            Self::Enterprise => "enterprise",
        }
    }
}

impl Registration {
    /// The name of the policy in tables and responses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Invitation => "invitation",
            Self::Closed => "closed",
        }
    }
}

crate::events! {
    /// What has happened to a tenant.
    pub enum TenantEvent in "identity.tenant" {
        /// The tenant came to the platform.
        "registered.v1" => Registered(TenantRegistered),
        /// The tenant is on hold: every door is closed to it.
        "suspended.v1" => Suspended(TenantSuspended),
        /// The doors are open again.
        "resumed.v1" => Resumed(TenantResumed),
    }
}

/// The tenant came to the platform; its log is open from here on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TenantRegistered {
    /// Its public name.
    pub slug: TenantSlug,
    /// Its name for people.
    pub name: Name,
    /// Its tier.
    pub tier: Tier,
    /// Who may register.
    pub registration: Registration,
    /// The organisation that owns it, where one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organisation: Option<Name>,
    /// Its business unit within the organisation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub business_unit: Option<Name>,
    /// ISO 3166-1 alpha-2, upper case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
}

/// The tenant is on hold: every door is closed to it, and in public it looks like an unknown one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct TenantSuspended {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// The doors are open again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TenantResumed {}

/// Registers a tenant and opens its log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are those of TenantRegistered")]
pub struct RegisterTenant {
    pub slug: TenantSlug,
    pub name: Name,
    #[serde(default)]
    pub tier: Tier,
    #[serde(default)]
    pub registration: Registration,
    #[serde(default)]
    pub organisation: Option<Name>,
    #[serde(default)]
    pub business_unit: Option<Name>,
    #[serde(default)]
    pub country: Option<String>,
}

impl Command for RegisterTenant {
    const NAME: &'static str = "RegisterTenant";
}

/// Puts a tenant on hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct SuspendTenant {
    #[serde(default)]
    pub reason: Option<Reason>,
}

/// Ends a tenant's hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumeTenant {}

impl Command for SuspendTenant {
    const NAME: &'static str = "SuspendTenant";
}

impl Command for ResumeTenant {
    const NAME: &'static str = "ResumeTenant";
}
