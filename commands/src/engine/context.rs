//! The context of a command: its caller, its tenant and its ids.

use access::Principal;
use schemas::engine::{Metadata, RequestId, TenantId};
use store::{NewTenant, ReservationDigest, Secret, TenantStatusChange};
use uuid::Uuid;

/// Everything about a request except the command itself.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandContext {
    /// The tenant whose log records the events.
    pub tenant: TenantId,
    /// The verified caller. The API has checked the token, and that its tenant is this tenant.
    pub caller: Principal,
    /// The client's idempotency key; a repeat with it is recognised. Without one a new id is made.
    pub command_id: Option<Uuid>,
    /// The digest of the whole request, if a repeat is recognised by the request and not by its command. The request
    /// may contain more than the command, such as its route and a password.
    pub request_digest: Option<[u8; 32]>,
    /// The version of the aggregate that the caller expects.
    pub expected_version: Option<u64>,
    /// The id of the HTTP request.
    pub request_id: Option<RequestId>,
    /// W3C Trace Context of the request.
    pub traceparent: Option<String>,
    /// Shared by all events and commands that one outside request causes; the command id if absent.
    pub correlation_id: Option<Uuid>,
    /// The event that caused the command.
    pub causation_id: Option<Uuid>,
}

impl CommandContext {
    /// A context with a tenant and a caller; all other fields are empty.
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

    /// The same context with a command id from a client.
    #[must_use]
    pub fn with_command_id(self, command_id: Uuid) -> Self {
        Self { command_id: Some(command_id), ..self }
    }

    /// The same context with an expected version.
    #[must_use]
    pub fn with_expected_version(self, version: u64) -> Self {
        Self { expected_version: Some(version), ..self }
    }

    /// The metadata of the events of this command.
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

/// Writes in the same transaction as a command's events that are not part of the events.
#[derive(Debug, Clone, Default)]
pub struct CommandSideEffects {
    /// Secrets of the aggregate's stream.
    pub secrets: Vec<Secret>,
    /// A tenant to create; the events open its log.
    pub new_tenant: Option<NewTenant>,
    /// Reservations of the aggregate's stream to release.
    pub digest_releases: Vec<ReservationDigest>,
    /// A change of a tenant's status.
    pub tenant_status: Option<TenantStatusChange>,
}
