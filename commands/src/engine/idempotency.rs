//! Idempotency keys of clients, and the receipt keys derived from them.
//!
//! A key belongs to a tenant and a principal: a user or a service, with any token. All anonymous callers share one
//! principal.
//! Two principals may use the same key independently.
//! The receipt is stored under the receipt key, which is derived from both. Events record the client's key as command
//! id.

use access::Principal;
use schemas::engine::ids;
use store::{AppendError, IdempotencyClaim};
use uuid::Uuid;

use super::context::CommandContext;

/// The key of the receipt of a principal's command.
///
/// For parts of the product it is the command id itself: these ids are already derived from the triggering event and
/// unique. Receipts from before receipt keys existed are also found this way.
pub fn receipt_key(caller: &Principal, key: Uuid) -> Uuid {
    if caller.is_system() {
        key
    } else {
        ids::derived_id(key, &format!("principal/{}", caller.actor().as_str()))
    }
}

/// The claim of a principal to its key, for the request with this digest.
///
/// # Errors
/// [`AppendError::Invalid`] for the nil UUID, because clients send it by mistake.
pub fn claim(caller: &Principal, key: Uuid, digest: [u8; 32]) -> Result<IdempotencyClaim, AppendError> {
    if key.is_nil() {
        return Err(AppendError::Invalid("the nil UUID is no command id".to_owned()));
    }
    let receipt_key = receipt_key(caller, key);
    Ok(IdempotencyClaim {
        plain_key: (receipt_key != key).then_some(key),
        ..IdempotencyClaim::new(receipt_key, digest)
    })
}

/// The id of an aggregate that a command creates. It is derived from the receipt key, so a repeat names the same
/// aggregate and another principal's command does not. Without a key it is a new id.
pub fn new_aggregate_id(context: &CommandContext, category: &str) -> Uuid {
    match context.command_id {
        Some(key) => ids::derived_id(receipt_key(&context.caller, key), category),
        None => ids::new_id(),
    }
}

#[cfg(test)]
mod tests {
    use schemas::identity::role::Role;

    use super::*;

    fn user(id: u128) -> Principal {
        Principal::user(Uuid::from_u128(id), vec![Role::Member])
    }

    fn context(caller: Principal) -> CommandContext {
        CommandContext::new(ids::PLATFORM, caller)
    }

    #[test]
    fn a_key_belongs_to_its_principal_whatever_its_rights() {
        let key = Uuid::from_u128(7);
        let admin = Principal::user(Uuid::from_u128(1), vec![Role::TenantAdmin]);
        assert_eq!(receipt_key(&user(1), key), receipt_key(&admin, key));
        let keys = [
            key,
            receipt_key(&user(1), key),
            receipt_key(&user(2), key),
            receipt_key(&Principal::Anonymous, key),
            receipt_key(&user(1), Uuid::from_u128(8)),
        ];
        assert!(keys.iter().enumerate().all(|(index, key)| !keys[..index].contains(key)));
        assert_eq!(receipt_key(&Principal::saga("customer_onboarding"), key), key);
    }

    #[test]
    fn a_claim_looks_for_receipts_of_before_where_the_key_is_derived() {
        let key = Uuid::from_u128(7);
        let of = |caller: &Principal| claim(caller, key, [1; 32]).expect("a valid key");
        assert_eq!(of(&Principal::system("cli")), IdempotencyClaim::new(key, [1; 32]));
        let derived = of(&user(1));
        assert_eq!((derived.key, derived.plain_key), (receipt_key(&user(1), key), Some(key)));
    }

    #[test]
    fn the_nil_uuid_is_no_key() {
        let nil = claim(&user(1), Uuid::nil(), [1; 32]);
        assert!(matches!(nil, Err(AppendError::Invalid(_))));
    }

    #[test]
    fn a_repeated_key_names_the_same_new_aggregate_for_its_principal_alone() {
        let repeated = context(user(1)).with_command_id(Uuid::from_u128(7));
        assert_eq!(new_aggregate_id(&repeated, "crm.customer"), new_aggregate_id(&repeated, "crm.customer"));
        assert_ne!(new_aggregate_id(&repeated, "crm.customer"), new_aggregate_id(&repeated, "identity.user"));
        let other = context(user(2)).with_command_id(Uuid::from_u128(7));
        assert_ne!(new_aggregate_id(&repeated, "crm.customer"), new_aggregate_id(&other, "crm.customer"));
        let without = context(user(1));
        assert_ne!(new_aggregate_id(&without, "crm.customer"), new_aggregate_id(&without, "crm.customer"));
    }
}
