//! Who sends a command, on whose behalf, and under which ids.

use schemas::engine::{Actor, Metadata, RequestId, TenantId, ids};
use schemas::identity::role::Role;
use store::{HeldValue, NewStanding, NewTenant, Secret};
use uuid::Uuid;

/// Who sends a command. The edge vouches for it: it has checked the token and that its tenant is the context's.
#[derive(Debug, Clone, PartialEq)]
pub struct Caller {
    /// Recorded with the events.
    pub actor: Actor,
    /// The signed-in user, where one is.
    pub user_id: Option<Uuid>,
    /// What the caller may do, by role.
    pub roles: Vec<Role>,
    /// What the caller may do, by scope.
    pub scopes: Vec<String>,
}

impl Caller {
    /// A signed-in user with the scopes of its roles.
    pub fn user(id: Uuid, roles: Vec<Role>) -> Self {
        let scopes = roles.iter().flat_map(|role| role.scopes()).map(|scope| (*scope).to_owned()).collect();
        Self { actor: Actor::user(id), user_id: Some(id), roles, scopes }
    }

    /// Somebody not signed in.
    pub fn anonymous() -> Self {
        Self { actor: Actor::anonymous(), user_id: None, roles: Vec::new(), scopes: Vec::new() }
    }

    /// A part of the product, which may do everything: `cli`, `saga:customer_onboarding`.
    pub fn system(part: &str) -> Self {
        let actor = if part.contains(':') { Actor::recorded(part) } else { Actor::system(part) };
        Self { actor, user_id: None, roles: Vec::new(), scopes: Vec::new() }
    }

    /// Whether this is a part of the product. The edge makes actors of users and of nobody only.
    pub fn is_system(&self) -> bool {
        ["saga:", "system:"].iter().any(|prefix| self.actor.as_str().starts_with(prefix))
    }

    /// Whether nobody is signed in.
    pub fn is_anonymous(&self) -> bool {
        self.actor == Actor::anonymous()
    }
}

/// Everything about a command but the command.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandContext {
    /// Whose log it goes to.
    pub tenant: TenantId,
    /// Who sends it.
    pub caller: Caller,
    /// The id under which a repeat is recognised, where it came from outside; else a fresh one is made.
    pub command_id: Option<Uuid>,
    /// The version that the caller believes the aggregate to be at.
    pub expected_version: Option<u64>,
    /// The request that carries the command.
    pub request_id: Option<RequestId>,
    /// W3C Trace Context of the request.
    pub traceparent: Option<String>,
    /// Shared by everything that one outside request sets off; the command id where absent.
    pub correlation_id: Option<Uuid>,
    /// The event that led to the command.
    pub causation_id: Option<Uuid>,
}

impl CommandContext {
    /// A context with a tenant and a caller and nothing else.
    pub fn new(tenant: TenantId, caller: Caller) -> Self {
        Self {
            tenant,
            caller,
            command_id: None,
            expected_version: None,
            request_id: None,
            traceparent: None,
            correlation_id: None,
            causation_id: None,
        }
    }

    /// The same context under a command id from outside.
    #[must_use]
    pub fn with_command_id(self, command_id: Uuid) -> Self {
        Self { command_id: Some(command_id), ..self }
    }

    /// The same context with a version that the caller expects.
    #[must_use]
    pub fn with_expected_version(self, version: u64) -> Self {
        Self { expected_version: Some(version), ..self }
    }

    /// What is recorded beside the events of this command.
    pub(crate) fn metadata(&self, command_id: Uuid) -> Metadata {
        Metadata {
            actor: self.caller.actor.clone(),
            command_id,
            correlation_id: self.correlation_id.unwrap_or(command_id),
            causation_id: self.causation_id,
            request_id: self.request_id.clone(),
            traceparent: self.traceparent.clone(),
        }
    }
}

/// What is written in the same transaction as a command's events without standing in them.
#[derive(Debug, Clone, Default)]
pub struct Extras {
    /// Secrets of the aggregate's stream.
    pub secrets: Vec<Secret>,
    /// A tenant whose log opens with the events.
    pub opens: Option<NewTenant>,
    /// What the aggregate's stream held and gives back.
    pub frees: Vec<HeldValue>,
    /// A tenant that stands otherwise with the events.
    pub standing: Option<NewStanding>,
}

/// The id of an aggregate that a command is to create: derived from the caller's command id, so that a repeat names the
/// same aggregate; a fresh one where the caller gave none.
pub fn new_aggregate_id(context: &CommandContext, category: &str) -> Uuid {
    context.command_id.map_or_else(ids::new_id, |command_id| ids::derived_id(command_id, category))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_command_id_names_the_same_new_aggregate() {
        let context = CommandContext::new(ids::PLATFORM, Caller::anonymous());
        let repeated = context.clone().with_command_id(Uuid::from_u128(7));
        assert_eq!(new_aggregate_id(&repeated, "crm.customer"), new_aggregate_id(&repeated, "crm.customer"));
        assert_ne!(new_aggregate_id(&repeated, "crm.customer"), new_aggregate_id(&repeated, "identity.user"));
        assert_ne!(new_aggregate_id(&context, "crm.customer"), new_aggregate_id(&context, "crm.customer"));
    }

    #[test]
    fn only_parts_of_the_product_are_system_callers() {
        assert!(Caller::system("cli").is_system());
        assert!(Caller::system("saga:customer_onboarding").is_system());
        assert!(!Caller::user(Uuid::from_u128(1), vec![Role::PlatformAdmin]).is_system());
        assert!(!Caller::anonymous().is_system());
    }
}
