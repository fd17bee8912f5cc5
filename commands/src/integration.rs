//! Integration: the rules of external event types and service tokens, and the use case of recording external events.

pub mod appending;
pub mod event_type;
pub mod json_schema;
pub mod service_token;
pub mod widening;

use schemas::identity::role::Role;
use schemas::integration::names::ExternalCategory;

use crate::engine::context::Caller;

/// Whether the caller runs the tenant, or holds the scope for this category.
fn may(caller: &Caller, scope: &str, category: &ExternalCategory) -> bool {
    let of_category = |held: &String| held.strip_prefix(scope) == Some(category.as_str());
    caller.is_system() || caller.roles.contains(&Role::TenantAdmin) || caller.scopes.iter().any(of_category)
}

#[cfg(test)]
mod tests {
    use schemas::integration::service_token::{APPEND, WRITE_TYPES};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_scope_is_good_for_its_category_alone() {
        let category = |text| ExternalCategory::parse(text).expect("valid");
        let mut service = Caller::user(Uuid::from_u128(1), vec![Role::Integrator]);
        service.scopes = vec![format!("{APPEND}ext.loyalty.account")];
        assert!(may(&service, APPEND, &category("ext.loyalty.account")));
        for other in ["ext.loyalty.accounts", "ext.loyalty.tier", "ext.shop.account"] {
            assert!(!may(&service, APPEND, &category(other)), "{other}");
        }
        assert!(!may(&service, WRITE_TYPES, &category("ext.loyalty.account")));
        let member = Caller::user(Uuid::from_u128(2), vec![Role::Member]);
        assert!(!may(&member, APPEND, &category("ext.loyalty.account")));
        let admin = Caller::user(Uuid::from_u128(3), vec![Role::TenantAdmin]);
        assert!(may(&admin, APPEND, &category("ext.loyalty.account")));
    }
}
