//! A tenant: one business on the platform. Its events are in the log of the reserved tenant `platform`.

use crate::engine::{Name, Reason, TenantSlug, commands, enumeration, events, value_object};

/// What a tenant pays for. It is recorded and shown; nothing depends on it yet.
#[enumeration]
pub enum Tier {
    /// Without charge.
    Free,
    /// For small businesses.
    Pro,
    /// For large businesses.
    Enterprise,
}

/// Who may register as a user.
#[enumeration]
pub enum Registration {
    /// By invitation only. Invitations do not exist yet, so this is the same as `closed`.
    Invitation,
    /// Open to everyone.
    Open,
    /// Nobody; a tenant administrator adds users.
    Closed,
}

/// The organisation that a tenant belongs to.
#[value_object]
#[derive(Default)]
pub struct TenantOrganisation {
    /// The organisation that owns it, where one does.
    pub organisation: Option<Name>,
    /// Its business unit within the organisation.
    pub business_unit: Option<Name>,
    /// The country of the business, ISO 3166-1 alpha-2.
    pub country: Option<String>,
}

/// What has happened to a tenant.
#[events("identity.tenant")]
pub enum TenantEvent {
    /// The tenant came to the platform; its log is open from here on.
    #[event("registered.v1")]
    Registered {
        /// Its public name.
        slug: TenantSlug,
        /// Its name for people.
        name: Name,
        /// Its tier.
        tier: Tier,
        /// Who may register.
        registration: Registration,
        #[flatten]
        organisation: TenantOrganisation,
    },
    /// The tenant was suspended. All its requests are refused.
    #[event("suspended.v1")]
    Suspended { reason: Option<Reason> },
    /// The tenant was resumed. Its requests are answered again.
    #[event("resumed.v1")]
    Resumed {},
}

/// The commands of a tenant.
#[commands]
pub enum TenantCommand {
    /// Registers a tenant and opens its log.
    #[creates]
    #[internal]
    RegisterTenant {
        slug: TenantSlug,
        name: Name,
        #[serde(default)]
        tier: Tier,
        #[serde(default)]
        registration: Registration,
        #[flatten]
        organisation: TenantOrganisation,
    },
    /// Suspends a tenant: every request of it is refused.
    #[internal]
    SuspendTenant { reason: Option<Reason> },
    /// Ends the suspension of a tenant.
    #[internal]
    ResumeTenant {},
}
