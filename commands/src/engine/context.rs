//! Who sends a command, on whose behalf, and under which ids.

use access::Principal;
use schemas::engine::{Metadata, RequestId, TenantId};
use store::{NewTenant, ReservationDigest, Secret, TenantStatusChange};
use uuid::Uuid;

/// Everything about a command but the command.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandContext {
    /// Whose log it goes to.
    pub tenant: TenantId,
    /// Who sends it. The edge has checked the token, and that its tenant is the context's.
    pub caller: Principal,
    /// The id under which a repeat is recognised, where it came from outside; else a fresh one is made.
    pub command_id: Option<Uuid>,
    /// The digest of the request that carries the command, where a repeat is recognised by the whole request: it holds more
    /// than its command, such as its route and a password.
    pub request_digest: Option<[u8; 32]>,
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
    pub fn new(tenant: TenantId, caller: Principal) -> Self {
        Self {
            tenant,
            caller,
            command_id: None,
            request_digest: None,
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
            actor: self.caller.actor(),
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
pub struct CommandSideEffects {
    /// Secrets of the aggregate's stream.
    pub secrets: Vec<Secret>,
    /// A tenant whose log opens with the events.
    pub new_tenant: Option<NewTenant>,
    /// What the aggregate's stream held and gives back.
    pub digest_releases: Vec<ReservationDigest>,
    /// A tenant that stands otherwise with the events.
    pub tenant_status: Option<TenantStatusChange>,
}
