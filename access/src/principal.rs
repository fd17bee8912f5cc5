//! The caller of a command or a read.

use schemas::engine::Actor;
use schemas::identity::role::Role;
use schemas::identity::scope::Scope;
use schemas::integration::names::ExternalCategory;
use uuid::Uuid;

/// A part of the product that acts without a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SystemPart {
    /// A saga, by the name of its process.
    Saga(String),
    /// Another part, such as `cli`.
    Named(&'static str),
}

/// The verified caller. The value grants rights.
/// Only code that verified a token, or the product itself, may create one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// A part of the product. It may send every command.
    System(SystemPart),
    /// A signed-in user of the tenant.
    User {
        /// The user.
        id: Uuid,
        /// Its roles in the tenant.
        roles: Vec<Role>,
        /// The scopes of its roles.
        scopes: Vec<Scope>,
    },
    /// A service of the tenant with its own token. It has no roles.
    Service {
        /// The id of the token; no user has the same id.
        id: Uuid,
        /// The scopes of the token.
        scopes: Vec<Scope>,
    },
    /// A signed-in operator of the platform, on the admin listener.
    Operator {
        /// The user of the tenant `platform`.
        id: Uuid,
    },
    /// A caller that is not signed in.
    Anonymous,
}

impl Principal {
    /// A signed-in user with the scopes of its roles.
    pub fn user(id: Uuid, roles: Vec<Role>) -> Self {
        let mut scopes: Vec<Scope> = roles.iter().flat_map(|role| role.scopes()).cloned().collect();
        scopes.sort_unstable();
        scopes.dedup();
        Self::User { id, roles, scopes }
    }

    /// A part of the product with this name.
    pub fn system(part: &'static str) -> Self {
        Self::System(SystemPart::Named(part))
    }

    /// A saga with the name of its process.
    pub fn saga(process: impl Into<String>) -> Self {
        Self::System(SystemPart::Saga(process.into()))
    }

    /// The actor that events and the activity log record.
    pub fn actor(&self) -> Actor {
        match self {
            Self::System(SystemPart::Saga(process)) => Actor::saga(process),
            Self::System(SystemPart::Named(part)) => Actor::system(part),
            Self::User { id, .. } | Self::Operator { id } => Actor::user(*id),
            Self::Service { id, .. } => Actor::service(*id),
            Self::Anonymous => Actor::anonymous(),
        }
    }

    /// The id of the signed-in user, if the caller is one.
    pub fn user_id(&self) -> Option<Uuid> {
        match self {
            Self::User { id, .. } | Self::Operator { id } => Some(*id),
            Self::System(_) | Self::Service { .. } | Self::Anonymous => None,
        }
    }

    /// Whether the caller is a part of the product.
    pub fn is_system(&self) -> bool {
        matches!(self, Self::System(_))
    }

    /// Whether the caller holds the role. A service holds none.
    pub fn has_role(&self, role: Role) -> bool {
        matches!(self, Self::User { roles, .. } if roles.contains(&role))
    }

    /// Whether the caller holds the scope.
    pub fn has_scope(&self, scope: &Scope) -> bool {
        match self {
            Self::User { scopes, .. } | Self::Service { scopes, .. } => scopes.contains(scope),
            Self::System(_) | Self::Operator { .. } | Self::Anonymous => false,
        }
    }

    /// Whether reads of the caller are recorded as accesses of an auditor.
    /// That holds for users with the role, and for services whose token reads proofs.
    pub fn is_auditor(&self) -> bool {
        match self {
            Self::User { roles, .. } => roles.contains(&Role::Auditor),
            Self::Service { scopes, .. } => scopes.contains(&Scope::AuditRead),
            Self::System(_) | Self::Operator { .. } | Self::Anonymous => false,
        }
    }

    /// Whether the caller may append events to streams of this category.
    pub fn may_append(&self, category: &ExternalCategory) -> bool {
        self.is_system()
            || self.has_role(Role::TenantAdmin)
            || self.has_scope(&Scope::EventsAppend(category.clone()))
    }

    /// Whether the caller may register event types of this category.
    pub fn may_register_types(&self, category: &ExternalCategory) -> bool {
        self.is_system()
            || self.has_role(Role::TenantAdmin)
            || self.has_scope(&Scope::EventTypesWrite(category.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_actor_is_called_gives_no_right() {
        // The name of a service or user does not make it a part of the product.
        let service = Principal::Service { id: Uuid::from_u128(1), scopes: Vec::new() };
        assert!(!service.is_system() && !Principal::Anonymous.is_system());
        assert!(Principal::saga("customer_onboarding").is_system());
        assert_eq!(Principal::saga("customer_onboarding").actor().as_str(), "saga:customer_onboarding");
        assert_eq!(Principal::system("cli").actor().as_str(), "system:cli");
    }

    #[test]
    fn a_scope_is_good_for_its_category_alone() {
        let category = |text| ExternalCategory::parse(text).expect("valid");
        let scopes = vec![Scope::EventsAppend(category("ext.loyalty.account"))];
        let service = Principal::Service { id: Uuid::from_u128(1), scopes };
        assert!(service.may_append(&category("ext.loyalty.account")));
        for other in ["ext.loyalty.accounts", "ext.loyalty.tier", "ext.shop.account"] {
            assert!(!service.may_append(&category(other)), "{other}");
        }
        assert!(!service.may_register_types(&category("ext.loyalty.account")));
        let member = Principal::user(Uuid::from_u128(2), vec![Role::Member]);
        assert!(!member.may_append(&category("ext.loyalty.account")));
        let admin = Principal::user(Uuid::from_u128(3), vec![Role::TenantAdmin]);
        assert!(admin.may_append(&category("ext.loyalty.account")));
    }
}
